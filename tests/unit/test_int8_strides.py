"""Strides: how much memory a strided tensor spans, and which strides an output may have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyferrum_kv import ArgumentError
from pyferrum_kv.int8_kv.strides import Strides

shapes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.sampled_from([8, 16]))


def offsets(strides: Strides, shape: tuple[int, int, int]) -> np.ndarray:
    t, h, d = np.ogrid[: shape[0], : shape[1], : shape[2]]
    return (t * strides.token + h * strides.head + d).ravel()


@given(shapes, st.integers(0, 70), st.integers(0, 70))
def test_the_span_ends_after_the_last_element(shape, token, head):
    strides = Strides.checked("op", "q_strides", (token, head), shape)
    assert strides.num_elements == offsets(strides, shape).max() + 1


@given(shapes, st.integers(0, 70), st.integers(0, 70))
def test_unique_strides_never_put_two_elements_in_one_place(shape, token, head):
    try:
        strides = Strides.checked("op", "out_strides", (token, head), shape, unique=True)
    except ArgumentError:
        return
    where = offsets(strides, shape)
    assert len(np.unique(where)) == len(where)


@given(shapes)
def test_contiguous_strides_are_unique_in_either_order(shape):
    tokens, _, head_dim = shape
    Strides.checked("op", "out_strides", None, shape, unique=True)
    swapped = (head_dim, tokens * head_dim)  # [heads, tokens, head_dim]
    Strides.checked("op", "out_strides", swapped, shape, unique=True)


@pytest.mark.parametrize("given_strides", [3, (1, 2, 3), (-1, 8), (8, 2.5), "ab"])
def test_refuses_what_are_no_strides(given_strides):
    with pytest.raises(ArgumentError, match="op: q_strides"):
        Strides.checked("op", "q_strides", given_strides, (2, 2, 8))
