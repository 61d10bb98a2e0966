"""Who may use the device: many tests at once, or one alone; over all processes of a test run.

A test that measures time or free memory is disturbed by others, those of pytest-xdist's workers
among them, so it is marked `alone`. Two files are locked. Everybody passes through the door; who
wants to be alone keeps it shut, and so waits only for the tests that are inside already.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(tempfile.gettempdir()) / f"pyferrum_kv-device-{os.getuid()}"


@contextmanager
def locked(path: Path, kind: int) -> Iterator[None]:
    """Hold a lock on a file until the end of the block, or of the process."""
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield


@contextmanager
def using_device(alone: bool, folder: Path = FOLDER) -> Iterator[None]:
    """Use the device in the block, alone or beside others."""
    folder.mkdir(exist_ok=True)
    door, room = folder / "door", folder / "room"
    if alone:
        with locked(door, fcntl.LOCK_EX), locked(room, fcntl.LOCK_EX):
            yield
        return
    with locked(door, fcntl.LOCK_EX), room.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        inside = os.dup(file.fileno())  # the lock lasts until this is closed
    try:
        yield
    finally:
        os.close(inside)
