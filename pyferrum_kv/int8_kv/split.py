"""Into how many splits paged_decode_attention_int8 cuts the sequences of a batch.

A CTA takes one KV head (and up to 8 of its query rows) of one sequence: batch_size * num_kv_heads *
row_tiles of them. The device holds `num_sms * CTAS_PER_SM` at once. Where there are fewer,
sequences are cut into splits that run side by side and whose states are merged; where there are
more, the last wave may be nearly empty, and a cut evens it out. A split costs a merge, so the
smallest number that comes within 15 % of the best occupancy is taken, and no split is planned
shorter than 64 tokens.

132 SMs hold 396 CTAs. With 8 KV heads and 4 query heads to each:

    batch  1     8 CTAs   43 splits  344 of 396 places; 49 would fill 392, but cost 6 merges more
    batch 16   128 CTAs    3 splits  384 of 396
    batch 64   512 CTAs    2 splits  1024 of 1188, where 1 split would fill 512 of 792

What is not known here is how long each sequence is: a kernel cuts each by its own length, and a
split without tokens ends at once. In deterministic mode every split has DETERMINISTIC_SPLIT_LEN
tokens instead, so that the cut, and with it the order of additions, is the same in every batch.
"""

from __future__ import annotations

CTAS_PER_SM = 3
TILE_TOKENS = 16
MIN_SPLIT_TOKENS = 64
MAX_SPLITS = 128
DETERMINISTIC_SPLIT_LEN = 1024


def choose_num_splits(num_ctas: int, max_kv_len: int, num_sms: int, *, most: int) -> int:
    """Splits for `num_ctas` CTAs a split, at least 1 and at most `most`."""
    places = max(num_sms, 1) * CTAS_PER_SM
    most = max(1, min(most, MAX_SPLITS, max_kv_len // MIN_SPLIT_TOKENS))

    def occupancy(num_splits: int) -> float:
        work = num_ctas * num_splits
        waves = -(-work // places)
        return work / (waves * places)

    best = max(occupancy(n) for n in range(1, most + 1))
    return next(n for n in range(1, most + 1) if occupancy(n) >= 0.85 * best)


def deterministic_num_splits(max_kv_len: int, split_len: int) -> int:
    """Splits of `split_len` tokens that cover max_kv_len."""
    return max(1, -(-max_kv_len // split_len))
