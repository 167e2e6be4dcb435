// The predicted class of every sample and epoch, in bit planes, and every function of one sample's
// classes.
//
//   planes: uint32 [num_epochs, bits, ceil(num_samples / 32)]
//   code of (epoch t, sample i) = sum over b of  bit i % 32 of planes[t, b, i / 32]  << b
//
//   code 0      no class: not visited, or a row with a NaN
//   code c + 1  class c;   so bits = bit length of num_classes
//
// The class itself is kept, whatever the label was, so that predictions can be counted against any
// labels later. Epochs lie apart, so that ending one writes `bits` stretches of adjacent words, and
// the 32 samples of a word are a warp's: its threads read one address.
#pragma once

#include "host_device.h"

namespace mild {

constexpr int kSamplesPerPlaneWord = 32;

MILD_HD constexpr int bits_for(int64_t num_classes) {
    int bits = 0;
    for (; num_classes != 0; num_classes >>= 1) ++bits;
    return bits;
}
static_assert(bits_for(10) == 4 && bits_for(127) == 7 && bits_for(128) == 8, "codes 0 ... classes");

struct PredictedClasses {
    uint32_t* planes;
    int64_t num_samples;
    int bits;

    MILD_HD int64_t words() const { return ceil_div(num_samples, kSamplesPerPlaneWord); }
    // The `bits` words of 32 samples in an epoch; words() apart.
    MILD_HD uint32_t* at(int64_t epoch, int64_t word) const {
        return planes + epoch * bits * words() + word;
    }
    MILD_HD uint32_t code(int64_t epoch, int64_t sample) const {
        const uint32_t* word = at(epoch, sample / kSamplesPerPlaneWord);
        const int64_t step = words();
        const int position = static_cast<int>(sample % kSamplesPerPlaneWord);
        uint32_t code = 0;
        for (int b = 0; b < bits; ++b, word += step) code |= (*word >> position & 1u) << b;
        return code;
    }
};

// Below, `code(t)` gives one sample's code in epoch t of the window [start, stop).

struct Majority {
    uint32_t code;  // the commonest, the lowest of equals; 0 if there are no votes
    int32_t count;  // its votes
    int32_t votes;  // all votes
};

// The codes that occur are met in increasing order, each in one walk that counts it and finds the
// next; samples have few. `excluded`: a code that does not count (0: none).
template <class Code>
MILD_HD Majority majority(const Code& code, int64_t start, int64_t stop, uint32_t excluded) {
    Majority best{0, 0, 0};
    uint32_t current = 0;
    for (;;) {
        int32_t count = 0;
        uint32_t next = ~uint32_t{0};
        for (int64_t t = start; t < stop; ++t) {
            const uint32_t c = code(t);
            count += c == current;
            next = c > current && c != excluded && c < next ? c : next;
        }
        if (current != 0) {
            best.votes += count;
            if (count > best.count) best = {current, count, best.votes};
        }
        if (next == ~uint32_t{0}) return best;
        current = next;
    }
}

// Epochs with this code.
template <class Code>
MILD_HD int32_t count_code(const Code& code, int64_t start, int64_t stop, uint32_t wanted) {
    int32_t count = 0;
    for (int64_t t = start; t < stop; ++t) count += code(t) == wanted;
    return count;
}

// Changes between consecutive epochs that have a class; changed(t) for each epoch that has one
// other than the last before it.
template <class Code, class Changed>
MILD_HD int32_t count_changes(const Code& code, int64_t start, int64_t stop,
                              const Changed& changed) {
    int32_t count = 0;
    uint32_t before = 0;
    for (int64_t t = start; t < stop; ++t) {
        const uint32_t c = code(t);
        const bool change = c != 0 && before != 0 && c != before;
        changed(t, change);
        count += change;
        before = c != 0 ? c : before;
    }
    return count;
}

}  // namespace mild
