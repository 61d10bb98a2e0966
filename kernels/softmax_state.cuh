// softmax_state.cuh - online softmax of one query row, as a state (m, l, o) that tokens and other states fold into.
//
//   m = max over the tokens seen of s        s: the score in log2 units, logit * log2(e)
//   l = sum of 2^(s - m)
//   o = sum of 2^(s - m) * V                 not yet divided by l
//
// Merging is associative and (lowest, 0, 0) is its identity, so lanes, warps and CTAs fold with the same function,
// in any grouping. m starts at -FLT_MAX and not at -inf: then m - m is never NaN, and a masked token (s = -inf)
// weighs 0 against any m. A NaN score leaves m alone and makes l and o NaN: poison reaches the output.
//
//   finish:  out = o / l,  lse = m * ln 2 + ln l    an empty state gives 0 and -inf
#pragma once
#include "types.cuh"

struct SoftmaxState {
    f32 m;
    f32 l;

    DEVICE_MEMBER void init() {
        m = LOWEST_F32;
        l = 0.0f;
    }
    // Raise m to cover score `s`; what was summed so far, l and the caller's o, shrinks by the factor returned.
    DEVICE_MEMBER f32 raise(f32 s) {
        f32 raised = fmaxf(m, s);
        f32 factor = exp2_approx(m - raised);
        m = raised;
        l *= factor;
        return factor;
    }
    DEVICE_MEMBER f32 weight(f32 s) const { return exp2_approx(s - m); }
    // Fold `other` in: o = o * own + other.o * theirs.
    DEVICE_MEMBER void merge(const SoftmaxState& other, f32& own, f32& theirs) {
        own = raise(other.m);
        theirs = exp2_approx(other.m - m);
        l += other.l * theirs;
    }
    // l is 0 only for a row that saw no token; NaN compares unequal to 0 and passes through.
    DEVICE_MEMBER f32 inverse_sum() const { return l == 0.0f ? 0.0f : 1.0f / l; }
    DEVICE_MEMBER f32 lse() const { return l == 0.0f ? -INFINITY_F32 : m * LN_2 + log2_approx(l) * LN_2; }
};
