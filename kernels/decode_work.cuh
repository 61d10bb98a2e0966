// decode_work.cuh - which tokens of which sequences a worker folds, and where the states of a cut sequence lie.
//
// A worker is a CTA of grid column blockIdx.x. Laid end to end, the visible tokens of all sequences make one list of
// units; worker w takes units [w * share, (w + 1) * share), share = ceil(units / workers). So every worker reads as
// many bytes as the others whatever the lengths are, and a sequence is cut only where a share ends.
// The part of a sequence that one worker holds is a piece.
//
//   split_len 0    a unit is a step (what the CTA reads at a time); a piece is all that the share has of a sequence
//   split_len > 0  a unit, and a piece, is split_len tokens, a power of two: the same cut, and so the same bits,
//                  whatever the batch is
//
// Each piece of a cut sequence leaves its state in a slot of the workspace. A share has at most one piece that
// continues a sequence (slot 2w) and one that begins a sequence without ending it (slot 2w + 1), so the workspace
// depends on the grid and not on the batch. With split_len: slot = sequence * num_splits + piece.
//
// Worked: 3 sequences of 10, 3 and 20 steps on 4 workers: share 9. Worker 0: 0..8 of the first; 1: 9 of the first, all
// of the second, 0..4 of the third; 2: 5..13; 3: 14..19. The third sequence has states in slots 3, 4, 6.
#pragma once
#include "mma.cuh"

struct Extent {  // of one sequence
    i32 kv_len;
    i32 step_begin, step_end;  // steps that hold a visible token
    i32 unit_begin, units;     // an empty sequence is one unit: its zeros are to be written
};

struct Piece {
    i32 sequence, kv_len;
    i32 step_begin, step_end;
    i32 num_states;              // of its sequence; 1: this piece is all of it
    i32 slot;                    // of this piece's state
    i32 first_slot, slot_stride;

    // The slot of state i; only the first piece begins the sequence, hence its odd slot.
    DEVICE_MEMBER i32 slot_of(i32 i) const { return i == 0 ? first_slot : first_slot + 1 + (i - 1) * slot_stride; }
};

struct Cursor {
    i32 share;             // units of a worker
    u32 multiplier;        // floor((2^32 - 1) / share)
    i32 unit, unit_end;    // left to do
    i32 sequence, before;  // the sequence of `unit`, and the units before that sequence

    // unit / share without a division: the multiplier gives the quotient or one less.
    DEVICE_MEMBER i32 worker_of(i32 u) const {
        const i32 quotient = (i32)__umulhi((u32)u, multiplier);
        return quotient + (u - quotient * share >= share);
    }
};

// What a warp keeps in shared memory while it folds a piece, where registers are dear.
struct Notes {
    Cursor cursor;
    Piece piece;
};

struct WorkList {
    const i32* kv_lens;
    i32 batch_size, max_kv_len, q_len, window_left, num_splits;
    i32 step_log2;  // tokens of a step
    i32 unit_log2;  // steps of a unit
    bool fixed_cut;

    DEVICE_MEMBER i32 kv_len_of(i32 b) const { return kv_lens ? max(__ldg(kv_lens + b), 0) : max_kv_len; }

    DEVICE_MEMBER Extent extent(i32 kv_len) const {
        Extent e;
        e.kv_len = kv_len;
        const i32 visible = min(e.kv_len, max_kv_len);
        const i32 first = window_left < 0 ? 0 : max(visible - q_len - window_left, 0);
        e.step_begin = first >> step_log2;
        e.step_end = (visible + (1 << step_log2) - 1) >> step_log2;
        e.unit_begin = e.step_begin >> unit_log2;
        e.units = max(((e.step_end + (1 << unit_log2) - 1) >> unit_log2) - e.unit_begin, 1);
        return e;
    }

    // How many sequences a lane counts, and its first one's length: asked for long before begin() needs it.
    DEVICE_MEMBER i32 run() const { return (batch_size + 31) >> 5; }
    DEVICE_MEMBER i32 first_kv_len() const {
        return kv_len_of(min((i32)(threadIdx.x & 31) * run(), max(batch_size - 1, 0)));
    }

    // Find this worker's share. The whole warp calls; each lane counts a run of sequences, and knows the first length.
    DEVICE_MEMBER void begin(Notes& notes, i32 kv_len) const {
        const i32 lane = threadIdx.x & 31;
        const i32 run_begin = min(lane * run(), batch_size);
        const i32 run_end = min(run_begin + run(), batch_size);
        const i32 first = run_begin < run_end ? extent(kv_len).units : 0;
        i32 mine = first;
#pragma unroll 1
        for (i32 b = run_begin + 1; b < run_end; b++) mine += extent(kv_len_of(b)).units;
        i32 through = mine;  // units of the lanes up to this one
#pragma unroll
        for (i32 apart = 1; apart < 32; apart <<= 1) {
            const i32 below = __shfl_up_sync(ALL_LANES, through, apart);
            if (lane >= apart) through += below;
        }
        const i32 total = __shfl_sync(ALL_LANES, through, 31);
        const i32 share = (i32)(((u32)total + gridDim.x - 1) / gridDim.x);
        const i32 unit = min((i32)blockIdx.x * share, total);
        const u32 past = __ballot_sync(ALL_LANES, through > unit);
        const i32 owner = past ? __ffs(past) - 1 : 0;
        if (lane == owner) {
            i32 sequence = run_begin, before = through - mine;
            if (unit < total) {
                i32 units = first;
#pragma unroll 1
                while (before + units <= unit) {
                    before += units;
                    sequence++;
                    units = extent(kv_len_of(sequence)).units;
                }
            }
            notes.cursor = {share, 0xffffffffu / (u32)max(share, 1), unit, min(unit + share, total), sequence, before};
        }
        __syncwarp();
    }

    // The next piece, also left in `notes`; false when the share is done. The whole warp calls.
    DEVICE_MEMBER bool next(Notes& notes, Piece& piece) const {
        Cursor at = notes.cursor;
        if (at.unit >= at.unit_end) return false;
        const Extent e = extent(kv_len_of(at.sequence));
        const i32 passed = at.unit - at.before;
        const i32 taken = fixed_cut ? 1 : min(e.units - passed, at.unit_end - at.unit);
        piece.sequence = at.sequence;
        piece.kv_len = e.kv_len;
        piece.step_begin = max(e.step_begin, (e.unit_begin + passed) << unit_log2);
        piece.step_end = min(e.step_end, (e.unit_begin + passed + taken) << unit_log2);
        if (fixed_cut) {
            piece.num_states = e.units;
            piece.first_slot = at.sequence * num_splits;
            piece.slot_stride = 1;
            piece.slot = piece.first_slot + passed;
        } else {
            const i32 first_worker = at.worker_of(at.before);
            piece.num_states = taken == e.units ? 1 : at.worker_of(at.before + e.units - 1) - first_worker + 1;
            piece.first_slot = 2 * first_worker + 1;
            piece.slot_stride = 2;
            piece.slot = 2 * (i32)blockIdx.x + (passed == 0);
        }
        at.unit += taken;
        if (passed + taken == e.units) {
            at.before += e.units;
            at.sequence++;
        }
        __syncwarp();
        if ((threadIdx.x & 31) == 0) notes = {at, piece};
        __syncwarp();
        return true;
    }
};
