"""The lock that tests of the real device take: together, alone, and never starved."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from helpers.device_lock import using_device


class Visitor:
    """Uses the device on a thread, until told to leave."""

    def __init__(self, folder: Path, alone: bool) -> None:
        self.inside, self._leave = threading.Event(), threading.Event()
        self._folder, self._alone = folder, alone
        self._thread = threading.Thread(target=self._visit, daemon=True)
        self._thread.start()

    def _visit(self) -> None:
        with using_device(self._alone, self._folder):
            self.inside.set()
            self._leave.wait(30)

    def leave(self) -> None:
        self._leave.set()
        self._thread.join()


def soon(event: threading.Event) -> bool:
    return event.wait(10)


def kept_out(visitor: Visitor) -> bool:
    return not visitor.inside.wait(0.05)


def test_many_at_once(tmp_path: Path) -> None:
    visitors = [Visitor(tmp_path, alone=False) for _ in range(3)]
    assert all(soon(visitor.inside) for visitor in visitors)
    for visitor in visitors:
        visitor.leave()


def test_one_alone_keeps_everybody_out(tmp_path: Path) -> None:
    hermit = Visitor(tmp_path, alone=True)
    assert soon(hermit.inside)
    others = [Visitor(tmp_path, alone=alone) for alone in (False, True)]
    assert all(kept_out(other) for other in others)
    hermit.leave()
    for other in others:
        other.leave()
        assert other.inside.is_set()


def test_who_wants_to_be_alone_waits_only_for_those_inside(tmp_path: Path) -> None:
    first = Visitor(tmp_path, alone=False)
    assert soon(first.inside)
    hermit = Visitor(tmp_path, alone=True)
    assert kept_out(hermit)
    late = Visitor(tmp_path, alone=False)
    assert kept_out(late)
    first.leave()
    assert soon(hermit.inside)
    assert kept_out(late)
    hermit.leave()
    assert soon(late.inside)
    late.leave()


def test_a_failing_test_gives_the_device_back(tmp_path: Path) -> None:
    for alone in (False, True):
        with pytest.raises(RuntimeError), using_device(alone, tmp_path):
            raise RuntimeError
    visitor = Visitor(tmp_path, alone=True)
    assert soon(visitor.inside)
    visitor.leave()
