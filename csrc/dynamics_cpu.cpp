// The CPU backend of dynamics_ops.h but for record_visits: ending epochs, and reading the classes.
// 32 samples, whose bits share the words of the planes, at a time.
#include <algorithm>
#include <vector>

#include "cpu_dispatch.h"
#include "dynamics_ops.h"
#include "loops_x86.h"

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

// Bit b of each of the group's codes, in one word.
template <Isa isa>
MILD_HD uint32_t plane_word(const uint32_t* codes, int b) {
#ifdef MILD_X86
    if constexpr (isa == Isa::kAvx512) return x86::bits_avx512(codes, b);
    if constexpr (isa == Isa::kAvx2) return x86::bits_avx2(codes, b);
#endif
    uint32_t bits = 0;
    for (int64_t k = 0; k < kGroup; ++k) bits |= (codes[k] >> b & 1u) << k;
    return bits;
}

// The records of a group, field by field: the loops below become vector code.
struct GroupFields {
    uint32_t visited[kGroup];  // 0 or all ones
    uint32_t key[kGroup];
    uint32_t predicted[kGroup];
    uint32_t loss[kGroup];
    uint32_t el2n[kGroup];

    MILD_HD explicit GroupFields(const int64_t* records) {
        for (int64_t k = 0; k < kGroup; ++k) {
            const VisitFields visit(records[k]);
            visited[k] = records[k] != kNoVisit ? ~0u : 0u;
            key[k] = visit.key;
            predicted[k] = visit.predicted;
            loss[k] = visit.loss;
            el2n[k] = visit.el2n;
        }
    }
};

struct FoldSamples {
    const FoldEpoch& args;
    int64_t epoch;
    Places places;

    template <Isa isa>
    MILD_HD void write_epoch(const GroupFields& visits, int64_t sample, int64_t count) const {
        uint32_t codes[kGroup];
        for (int64_t k = 0; k < kGroup; ++k)
            codes[k] = code_of(visits.predicted[k], visits.key[k]) & visits.visited[k];
        uint32_t* word = args.classes.at(epoch, sample / kGroup);
        const int64_t step = args.classes.words();
        for (int b = 0; b < args.classes.bits; ++b, word += step) *word = plane_word<isa>(codes, b);
        // seen and wrong of each sample, interleaved as the words are
        uint64_t pairs[2 * kGroup];
        const int position = static_cast<int>(epoch % kEpochsPerWord);
        for (int64_t k = 0; k < kGroup; ++k) {
            const uint32_t seen = visits.visited[k] & 1u;
            pairs[2 * k] = uint64_t{seen} << position;
            pairs[2 * k + 1] = uint64_t{seen & visits.key[k] >> 15} << position;
        }
        WordPair* const first =
            args.status.words + pair_offset(sample, args.status.num_words, epoch);
        if (count == kGroup && args.status.num_words == 1) {
            uint64_t* const words = &first->seen;
            for (int64_t k = 0; k < 2 * kGroup; ++k) words[k] |= pairs[k];
            return;
        }
        for (int64_t k = 0; k < count; ++k) {
            WordPair* const pair = first + k * args.status.num_words;
            pair->seen |= pairs[2 * k];
            pair->wrong |= pairs[2 * k + 1];
        }
    }

    // A sum of kGroup samples += value(k), where the sample was visited. Loops without branches and
    // of a fixed length, which become vector code; the last, shorter group goes through a copy.
    template <class Value>
    MILD_HD void add(int row, const GroupFields& visits, int64_t sample, int64_t count,
                     const Value& value) const {
        int32_t* const sums = args.sums + row * args.status.num_samples + sample;
        int32_t more[kGroup];
        for (int64_t k = 0; k < kGroup; ++k)
            more[k] = value(k) & static_cast<int32_t>(visits.visited[k]);
        if (count == kGroup)
            for (int64_t k = 0; k < kGroup; ++k) sums[k] += more[k];
        else
            for (int64_t k = 0; k < count; ++k) sums[k] += more[k];
    }

    MILD_HD void write_sums(const GroupFields& visits, int64_t sample, int64_t count) const {
        const uint32_t* const key = visits.key;
        const uint32_t* const loss = visits.loss;
        const uint32_t* const el2n = visits.el2n;
        const auto into = [&](int row, const auto& value) {
            add(row, visits, sample, count, value);
        };
        into(kShortfall, [&](int64_t k) { return shortfall_of(key[k], places); });
        if (args.statistics) {
            float p[kGroup];
            for (int64_t k = 0; k < kGroup; ++k) p[k] = probability_of(loss[k]);
            into(kMargin, [&](int64_t k) { return margin_of(key[k], places); });
            into(kLoss, [&](int64_t k) { return loss_of(loss[k], places); });
            into(kProbability, [&](int64_t k) { return fixed_point(p[k], places.probability); });
            into(kProbabilitySquared,
                 [&](int64_t k) { return fixed_point(p[k] * p[k], places.probability); });
            into(kEl2n, [&](int64_t k) { return el2n_of(el2n[k], places); });
        }
        if (epoch + 1 == args.half()) {
            int32_t* const sums = args.sums + sample;
            const int64_t n = args.status.num_samples;
            for (int64_t k = 0; k < count; ++k)
                sums[kShortfallFirstHalf * n + k] = sums[kShortfall * n + k];
        }
    }

    template <Isa isa>
    MILD_HD void operator()(int64_t begin, int64_t end) const {
        for (int64_t sample = begin; sample < end; sample += kGroup) {
            const int64_t count = std::min(kGroup, end - sample);
            int64_t records[kGroup];
            for (int64_t k = 0; k < kGroup; ++k) records[k] = kNoVisit;
            if (count == kGroup)
                for (int64_t k = 0; k < kGroup; ++k) records[k] = args.record[sample + k];
            else
                for (int64_t k = 0; k < count; ++k) records[k] = args.record[sample + k];
            const GroupFields visits(records);
            if (args.parts & kIntoEpoch) write_epoch<isa>(visits, sample, count);
            if (args.parts & kIntoSums) write_sums(visits, sample, count);
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

}  // namespace mild::cpu
