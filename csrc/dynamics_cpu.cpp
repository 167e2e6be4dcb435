// The CPU backend of dynamics_ops.h but for record_visits: ending epochs, and reading the classes.
// 32 samples, whose bits share the words of the planes, at a time.
#include <algorithm>
#include <vector>

#include "cpu_dispatch.h"
#include "dynamics_ops.h"

namespace mild::cpu {

namespace {

constexpr int64_t kGroup = kSamplesPerPlaneWord;

// work(part, first, last) over parts of the samples that begin at a multiple of kGroup.
template <class Work>
void parallel_groups(int64_t num_samples, int parts, const Work& work) {
    parallel(ceil_div(num_samples, kGroup), parts, [&](int part, int64_t begin, int64_t end) {
        work(part, begin * kGroup, std::min(end * kGroup, num_samples));
    });
}

// ---- fold_epoch ----

struct FoldSamples {
    const FoldEpoch& args;
    int64_t epoch;
    Places places;

    MILD_HD int32_t* sum(int row) const { return args.sums + row * args.status.num_samples; }

    MILD_HD void write_planes(const uint32_t* codes, int64_t sample) const {
        uint32_t* word = args.classes.at(epoch, sample / kGroup);
        const int64_t step = args.classes.words();
        for (int b = 0; b < args.classes.bits; ++b, word += step) {
            uint32_t bits = 0;
            for (int64_t k = 0; k < kGroup; ++k) bits |= (codes[k] >> b & 1u) << k;
            *word = bits;
        }
    }

    // A whole group, its records at hand: loops without branches, which become vector code.
    MILD_HD void fold_group(const int64_t* records, int64_t sample, int64_t count) const {
        if (args.parts & kIntoEpoch) {
            uint32_t codes[kGroup];
            for (int64_t k = 0; k < kGroup; ++k) codes[k] = code_of(records[k]);
            write_planes(codes, sample);
            WordPair* pair = args.status.words + pair_offset(sample, args.status.num_words, epoch);
            const int position = static_cast<int>(epoch % kEpochsPerWord);
            for (int64_t k = 0; k < count; ++k, pair += args.status.num_words) {
                pair->seen |= uint64_t{records[k] != kNoVisit} << position;
                pair->wrong |= uint64_t{records[k] >= 0} << position;
            }
        }
        if (args.parts & kIntoSums) {
            if (args.statistics) {
                Contribution all[kGroup];
                for (int64_t k = 0; k < kGroup; ++k) {
                    const Contribution c = contribution_of(VisitView(records[k]), places);
                    const int32_t there = -static_cast<int32_t>(records[k] != kNoVisit);
                    all[k] = {c.shortfall & there,
                              c.margin & there,
                              c.loss & there,
                              c.probability & there,
                              c.probability_squared & there,
                              c.el2n & there};
                }
                for (int64_t k = 0; k < count; ++k) {
                    sum(kShortfall)[sample + k] += all[k].shortfall;
                    sum(kMargin)[sample + k] += all[k].margin;
                    sum(kLoss)[sample + k] += all[k].loss;
                    sum(kProbability)[sample + k] += all[k].probability;
                    sum(kProbabilitySquared)[sample + k] += all[k].probability_squared;
                    sum(kEl2n)[sample + k] += all[k].el2n;
                }
            } else {
                for (int64_t k = 0; k < count; ++k)
                    sum(kShortfall)[sample + k] +=
                        records[k] == kNoVisit ? 0 : shortfall_of(VisitView(records[k]), places);
            }
            if (epoch + 1 == args.half())
                for (int64_t k = 0; k < count; ++k)
                    sum(kShortfallFirstHalf)[sample + k] = sum(kShortfall)[sample + k];
        }
    }

    template <Isa isa>
    MILD_HD void operator()(int64_t begin, int64_t end) const {
        for (int64_t sample = begin; sample < end; sample += kGroup) {
            const int64_t count = std::min(kGroup, end - sample);
            int64_t records[kGroup];
            for (int64_t k = 0; k < count; ++k) records[k] = args.record[sample + k];
            for (int64_t k = count; k < kGroup; ++k) records[k] = kNoVisit;
            fold_group(records, sample, count);
            if (args.parts & kEmptied)
                for (int64_t k = 0; k < count; ++k) args.record[sample + k] = kNoVisit;
        }
    }
};

}  // namespace

void fold_epoch(const FoldEpoch& args, int threads) {
    const int64_t epoch = *args.epoch;
    if (epoch < 0 || epoch >= args.num_epochs) return;
    const int64_t bytes = 32 + (args.statistics ? 32 : 8);
    const FoldSamples body{args, epoch, Places(args.num_epochs)};
    const int64_t samples = args.status.num_samples;
    parallel_groups(samples, threads_for(samples, bytes, threads),
                    [&](int, int64_t begin, int64_t end) { run(body, begin, end); });
}

// ---- reading the classes ----

namespace {

// codes: uint32 [kGroup], of the group's samples in one epoch
MILD_HD void codes_of_group(const PredictedClasses& classes, int64_t epoch, int64_t sample,
                            uint32_t* codes) {
    const uint32_t* word = classes.at(epoch, sample / kGroup);
    const int64_t step = classes.words();
    for (int64_t k = 0; k < kGroup; ++k) codes[k] = 0;
    for (int b = 0; b < classes.bits; ++b, word += step) {
        const uint32_t bits = *word;
        for (int64_t k = 0; k < kGroup; ++k)
            codes[k] |= (bits >> static_cast<uint32_t>(k) & 1u) << b;
    }
}

// each(sample, code) for the samples of a part; code(t) reads the window's codes of that sample,
// which were unpacked into `codes`: uint32 [stop - start, kGroup], private to this thread.
template <class Each>
struct EachSample {
    const ReadClasses& read;
    uint32_t* codes;
    const Each& each;

