// The status buffer: its bit layout, and every function of one sample's words.
//
//   status: WordPair [num_samples, num_words]         (torch sees int64 [num_samples, num_words,
//   2]: the same bits)
//
//   one sample:  | word 0: seen | word 0: wrong | word 1: seen | word 1: wrong | ...
//                  <-------- WordPair -------->
//   one word:    bit 63                                bit 1     bit 0
//                epoch 64 w + 63          ...          64 w + 1  64 w
//
//   seen   bit t: the sample was visited in epoch t
//   wrong  bit t: at least one visit in epoch t was misclassified
//   memorized = seen & ~wrong,  misclassified = seen & wrong
//
// Every write is an OR: idempotent and free of order, so duplicates, replays and merges are well
// defined.
#pragma once

#include "host_device.h"

namespace mild {

struct alignas(16) WordPair {
    uint64_t seen;
    uint64_t wrong;
};

constexpr int kEpochsPerWord = 64;
constexpr int64_t kMaxEpochs = 4096;

static_assert(kEpochsPerWord == 8 * sizeof(uint64_t), "one epoch is one bit");
static_assert(sizeof(WordPair) == 16, "64 epochs of one sample are one 16-byte access");
static_assert(kMaxEpochs % kEpochsPerWord == 0, "the last word can be full");

MILD_HD constexpr int64_t words_for(int64_t num_epochs) {
    return ceil_div(num_epochs, kEpochsPerWord);
}
MILD_HD constexpr uint64_t bit_of(int64_t epoch) { return uint64_t{1} << (epoch % kEpochsPerWord); }
// Where the words of (sample, epoch) are, in pairs from the buffer's start.
MILD_HD constexpr int64_t pair_offset(int64_t sample, int64_t num_words, int64_t epoch) {
    return sample * num_words + epoch / kEpochsPerWord;
}
static_assert(pair_offset(1, 2, 64) == 3 && bit_of(64) == 1 && words_for(65) == 2, "");
static_assert(pair_offset(1'000'000'000, 64, 4095) == 64'000'000'063, "more than 2^31 pairs");

// Epochs [start, stop), 0 <= start < stop <= 64 num_words: the words they touch, and which bits of
// these.
struct Window {
    int64_t start;
    int64_t stop;
    int64_t first_word;
    int64_t last_word;
    uint64_t first_mask;
    uint64_t last_mask;

    MILD_HD Window(int64_t start_, int64_t stop_)
        : start(start_),
          stop(stop_),
          first_word(start_ / kEpochsPerWord),
          last_word((stop_ - 1) / kEpochsPerWord),
          first_mask(~uint64_t{0} << (start_ % kEpochsPerWord)),
          last_mask(~uint64_t{0} >> (kEpochsPerWord - 1 - (stop_ - 1) % kEpochsPerWord)) {}

    MILD_HD int64_t length() const { return stop - start; }
    MILD_HD bool one_word() const { return first_word == last_word; }
    MILD_HD uint64_t mask(int64_t w) const {
        return (w == first_word ? first_mask : ~uint64_t{0}) &
               (w == last_word ? last_mask : ~uint64_t{0});
    }
};

// How many epochs of the window the sample was misclassified in, and how many it was seen in.
struct Totals {
    int32_t misclassified;  // in [0, seen]
    int32_t seen;           // in [0, stop - start]
};

// words: [num_words] of one sample.
MILD_HD Totals totals_of_word(WordPair pair, uint64_t mask) {
    const uint64_t seen = pair.seen & mask;
    return {count_ones(seen & pair.wrong), count_ones(seen)};
}
MILD_HD Totals totals(const WordPair* words, const Window& window) {
    Totals sum{0, 0};
    for (int64_t w = window.first_word; w <= window.last_word; ++w) {
        const Totals t = totals_of_word(words[w], window.mask(w));
        sum.misclassified += t.misclassified;
        sum.seen += t.seen;
    }
    return sum;
}

// Moves the bits of `x` that `keep` selects to the low end, in order (Hacker's Delight, 7-4): each
// round moves every bit by one more power of two of the number of dropped bits below it.
MILD_HD uint64_t compress(uint64_t x, uint64_t keep) {
    x &= keep;
    uint64_t dropped_below = ~keep << 1;
    for (int shift = 1; shift < kEpochsPerWord; shift *= 2) {
        uint64_t parity = dropped_below;
        for (int s = 1; s < kEpochsPerWord; s *= 2) parity ^= parity << s;
        const uint64_t move = parity & keep;
        keep = (keep ^ move) | (move >> shift);
        const uint64_t moved = x & move;
        x = (x ^ moved) | (moved >> shift);
        dropped_below &= ~parity;
    }
    return x;
}

// Length of the longest run of ones of an x that is not all ones: a binary search without branches
// over the starts of runs of at least 1, 2, 4, ... 32.
MILD_HD int32_t longest_run_of_ones(uint64_t x) {
    const uint64_t r1 = x;
    const uint64_t r2 = r1 & (r1 >> 1);
    const uint64_t r4 = r2 & (r2 >> 2);
    const uint64_t r8 = r4 & (r4 >> 4);
    const uint64_t r16 = r8 & (r8 >> 8);
    const uint64_t r32 = r16 & (r16 >> 16);
    uint64_t starts = ~uint64_t{0};  // of runs of at least `length`
    int32_t length = 0;
    const auto extend = [&](uint64_t runs, int32_t by) {
        const uint64_t longer = starts & (runs >> length);  // a run of `by` follows one of `length`
        const int32_t found = -static_cast<int32_t>(longer != 0);  // 0 or all ones
        starts = longer | (starts & ~static_cast<uint64_t>(int64_t{found}));
        length += by & found;
    };
    extend(r32, 32);
    extend(r16, 16);
    extend(r8, 8);
    extend(r4, 4);
    extend(r2, 2);
    extend(r1, 1);
    return length;
}

// All of TransitionTimes for one sample; mild_ext/recording/transitions.py has units and
// directions.
struct TransitionTimes {
    int32_t memorization;           // seen and misclassified epochs
    int32_t forgetting;             // seen and memorized epochs
    int32_t metric;                 // memorization - forgetting
    int32_t first_memorized;        // counted from the window's start; its length if never
    int32_t memorization_events;    // 0 -> 1 between consecutive seen epochs
    int32_t forgetting_events;      // 1 -> 0 between consecutive seen epochs
    int32_t longest_memorized_run;  // over consecutive seen epochs
    int32_t seen;
};
constexpr int kTransitionFields = 8;
static_assert(sizeof(TransitionTimes) == kTransitionFields * sizeof(int32_t),
              "eight int32 columns");

// Writes them as sample i's column of out: int32 [8, num_samples], a row for each field.
MILD_HD void store(const TransitionTimes& times, int32_t* out, int64_t i, int64_t num_samples) {
    out[0 * num_samples + i] = times.memorization;
    out[1 * num_samples + i] = times.forgetting;
    out[2 * num_samples + i] = times.metric;
    out[3 * num_samples + i] = times.first_memorized;
    out[4 * num_samples + i] = times.memorization_events;
    out[5 * num_samples + i] = times.forgetting_events;
    out[6 * num_samples + i] = times.longest_memorized_run;
    out[7 * num_samples + i] = times.seen;
}

// words: [num_words] of one sample.
MILD_HD TransitionTimes transition_times(const WordPair* words, const Window& window) {
    TransitionTimes t{};
    t.first_memorized = static_cast<int32_t>(window.length());
    int32_t run = 0;        // memorized epochs up to here without a break
    uint64_t previous = 0;  // 1 if the last seen epoch was memorized
    for (int64_t w = window.first_word; w <= window.last_word; ++w) {
        const WordPair pair = words[w];
        const uint64_t seen = pair.seen & window.mask(w);
        uint64_t status = seen & ~pair.wrong;
        const int32_t n = count_ones(seen);
        if (n == 0) continue;
        const int32_t memorized = count_ones(status);
        if (memorized != 0 && t.forgetting == 0)
            t.first_memorized =
                static_cast<int32_t>(w * kEpochsPerWord + trailing_zeros(status) - window.start);

        // From here on only the seen epochs exist: bit k of `status` is the k-th of them.
        const uint64_t all = n == kEpochsPerWord ? ~uint64_t{0} : ~(~uint64_t{0} << n);
        if (seen != all) status = compress(status, seen);
        if (t.seen == 0) previous = status & 1;  // nothing comes before the first seen epoch
        const uint64_t shifted = (status << 1) | previous;
        t.memorization_events += count_ones(status & ~shifted);
        t.forgetting_events += count_ones(~status & shifted & all);
        previous = (status >> (n - 1)) & 1;

        if (status == all) {
            run += n;
        } else {
            const int32_t joined = run + trailing_zeros(~status);
            const int32_t inside = longest_run_of_ones(status);
            const int32_t here = joined > inside ? joined : inside;
            if (here > t.longest_memorized_run) t.longest_memorized_run = here;
            run = leading_zeros(~(status << (kEpochsPerWord - n)));
        }
        t.seen += n;
        t.forgetting += memorized;
    }
    if (run > t.longest_memorized_run) t.longest_memorized_run = run;
    t.memorization = t.seen - t.forgetting;
    t.metric = t.memorization - t.forgetting;
    return t;
}

// The epoch, counted from the window's start, that ends the first `length` consecutive seen epochs
// in which the sample was memorized; the window's length if there are none.
MILD_HD int32_t first_run(const WordPair* words, const Window& window, int64_t length) {
    int64_t run = 0;
    for (int64_t t = window.start; t < window.stop; ++t) {
        const WordPair pair = words[t / kEpochsPerWord];
        const uint64_t bit = bit_of(t);
        if ((pair.seen & bit) == 0) continue;
        run = (pair.wrong & bit) == 0 ? run + 1 : 0;
        if (run == length) return static_cast<int32_t>(t - window.start);
    }
    return static_cast<int32_t>(window.length());
}

}  // namespace mild
