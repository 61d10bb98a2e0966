"""The demo: what it shows on the virtual device, when that stands in, and faults not hidden."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from pyferrum_kv import CudaContext
from pyferrum_kv.cli import demo, main
from pyferrum_kv.cli.demonstration import VIRTUAL, Appended, Decoded
from pyferrum_kv.cli.terminal import Terminal
from pyferrum_kv.cli.timing import Timed
from pyferrum_kv.errors import DriverNotFound


class NoDriver:
    """What the bindings do on a machine without libcuda."""

    def cuInit(self, flags: int) -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")


SOUND = demo.Report(
    driver="cuda",
    driver_absent="",
    device="a device",
    compute_capability=(9, 0),
    shape=VIRTUAL,
    appended=Appended(num_tokens=1024, different_codes=0, different_scales=0),
    decoded=[Decoded(kv_len=17, max_abs_error=2e-4, relative_l2=2e-4)],
    fp16_bytes=VIRTUAL.layout.fp16_bytes,
    int8_bytes=VIRTUAL.layout.total_bytes,
    timed=[],
)


def shown(report: demo.Report) -> str:
    out = io.StringIO()
    demo.show(report, Terminal(out), as_json=False)
    return out.getvalue()


@pytest.mark.slow
def test_it_holds_on_the_virtual_device_and_shows_no_times(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["demo", "--driver", "virtual"]) == 0
    text = capsys.readouterr().out
    assert "524,288 codes and 4,096 scales are bit-equal" in text
    assert "49.2% saved" in text
    assert "GB/s" not in text
    assert text.endswith("Everything holds.\n")


@pytest.mark.slow
def test_json_holds_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--driver", "virtual", "--seed", "3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["holds"] is True
    assert [decoded["kv_len"] for decoded in document["decoded"]] == list(VIRTUAL.kv_lens)
    assert document["timed"] == []


def test_the_virtual_device_stands_in_for_an_absent_driver_only_if_none_was_asked_for() -> None:
    ctx, absent = demo.open_device(NoDriver(), fall_back=True)
    assert ctx.api.name == "virtual"
    assert "libcuda.so.1" in absent
    with pytest.raises(DriverNotFound):
        demo.open_device(NoDriver(), fall_back=False)


def test_a_driver_that_was_asked_for_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(ordinal: int = 0, *, driver: object = None) -> CudaContext:
        raise DriverNotFound("no libcuda here")

    monkeypatch.setattr(CudaContext, "new", absent)
    assert main(["demo", "--driver", "cuda"]) == 3
    assert capsys.readouterr().err == "pyferrum-kv demo: no libcuda here\n"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"appended": Appended(1024, 3, 1)}, "FAIL 1,024 tokens 3 codes, 1 scales differ"),
        ({"decoded": [Decoded(17, 2e-3, 1e-4)]}, "FAIL 17 2.0e-03 1.0e-04"),
        ({"decoded": [Decoded(17, 1e-4, 6e-4)]}, "FAIL 17 1.0e-04 6.0e-04"),
        ({"decoded": [Decoded(17, float("nan"), float("nan"))]}, "FAIL 17 nan nan"),
    ],
)
def test_a_fault_is_marked_and_the_last_line_says_so(fault: dict[str, object], said: str) -> None:
    report = replace(SOUND, **fault)  # type: ignore[arg-type]
    assert not report.holds
    assert said in [" ".join(line.split()) for line in shown(report).splitlines()]
    assert shown(report).endswith("Something does not hold: see FAIL above.\n")


def test_times_come_with_the_bandwidth_that_they_mean() -> None:
    timed = Timed("decode", num_tokens=1000, us=10.0, bytes_moved=20_000_000)
    assert timed.gb_per_s == 2000
    text = shown(replace(SOUND, timed=[timed]))
    assert text.splitlines()[-3].split() == ["decode", "1,000", "10.0", "2,000"]
