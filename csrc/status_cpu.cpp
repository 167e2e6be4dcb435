// The CPU backend: loops over the functions of row_status.h and status_word.h.
#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <type_traits>

#include "batch_checks.h"
#ifdef MILD_X86
#include <immintrin.h>
#endif
#include "row_status.h"
#include "status_ops.h"
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace mild::cpu {

Isa best_isa() {
#ifdef MILD_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt"))
        return Isa::kAvx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt"))
        return Isa::kAvx2;
#endif
    return Isa::kPlain;
}

namespace {

std::atomic<Isa>& isa_in_use() {
    static std::atomic<Isa> isa{best_isa()};
    return isa;
}

// ---- update ----

// AND over a stretch of adjacent classes of one comparison with the label's logit. Blocks have a
// fixed length, so that the compiler turns each into vector compares; the first block that fails
// ends the row.
template <bool kStrict, class T>
MILD_HD bool stretch_agrees(const T* row, int64_t length, LabelLogit<T> logit) {
    constexpr int64_t kBlock = 256 / sizeof(T);
    int64_t j = 0;
    for (; j + kBlock <= length; j += kBlock) {
        int fails = 0;
        for (int64_t k = 0; k < kBlock; ++k)
            fails |= !(kStrict ? logit.above(row[j + k]) : logit.at_least(row[j + k]));
        if (fails) return false;
    }
    int fails = 0;
    for (; j < length; ++j) fails |= !(kStrict ? logit.above(row[j]) : logit.at_least(row[j]));
    return !fails;
}

template <class T>
MILD_HD bool row_agrees(const T* row, int64_t classes, int64_t label) {
    const LabelLogit<T> logit(row[label]);
    return stretch_agrees<true>(row, label, logit) &&
           stretch_agrees<false>(row + label, classes - label, logit);
}

#ifdef MILD_X86
// The same for float rows in masked steps of 16 classes: rows of a few classes, the usual ones,
// have no block that the compiler could turn into vector compares.
MILD_AVX512 inline bool row_agrees_avx512(const float* row, int64_t classes, int64_t label) {
    const __m512 logit = _mm512_set1_ps(row[label]);
    for (int64_t j = 0; j < classes; j += 16) {
        const auto first = [j](int64_t n) {  // a bit for each of the classes j ... j + 15 below n
            return static_cast<__mmask16>(n - j >= 16 ? 0xffffu
                                          : n <= j    ? 0u
                                                      : (1u << (n - j)) - 1u);
        };
        const __mmask16 valid = first(classes);
        const __mmask16 before = first(label);
        const __m512 x = _mm512_maskz_loadu_ps(valid, row + j);
        const auto at_most = _mm512_mask_cmp_ps_mask(valid, x, logit, _CMP_LE_OQ);
        const auto below = _mm512_mask_cmp_ps_mask(before, x, logit, _CMP_LT_OQ);
        if (at_most != valid || below != before) return false;
    }
    return true;
}
#endif

template <Isa isa, class T>
MILD_HD bool is_memorized(const T* row, int64_t classes, int64_t label) {
#ifdef MILD_X86
    if constexpr (isa == Isa::kAvx512 && std::is_same_v<T, float>) {
        if (classes <= 64) return row_agrees_avx512(row, classes, label);
    }
#endif
    return row_agrees(row, classes, label);
}

// `shared`: other threads write to the same buffer. (C++17 has no atomic access to memory that is
// not std::atomic; where the compiler offers none either, update uses one thread.)
#if defined(__GNUC__)
constexpr bool kHasAtomicOr = true;
MILD_HD void set_bit(uint64_t* word, uint64_t bit, bool shared) {
    if (__atomic_load_n(word, __ATOMIC_RELAXED) & bit) return;
    if (shared)
        __atomic_fetch_or(word, bit, __ATOMIC_RELAXED);
    else
        *word |= bit;
}
#else
constexpr bool kHasAtomicOr = false;
MILD_HD void set_bit(uint64_t* word, uint64_t bit, bool) { *word |= bit; }
#endif

template <class T>
struct RecordRows {
    const Update& args;
    GoodBatch good;
    bool shared;  // other threads write to the same buffer

    template <Isa isa>
    MILD_HD void operator()(int64_t begin, int64_t end) const {
        constexpr int64_t kAhead = 64;  // rows between asking for a sample's words and writing them
        const int64_t num_words = args.status.num_words;
        WordPair* const words = args.status.words + pair_offset(0, num_words, good.epoch);
        const uint64_t bit = bit_of(good.epoch);
        const T* row = static_cast<const T*>(args.batch.logits) + begin * args.batch.row_stride;
        for (int64_t i = begin; i < std::min(begin + kAhead, end); ++i)
            prefetch_for_write(words + args.batch.index[i] * num_words);
        for (int64_t i = begin; i < end; ++i, row += args.batch.row_stride) {
            if (i + kAhead < end)
                prefetch_for_write(words + args.batch.index[i + kAhead] * num_words);
            if (good.has_ignored && args.batch.labels[i] == kIgnoredLabel) continue;
            const bool memorized = is_memorized<isa>(row, args.batch.classes, args.batch.labels[i]);
            WordPair* const sample = words + args.batch.index[i] * num_words;
            set_bit(&sample->seen, bit, shared);
            if (!memorized) set_bit(&sample->wrong, bit, shared);
        }
    }
};

template <class T>
void record(const Update& args, GoodBatch good, int threads) {
    const int parts = threads_for(args.batch.rows, args.batch.classes * int64_t{sizeof(T)},
                                  kHasAtomicOr ? threads : 1);
    const RecordRows<T> body{args, good, parts > 1};
    parallel(args.batch.rows, parts,
             [&](int, int64_t begin, int64_t end) { run(body, begin, end); });
}

}  // namespace

Isa current_isa() { return isa_in_use().load(std::memory_order_relaxed); }

void use_isa(Isa isa) {
    if (isa < Isa::kPlain || isa > best_isa())
        throw std::invalid_argument("this machine does not have that instruction set");
    isa_in_use().store(isa);
}

void update(const Update& args, int threads) {
    if (args.batch.rows == 0) return;
    const GoodBatch good = checked(args.batch, args.status.num_samples);
    switch (args.batch.logit_type) {
        case LogitType::kFloat64:
            return record<double>(args, good, threads);
        case LogitType::kFloat32:
            return record<float>(args, good, threads);
        case LogitType::kFloat16:
            return record<Half>(args, good, threads);
        case LogitType::kBFloat16:
            return record<BFloat16>(args, good, threads);
    }
}

// ---- transition_times ----

namespace {

struct TimesOfSamples {
    ConstStatusBuffer status;
    Window window;
    int32_t* out;

    template <Isa isa>
    MILD_HD void operator()(int64_t begin, int64_t end) const {
        const int64_t n = status.num_samples;
        for (int64_t i = begin; i < end; ++i) {
            const WordPair* words = status.words + i * status.num_words;
            store(mild::transition_times(words, window), out, i, n);
        }
    }
};

int64_t bytes_per_sample(ConstStatusBuffer status) {
    return status.num_words * int64_t{sizeof(WordPair)};
}

}  // namespace

void transition_times(ConstStatusBuffer status, Window window, int32_t* out, int threads) {
    if (status.num_samples == 0) return;
    const TimesOfSamples body{status, window, out};
    const int parts = threads_for(status.num_samples, bytes_per_sample(status), threads);
    parallel(status.num_samples, parts,
             [&](int, int64_t begin, int64_t end) { run(body, begin, end); });
}

// ---- histogram ----

namespace {

// each(i, totals of sample i) for i in [begin, end). Nearly always the window lies in one word:
// then there is no loop over words inside.
template <class Each>
MILD_HD void for_totals(ConstStatusBuffer status, const Window& window, int64_t begin, int64_t end,
                        const Each& each) {
    const WordPair* words = status.words + begin * status.num_words;
    if (window.one_word()) {
        words += window.first_word;
        const uint64_t mask = window.mask(window.first_word);
        for (int64_t i = begin; i < end; ++i, words += status.num_words)
            each(i, totals_of_word(*words, mask));
    } else {
        for (int64_t i = begin; i < end; ++i, words += status.num_words)
            each(i, totals(words, window));
    }
}

// Neighbouring samples often fall into the same bin; adding to one counter again and again would
// wait for each store, so they take turns among kCopies private histograms, laid out
// [seen][misclassified].
constexpr int kCopies = 4;

struct CountSmall {
    ConstStatusBuffer status;
    Window window;
    int64_t* counts;  // [kCopies, P + 1, pitch], private to this thread
    int pitch_shift;  // pitch = 1 << pitch_shift >= P + 1: a shift is quicker than a product

    template <Isa isa>
    MILD_HD void operator()(int64_t begin, int64_t end) const {
        const int shift = pitch_shift;
        const int64_t copy = (window.length() + 1) << shift;
        int64_t* const to = counts;
        if (window.one_word()) {
            const int64_t step = status.num_words;
            const WordPair* words = status.words + begin * step + window.first_word;
            const uint64_t mask = window.mask(window.first_word);
            for (; begin + kCopies <= end; begin += kCopies, words += kCopies * step)
                for (int64_t k = 0; k < kCopies; ++k) {
                    const Totals t = totals_of_word(words[k * step], mask);
                    ++to[k * copy + (int64_t{t.seen} << shift) + t.misclassified];
                }
        }
        for (; begin < end; ++begin) {
            const Totals t = totals(status.words + begin * status.num_words, window);
            ++to[begin % kCopies * copy + (int64_t{t.seen} << shift) + t.misclassified];
        }
    }
};

// Too many bins for private copies: only the samples seen in every epoch, nearly all, have them.
struct CountLarge {
    ConstStatusBuffer status;
    Window window;
    int64_t* always_seen;          // [kCopies, P + 1], private to this thread
    std::atomic<int64_t>* counts;  // [P + 1, P + 1], shared: [misclassified][seen]

    template <Isa isa>
    MILD_HD void operator()(int64_t begin, int64_t end) const {
        const int64_t side = window.length() + 1;
        for_totals(status, window, begin, end, [&](int64_t i, Totals t) {
            if (t.seen == side - 1)
                ++always_seen[(i % kCopies) * side + t.misclassified];
            else
                counts[t.misclassified * side + t.seen].fetch_add(1, std::memory_order_relaxed);
        });
    }
};
static_assert(sizeof(std::atomic<int64_t>) == sizeof(int64_t), "torch's memory is used as atomics");

}  // namespace

void histogram(ConstStatusBuffer status, Window window, int64_t* counts, int threads) {
    const int64_t side = window.length() + 1;
    std::fill(counts, counts + side * side, int64_t{0});
    if (status.num_samples == 0) return;
    const int parts = threads_for(status.num_samples, bytes_per_sample(status), threads);
    constexpr int64_t kSmallBins = 1 << 15;  // 1 MiB of private counters in kCopies copies
    const bool small = side * side <= kSmallBins;
    int shift = 0;
    while ((int64_t{1} << shift) < side) ++shift;
    const int64_t bins = small ? side << shift : side;
    std::vector<int64_t> local(static_cast<size_t>(parts * kCopies * bins), 0);
    auto* const shared = reinterpret_cast<std::atomic<int64_t>*>(counts);

    parallel(status.num_samples, parts, [&](int part, int64_t begin, int64_t end) {
        int64_t* const mine = local.data() + part * kCopies * bins;
        if (small)
            run(CountSmall{status, window, mine, shift}, begin, end);
        else
            run(CountLarge{status, window, mine, shared}, begin, end);
    });
    for (int64_t copy = 0; copy < int64_t{parts} * kCopies; ++copy) {
        const int64_t* const from = local.data() + copy * bins;
        if (small) {
            for (int64_t seen = 0; seen < side; ++seen)
                for (int64_t m = 0; m <= seen; ++m)
                    counts[m * side + seen] += from[(seen << shift) + m];
        } else {
            for (int64_t m = 0; m < side; ++m) counts[m * side + side - 1] += from[m];
        }
    }
}

// ---- lookup ----

namespace {

template <class Element>
struct LookUpSamples {
    ConstStatusBuffer status;
    Window window;
    const Element* table;
    Element* out;

    template <Isa isa>
    MILD_HD void operator()(int64_t begin, int64_t end) const {
        const int64_t side = window.length() + 1;
        const Element* const from = table;
        Element* const to = out;
        for_totals(status, window, begin, end,
                   [=](int64_t i, Totals t) { to[i] = from[t.misclassified * side + t.seen]; });
    }
};

template <class Element>
void look_up(ConstStatusBuffer status, Window window, const Lookup& args, int threads) {
    const LookUpSamples<Element> body{status, window, static_cast<const Element*>(args.table),
                                      static_cast<Element*>(args.out)};
    const int parts = threads_for(status.num_samples, bytes_per_sample(status), threads);
    parallel(status.num_samples, parts,
             [&](int, int64_t begin, int64_t end) { run(body, begin, end); });
}

}  // namespace

void lookup(ConstStatusBuffer status, Window window, const Lookup& args, int threads) {
    if (status.num_samples == 0) return;
    if (args.element_size == 1) return look_up<uint8_t>(status, window, args, threads);
    if (args.element_size == 4) return look_up<uint32_t>(status, window, args, threads);
    throw std::invalid_argument("lookup copies elements of 1 or 4 bytes");
}

// ---- first_run ----

void first_run(ConstStatusBuffer status, Window window, int64_t length, int32_t* out, int threads) {
    const int parts = threads_for(status.num_samples, bytes_per_sample(status), threads);
    parallel(status.num_samples, parts, [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            out[i] = mild::first_run(status.words + i * status.num_words, window, length);
    });
}

// ---- memory ----

void advise_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t kLargePage = uintptr_t{2} << 20;
    const auto begin = reinterpret_cast<uintptr_t>(memory);
    const uintptr_t first = (begin + kLargePage - 1) / kLargePage * kLargePage;
    const uintptr_t last = (begin + static_cast<uintptr_t>(bytes)) / kLargePage * kLargePage;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace mild::cpu