    template <Isa isa>
    MILD_HD void operator()(int64_t begin, int64_t end) const {
        for (int64_t sample = begin; sample < end; sample += kGroup) {
            for (int64_t t = read.start; t < read.stop; ++t)
                codes_of_group(read.classes, t, sample, codes + (t - read.start) * kGroup);
            const int64_t count = std::min(kGroup, end - sample);
            for (int64_t k = 0; k < count; ++k) {
                const uint32_t* const mine = codes + k;
                const int64_t start = read.start;
                each(sample + k, [mine, start](int64_t t) { return mine[(t - start) * kGroup]; });
            }
        }
    }
};

int parts_for(const ReadClasses& read, int64_t samples, int threads) {
    // A code takes about as long to look at as 16 bytes to read.
    return threads_for(samples, 16 * (read.stop - read.start), threads);
}

template <class Each>
void for_each_sample(const ReadClasses& read, int64_t first, int64_t last, int threads,
                     const Each& each) {
    parallel_groups(
        last - first, parts_for(read, last - first, threads), [&](int, int64_t begin, int64_t end) {
            std::vector<uint32_t> codes(static_cast<size_t>((read.stop - read.start) * kGroup));
            run(EachSample<Each>{read, codes.data(), each}, first + begin, first + end);
        });
}

}  // namespace

void predictions(const ReadClasses& read, int32_t* out, int threads) {
    for_each_sample(read, 0, read.classes.num_samples, threads, [=](int64_t i, const auto& code) {
        out[i] = static_cast<int32_t>(code(read.start)) - 1;
    });
}

void class_votes(const ReadClasses& read, int64_t first, int64_t last, int32_t* out, int threads) {
    std::fill(out, out + (last - first) * read.num_classes, 0);
    for_each_sample(read, first, last, threads, [=](int64_t i, const auto& code) {
        int32_t* const votes = out + (i - first) * read.num_classes;
        for (int64_t t = read.start; t < read.stop; ++t) {
            const int64_t c = int64_t{code(t)} - 1;
            if (0 <= c && c < read.num_classes) ++votes[c];
        }
    });
}

void majority_vote(const ReadClasses& read, const int64_t* excluded, int32_t* out, int threads) {
    const int64_t n = read.classes.num_samples;
    for_each_sample(read, 0, n, threads, [=](int64_t i, const auto& code) {
        const auto without = excluded == nullptr ? 0u : static_cast<uint32_t>(excluded[i] + 1);
        const Majority found = majority(code, read.start, read.stop, without);
        out[i] = static_cast<int32_t>(found.code) - 1;
        out[n + i] = found.count;
        out[2 * n + i] = found.votes;
    });
}

void count_predicted(const ReadClasses& read, const int64_t* wanted, int32_t* out, int threads) {
    for_each_sample(read, 0, read.classes.num_samples, threads, [=](int64_t i, const auto& code) {
        out[i] = count_code(code, read.start, read.stop, static_cast<uint32_t>(wanted[i] + 1));
    });
}

void prediction_changes(const ReadClasses& read, int32_t* out, int64_t* changed, int threads) {
    const int64_t n = read.classes.num_samples;
    const int64_t length = read.stop - read.start;
    std::fill(changed, changed + length, int64_t{0});
    const int parts = parts_for(read, n, threads);
    std::vector<int64_t> counts(static_cast<size_t>(parts * length), 0);
    parallel_groups(n, parts, [&](int part, int64_t begin, int64_t end) {
        int64_t* const mine = counts.data() + part * length;
        std::vector<uint32_t> codes(static_cast<size_t>(length * kGroup));
        const auto each = [=](int64_t i, const auto& code) {
            out[i] = count_changes(code, read.start, read.stop,
                                   [=](int64_t t, bool change) { mine[t - read.start] += change; });
        };
        run(EachSample<decltype(each)>{read, codes.data(), each}, begin, end);
    });
    for (int64_t k = 0; k < parts * length; ++k)
        changed[k % length] += counts[static_cast<size_t>(k)];
}

void first_run(ConstStatusBuffer status, Window window, int64_t length, int32_t* out, int threads) {
    const int parts =
        threads_for(status.num_samples, status.num_words * int64_t{sizeof(WordPair)}, threads);
    parallel(status.num_samples, parts, [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            out[i] = mild::first_run(status.words + i * status.num_words, window, length);
    });
}

}  // namespace mild::cpu
