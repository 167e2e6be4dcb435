// The open-epoch record: what the worst visit of a sample in the current epoch was, in one word.
//
//   record: int64 [num_samples], kNoVisit where the sample was not visited yet
//
//   bit 63 62          48 47         30 29      15 14       0        (of record ^ 2^63, unsigned)
//      | how wrong: key  | class       | loss     | EL2N     |
//        16 bits           18 bits       15 bits    15 bits
//
//   key    order-preserving image of  -margin = largest other logit - label's logit,  as fp16:
//            misclassified   0x8000 | fp16(-margin)        bit 63 alone says "misclassified"
//            memorized       0x7fff - fp16(margin)
//            a NaN in the row  0xffff                      worse than everything, no class
//   class  the predicted one, in [0, 2^18)
//   loss   cross-entropy in nats, fp16 without its sign, which is always +
//   EL2N   norm of (softmax - one-hot), likewise
//
// A batch is written by MAX, so the worst visit of an epoch wins as a whole: its class, loss and
// EL2N are never mixed with another's. MAX is commutative, associative and idempotent, so batches
// in any order, duplicates, replays and merges of ranks leave the same bits. The class stands above
// loss and EL2N because it is exact everywhere, while these two may differ in the last place
// between devices: which class wins must not hang on that.
#pragma once

#include <cstring>

#include "host_device.h"

namespace mild {

constexpr int kElBits = 15;
constexpr int kLossBits = 15;
constexpr int kClassBits = 18;
constexpr int kKeyBits = 16;
constexpr int kClassShift = kElBits + kLossBits;
constexpr int kKeyShift = kClassShift + kClassBits;
constexpr int64_t kMaxClasses = int64_t{1} << kClassBits;
constexpr int64_t kNoVisit = INT64_MIN;
constexpr uint32_t kHalfInfinity = 0x7c00;
static_assert(kElBits + kLossBits + kClassBits + kKeyBits == 64, "four fields fill the word");

MILD_HD uint32_t float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
MILD_HD float bits_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// fp16 of an x >= 0 (infinity included), rounded to nearest even. Selects instead of branches, so
// that a loop around it becomes vector code; integers, so that every device gives the same bits.
MILD_HD uint32_t half_of(float x) {
    const uint32_t bits = float_bits(x);
    // Below 2^-14 fp16 is a fixed-point format of step 2^-24, the step of a float near 0.5.
    const uint32_t small = float_bits(x + 0.5f) - float_bits(0.5f);
    const uint32_t normal = (bits - (uint32_t{112} << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13;
    const uint32_t finite = bits < (uint32_t{113} << 23) ? small : normal;
    return finite < kHalfInfinity && bits < (uint32_t{143} << 23) ? finite : kHalfInfinity;
}
// The value of an fp16 without sign, no NaN. Without subnormal floats on the way: these may be
// flushed to zero.
MILD_HD float half_value(uint32_t half) {
    const uint32_t shifted = half << 13;
    const float normal = bits_float(shifted + (uint32_t{112} << 23));
    const float small =
        bits_float(shifted + (uint32_t{113} << 23)) - bits_float(uint32_t{113} << 23);
    const float finite = half < 0x400u ? small : normal;
    return half >= kHalfInfinity ? bits_float(0x7f800000u) : finite;
}

// One visit. `distance` >= 0 is |margin|; the fields are as above.
struct Visit {
    bool misclassified;
    bool has_nan;
    float distance;
    uint32_t predicted;
    float loss;
    float el2n;
};

// The word of a visit whose fp16 values are at hand.
MILD_HD int64_t pack(bool misclassified, bool has_nan, uint32_t distance, uint32_t predicted,
                     uint32_t loss, uint32_t el2n) {
    const uint32_t ordered = misclassified ? 0x8000u | distance : 0x7fffu - distance;
    const uint64_t key = has_nan ? 0xffffu : ordered;
    const uint64_t word = key << kKeyShift | uint64_t{has_nan ? 0u : predicted} << kClassShift |
                          uint64_t{loss} << kElBits | el2n;
    return static_cast<int64_t>(word ^ (uint64_t{1} << 63));
}
MILD_HD int64_t pack(const Visit& visit) {
    return pack(visit.misclassified, visit.has_nan, half_of(visit.distance), visit.predicted,
                half_of(visit.loss), half_of(visit.el2n));
}

// The fields of a record that is not kNoVisit: halves of the word that fit 32 bits, so that loops
// over samples become vector code.
struct VisitFields {
    uint32_t key;
    uint32_t predicted;
    uint32_t loss;  // fp16, like EL2N
    uint32_t el2n;

    MILD_HD explicit VisitFields(int64_t record) {
        const uint64_t word = static_cast<uint64_t>(record) ^ (uint64_t{1} << 63);
        key = static_cast<uint32_t>(word >> kKeyShift);
        predicted = static_cast<uint32_t>(word >> kClassShift) & ((1u << kClassBits) - 1);
        loss = static_cast<uint32_t>(word >> kElBits) & ((1u << kLossBits) - 1);
        el2n = static_cast<uint32_t>(word) & ((1u << kElBits) - 1);
    }
};
MILD_HD bool is_misclassified(uint32_t key) { return key >= 0x8000u; }
MILD_HD bool is_nan(uint32_t key) { return key == 0xffffu; }
// |margin|; infinite with a NaN.
MILD_HD float distance_of(uint32_t key) {
    const uint32_t half = is_misclassified(key) ? key & 0x7fffu : 0x7fffu - key;
    return half_value(half < kHalfInfinity ? half : kHalfInfinity);
}

}  // namespace mild
