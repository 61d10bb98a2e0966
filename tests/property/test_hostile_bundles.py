"""Whatever bytes come in, a bundle and a PTX text are read or refused by an error of ours."""

from __future__ import annotations

import json
from typing import Any

from helpers.bundles import SAXPY_PTX, saxpy_manifest
from hypothesis import given
from hypothesis import strategies as st

from pyferrum_kv.bundle.manifest import Manifest, read_manifest
from pyferrum_kv.bundle.write import manifest_bytes
from pyferrum_kv.errors import BundleCorrupt
from pyferrum_kv.ptx_reader import PtxInfo, PtxSyntaxError, read_ptx

RAW = manifest_bytes(saxpy_manifest())
PTX = SAXPY_PTX.format(target="sm_80")
PIECES = (
    *(".entry k", ".param .u32 a", ".param .align 8 .b8 s[", ".maxntid 9", ".shared .b8 x[4]"),
    *(".version 8.0", "/*", "*/", "//", '"', "\n", "\0", *"(){}[],;"),
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def read_or_refuse(raw: bytes) -> Manifest | None:
    try:
        return read_manifest(raw)
    except BundleCorrupt as refused:
        message = str(refused)
    assert message.startswith("manifest.json: ")
    assert len(message) < 2000
    return None


@given(st.binary(max_size=200))
def test_any_bytes_as_a_manifest(raw: bytes) -> None:
    assert read_or_refuse(raw) is None


@given(st.integers(0, len(RAW) - 1), st.binary(max_size=8))
def test_a_manifest_with_some_bytes_overwritten(at: int, patch: bytes) -> None:
    read_or_refuse(RAW[:at] + patch + RAW[at + len(patch) :])


@given(st.data(), values)
def test_a_manifest_with_one_value_replaced(data: st.DataObject, value: object) -> None:
    document = json.loads(RAW)
    place: Any = document
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    read_or_refuse(json.dumps(document).encode())


def parse_or_refuse(text: str) -> PtxInfo | None:
    try:
        return read_ptx(text)
    except PtxSyntaxError as refused:
        line = refused.line
    assert 1 <= line <= text.count("\n") + 1
    return None


@given(st.text(max_size=300))
def test_any_text_as_ptx(text: str) -> None:
    parse_or_refuse(text)


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30))
def test_ptx_pieces_in_any_order(pieces: list[str]) -> None:
    parse_or_refuse(".version 8.0\n.target sm_80\n" + " ".join(pieces))


@given(st.integers(0, len(PTX)), st.integers(0, 40), st.sampled_from(PIECES))
def test_ptx_with_a_piece_in_place_of_some_text(at: int, length: int, piece: str) -> None:
    parse_or_refuse(PTX[:at] + piece + PTX[at + length :])
