// One pass over one row of logits: is the label its argmax?
//
//   memorized  <=>  x[j] <  x[label]  for every j < label     (the first maximum wins)
//              and  x[j] <= x[label]  for every j >= label
//
// No argmax is needed, only comparisons with one value, and a comparison with NaN is false: any NaN
// in the row means misclassified, without a test of its own. Both conditions are ANDs over j, so a
// row can be cut into parts (blocks, lanes) in any way and the parts' answers ANDed.
//
// Types: double and float as they are. half and bfloat16 are compared as integers, without
// conversion:
//
//   bits  s mmmmmmmmmmmmmmm  ->  key = s ? -m : m          (-0 and +0 both give 0)
//   the order of keys is the order of the numbers; keys beyond the infinities are the NaNs.
#pragma once

#include "host_device.h"

namespace mild {

struct Half {
    static constexpr int16_t infinity = 0x7c00;
    int16_t bits;
};
struct BFloat16 {
    static constexpr int16_t infinity = 0x7f80;
    int16_t bits;
};
static_assert(sizeof(Half) == 2 && sizeof(BFloat16) == 2, "they alias torch's storage");

// What is known of the label's logit, and the two comparisons with it.
template <class T>
struct LabelLogit {
    T value;
    MILD_HD explicit LabelLogit(T x) : value(x) {}
    MILD_HD bool above(T x) const { return x < value; }
    MILD_HD bool at_least(T x) const { return x <= value; }
};

template <class T>
struct LabelLogit16 {
    int16_t value;
    MILD_HD static int16_t key(T x) {
        const int sign = x.bits >> 15;  // 0 or -1
        return static_cast<int16_t>(((x.bits & 0x7fff) ^ sign) - sign);
    }
    // A NaN becomes a value below every key that passes, so that it loses every comparison.
    MILD_HD explicit LabelLogit16(T x) : value(key(x)) {
        if (value > T::infinity) value = INT16_MIN;
    }
    MILD_HD bool above(T x) const {
        const int16_t k = key(x);
        return (k >= -T::infinity) & (k < value);
    }
    MILD_HD bool at_least(T x) const {
        const int16_t k = key(x);
        return (k >= -T::infinity) & (k <= value);
    }
};
template <>
struct LabelLogit<Half> : LabelLogit16<Half> {
    using LabelLogit16::LabelLogit16;
};
template <>
struct LabelLogit<BFloat16> : LabelLogit16<BFloat16> {
    using LabelLogit16::LabelLogit16;
};

}  // namespace mild
