"""How a batch is shared out evenly: workers, and the KV heads that a CTA of a worker takes.

Many heads a CTA read whole rows of the cache; few heads leave more workers, so that few sequences
still fill the device. A sequence is best read by few workers, since each leaves a state to be
merged, and a worker that holds many short sequences ends each of them alone. So: the fewest heads
a CTA, a power of two, that leave no fewer workers than sequences, and no more than MAX_HEADS, which
would leave one long sequence among short ones to few CTAs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pyferrum_kv.int8_kv.plan import STATE_PADDING, DecodeShape
from pyferrum_kv.int8_kv.split import deterministic_num_splits

MAX_HEADS = 4
SPARE_WORKERS = 8
"""One worker in so many may be left out to make their number a multiple of the batch."""


class Shares(NamedTuple):
    """A batch cut into `workers` equal shares, its KV heads into `head_groups` of `heads`."""

    heads: int
    head_groups: int
    workers: int
    num_splits: int
    workspace_floats: int
    num_counters: int

    @classmethod
    def of(
        cls,
        shape: DecodeShape,
        row_tiles: int,
        places: int,
        heads_range: tuple[int, int],
        step_tokens: Callable[[int], int],
        num_splits: int,
    ) -> Shares:
        """For `places` CTAs at a time; step_tokens(heads) is the least that a worker reads.

        num_splits: cut each sequence into so many, or as many as follow for 0. A deterministic
        decode is cut by its split_len, and by the model alone.
        """
        batch_size = max(shape.batch_size, 1)
        if shape.split_len:
            heads = 1
            workers = max(places // (shape.num_kv_heads * row_tiles), 1)
            num_splits = deterministic_num_splits(shape.max_kv_len, shape.split_len)
            states = shape.batch_size * num_splits
        else:
            heads, workers = heads_and_workers(shape, row_tiles, places, *heads_range)
            steps = -(-shape.max_visible // step_tokens(heads)) * shape.batch_size
            workers = num_splits * batch_size if num_splits else max(min(workers, steps), 1)
            num_splits = -(-workers // batch_size)
            states = 2 * workers
        floats_a_state = shape.num_kv_heads * shape.num_rows * (shape.head_dim + STATE_PADDING)
        return cls(
            heads=heads,
            head_groups=-(-shape.num_kv_heads // heads),
            workers=workers,
            num_splits=num_splits,
            workspace_floats=states * floats_a_state if workers > 1 or num_splits > 1 else 0,
            num_counters=shape.batch_size * shape.num_kv_heads * row_tiles,
        )


def heads_and_workers(
    shape: DecodeShape, row_tiles: int, places: int, least: int, most: int
) -> tuple[int, int]:
    """KV heads of a CTA, `least` to `most`, and workers; `places` CTAs run at a time."""
    batch_size = max(shape.batch_size, 1)
    heads = min(least, 1 << (shape.num_kv_heads - 1).bit_length())
    while True:
        groups = -(-shape.num_kv_heads // heads)
        workers = max(places // (groups * row_tiles), 1)
        if heads >= most or heads >= shape.num_kv_heads or workers >= batch_size:
            break
        heads *= 2
    if workers > batch_size and workers % batch_size <= workers // SPARE_WORKERS:
        workers -= workers % batch_size
    return heads, workers
