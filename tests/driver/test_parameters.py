"""The driver's account of a kernel's parameters, held against the signature."""

from __future__ import annotations

import pytest
from helpers.fake_driver import FakeDriver

from pyferrum_kv import CudaContext, errors
from pyferrum_kv.driver.parameters import agreed
from pyferrum_kv.signature import Param, ParamKind, Signature

Places = list[tuple[int, int]]  # (offset, bytes)
MAPS: Places = [(0, 8), (8, 4), (64, 128), (192, 128), (320, 4)]  # structs aligned to 64 bytes
PTX = """\
.version 8.0
.target sm_90
.address_size 64
.visible .entry k(
    .param .u64 k_param_0,
    .param .u32 k_param_1,
    .param .align 64 .b8 k_param_2[128],
    .param .align 64 .b8 k_param_3[128],
    .param .u32 k_param_4
)
{
    ret;
}
"""


def signature(places: Places) -> Signature:
    def kind(size: int) -> ParamKind:
        return "struct" if size > 8 else "int"

    return Signature("k", tuple(Param(f"p{i}", kind(n), n, at) for i, (at, n) in enumerate(places)))


def moved(shift: int, first: int = 2, last: int = 5) -> Places:
    """MAPS, the parameters from `first` before `last` so much nearer."""
    return [(at - shift * (first <= i < last), n) for i, (at, n) in enumerate(MAPS)]


@pytest.mark.parametrize("told", [MAPS, *(moved(shift) for shift in (16, 32, 48))])
def test_structs_of_wide_alignment_may_lie_nearer_in_the_drivers_account(told: Places) -> None:
    known = signature(MAPS)
    assert agreed("k", known, signature(told)) is known


@pytest.mark.parametrize(
    "told",
    [
        moved(64),  # no alignment explains this
        moved(8),
        moved(4, 1, 2),  # a number alone
        moved(16, 2, 4),  # what follows the structs has not moved with them
        MAPS[:-1],
        [*MAPS, (324, 4)],
        [*MAPS[:-1], (320, 8)],
        [(0, 8), (8, 4), (64, 128), (176, 128), (320, 4)],
    ],
)
def test_any_other_difference_is_refused_with_both_accounts(told: Places) -> None:
    with pytest.raises(
        errors.ArgumentError, match="the signature is not the loaded code's"
    ) as said:
        agreed("k", signature(MAPS), signature(told))
    assert str(MAPS) in str(said.value)
    assert str(told) in str(said.value)


def test_a_struct_of_16_bytes_alignment_may_not_move() -> None:
    ours, told = [(0, 8), (16, 48)], [(0, 8), (32, 48)]
    with pytest.raises(errors.ArgumentError, match="not the loaded code's"):
        agreed("k", signature(ours), signature(told))


def test_one_account_alone_is_taken() -> None:
    known = signature(MAPS)
    assert agreed("k", known, None) is known
    assert agreed("k", None, known) is known
    assert agreed("k", None, None) is None


@pytest.mark.parametrize("shift", [0, 16])
def test_launches_keep_the_offsets_of_the_ptx(
    fake: FakeDriver, fake_ctx: CudaContext, shift: int
) -> None:
    fake.params = moved(shift)
    function = fake_ctx.load_module(PTX).function("k")
    assert [(p.offset, p.size_bytes) for p in function.signature.params] == MAPS
