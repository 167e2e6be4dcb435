// record_visits on the CPU: two passes over a row while it lies in the first cache, then what
// follows from it, sixteen rows at a time.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "batch_checks.h"
#include "dynamics_ops.h"
#include "loops_x86.h"

namespace mild::cpu {

namespace {

// Classes, or rows, that a loop does at a time: vector code anywhere.
constexpr int64_t kLanes = 16;

// Fused multiply-add only where it is an instruction: as a library call it would be slow.
constexpr bool has_fma([[maybe_unused]] Isa isa) {
#if defined(__aarch64__) || defined(__FMA__)
    return true;
#else
    return isa != Isa::kPlain;
#endif
}

// The row's logits as numbers, the label's replaced by -infinity and the rest of the last kLanes
// filled with it: what is left is the others. Returns whether any was a NaN.
template <class T>
MILD_HD bool others_of_row(const T* row, int64_t classes, int64_t label, ValueOf<T>* others) {
    using Value = ValueOf<T>;
    int nan = 0;
    int64_t j = 0;
    for (; j + kLanes <= classes; j += kLanes) {
        int here = 0;
        for (int64_t k = 0; k < kLanes; ++k) {
            const Value x = value_of(row[j + k]);
            here |= x != x;
            others[j + k] = x;
        }
        nan |= here;
    }
    const int64_t full = j;
    for (; j < classes; ++j) {
        const Value x = value_of(row[j]);
        nan |= x != x;
        others[j] = x;
    }
    if (full < classes)
        for (; j < full + kLanes; ++j) others[j] = -std::numeric_limits<Value>::infinity();
    others[label] = -std::numeric_limits<Value>::infinity();
    return nan != 0;
}

// others: `padded` values, a multiple of kLanes
template <class Value>
MILD_HD Value largest(const Value* others, int64_t padded) {
    Value most[kLanes];
    for (int64_t k = 0; k < kLanes; ++k) most[k] = others[k];
    for (int64_t j = kLanes; j < padded; j += kLanes)
        for (int64_t k = 0; k < kLanes; ++k)
            most[k] = others[j + k] > most[k] ? others[j + k] : most[k];
    for (int64_t half = kLanes / 2; half > 0; half /= 2)
        for (int64_t k = 0; k < half; ++k)
            most[k] = most[k + half] > most[k] ? most[k + half] : most[k];
    return most[0];
}

// The first that equals `value`; 0 where none does (it is a NaN).
template <class Value>
MILD_HD int64_t first_equal(const Value* others, int64_t padded, Value value) {
    for (int64_t j = 0; j < padded; j += kLanes) {
        int found = 0;
        for (int64_t k = 0; k < kLanes; ++k) found |= others[j + k] == value;
        if (!found) continue;
        int64_t k = 0;
        while (others[j + k] != value) ++k;
        return j + k;
    }
    return 0;
}

template <bool kFused, class Value>
MILD_HD void sum_exponentials(const Value* others, int64_t padded, Value other, RowFacts& row) {
    float mass[kLanes] = {};
    float square[kLanes] = {};
    for (int64_t j = 0; j < padded; j += kLanes)
        for (int64_t k = 0; k < kLanes; ++k) {
            const float e = exp_of_nonpositive<kFused>(difference(others[j + k], other));
            mass[k] += e;
            square[k] = multiply_add<kFused>(e, e, square[k]);
        }
    for (int64_t half = kLanes / 2; half > 0; half /= 2)
        for (int64_t k = 0; k < half; ++k) {
            mass[k] += mass[k + half];
            square[k] += square[k + half];
        }
    row.mass = mass[0];
    row.square = square[0];
}

// The passes of an instruction set, or the plain ones: floats of up to 32 bits have their own.
template <Isa isa, class T>
constexpr bool has_own_passes() {
#ifdef MILD_X86
    return isa != Isa::kPlain && !std::is_same_v<T, double>;
#else
    return false;
#endif
}

template <Isa isa, class T>
MILD_HD RowFacts facts_of_row(const T* row, int64_t classes, int64_t label, bool statistics,
                              ValueOf<T>* others, const T* ahead) {
    using Value = ValueOf<T>;
    (void)ahead;  // the next row, for those who look ahead
    const int64_t padded = ceil_div(classes, kLanes) * kLanes;
    const Value own = value_of(row[label]);
    RowFacts facts{};
    Value other;
#ifdef MILD_X86
    if constexpr (has_own_passes<isa, T>()) {
        x86::Scan scan;
        if constexpr (isa == Isa::kAvx512)
            scan = x86::scan_avx512(row, classes, label, others);
        else
            scan = x86::scan_avx2(row, classes, label, others);
        facts.has_nan = scan.has_nan;
        other = scan.largest;
    } else
#endif
    {
        facts.has_nan = others_of_row(row, classes, label, others);
        other = largest(others, padded);
    }
    facts.margin = difference(own, other);
    facts.predicted = static_cast<uint32_t>(label);
    if (!(own > other)) {
        int64_t first;
#ifdef MILD_X86
        if constexpr (has_own_passes<isa, T>()) {
            if constexpr (isa == Isa::kAvx512)
                first = x86::first_equal_avx512(others, padded, other);
            else
                first = x86::first_equal_avx2(others, padded, other);
        } else
#endif
            first = first_equal(others, padded, other);
        facts.misclassified = own < other || first < label;
        if (facts.misclassified) facts.predicted = static_cast<uint32_t>(first);
    }
    facts.misclassified |= facts.has_nan;
    if (!statistics) return facts;
    if (other == -std::numeric_limits<Value>::infinity()) {  // the filling must not count
        facts.mass = facts.square = static_cast<float>(classes - 1);
        return facts;
    }
#ifdef MILD_X86
    if constexpr (has_own_passes<isa, T>()) {
        if (other - other == 0) {  // not infinite, nor a NaN
            x86::Sums sums;
            if constexpr (isa == Isa::kAvx512)
                sums = x86::sum_avx512(others, padded, other, ahead);
            else
                sums = x86::sum_avx2(others, padded, other);
            facts.mass = sums.mass;
            facts.square = sums.square;
            return facts;
        }
    }
#endif
    sum_exponentials<has_fma(isa)>(others, padded, other, facts);
    return facts;
}

// kLanes rows at a time, a field beside the other, so that the loops become vector code.
struct SomeRows {
    float margin[kLanes] = {};
    float mass[kLanes] = {};
    float square[kLanes] = {};
    uint32_t predicted[kLanes] = {};
    bool misclassified[kLanes] = {};
    bool has_nan[kLanes] = {};

    MILD_HD void put(int64_t k, const RowFacts& facts) {
        margin[k] = facts.margin;
        mass[k] = facts.mass;
        square[k] = facts.square;
        predicted[k] = facts.predicted;
        misclassified[k] = facts.misclassified;
        has_nan[k] = facts.has_nan;
    }

    template <bool kFused>
    MILD_HD void pack_visits(bool statistics, int64_t* visits) const {
        uint32_t distance[kLanes], loss[kLanes] = {}, el2n[kLanes] = {};
        for (int64_t k = 0; k < kLanes; ++k)
            distance[k] = half_of(bits_float(float_bits(margin[k]) & 0x7fffffffu));
        if (statistics) {
            float losses[kLanes], norms[kLanes];
            for (int64_t k = 0; k < kLanes; ++k)
                statistics_of<kFused>(margin[k], mass[k], square[k], losses[k], norms[k]);
            for (int64_t k = 0; k < kLanes; ++k) {
                loss[k] = half_of(losses[k]);
                el2n[k] = half_of(norms[k]);
            }
            for (int64_t k = 0; k < kLanes; ++k) {
                if (!has_nan[k]) continue;
                loss[k] = kHalfInfinity;
                el2n[k] = half_of(1.41421356f);
            }
        }
        for (int64_t k = 0; k < kLanes; ++k)
            visits[k] =
                pack(misclassified[k], has_nan[k], distance[k], predicted[k], loss[k], el2n[k]);
    }
};

// `shared`: other threads write to the same record.
#if defined(__GNUC__)
constexpr bool kHasAtomicMax = true;
MILD_HD void raise(int64_t* word, int64_t value, bool shared) {
    int64_t before = __atomic_load_n(word, __ATOMIC_RELAXED);
    if (!shared) {
        if (value > before) *word = value;
        return;
    }
    while (value > before && !__atomic_compare_exchange_n(word, &before, value, true,
                                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}
#else
constexpr bool kHasAtomicMax = false;
MILD_HD void raise(int64_t* word, int64_t value, bool) { *word = value > *word ? value : *word; }
#endif

template <class T>
struct RecordRows {
    const RecordVisits& args;
    bool has_ignored;
    bool shared;
    ValueOf<T>* others;  // [classes, padded to kLanes], private to this thread

    MILD_HD bool ignores(int64_t i) const {
        return has_ignored && args.batch.labels[i] == kIgnoredLabel;
    }

    template <Isa isa>
    MILD_HD void operator()(int64_t begin, int64_t end) const {
        constexpr bool kFused = has_fma(isa);
        constexpr int64_t kAhead = 64;  // rows between asking for a record and writing it
        const Batch& batch = args.batch;
        const T* row = static_cast<const T*>(batch.logits) + begin * batch.row_stride;
        for (int64_t i = begin; i < std::min(begin + kAhead, end); ++i)
            prefetch_for_write(args.record + batch.index[i]);
        for (int64_t i = begin; i < end; i += kLanes) {
            const int64_t rows = std::min(kLanes, end - i);
            SomeRows facts;
            for (int64_t k = 0; k < rows; ++k, row += batch.row_stride) {
                if (i + k + kAhead < end)
                    prefetch_for_write(args.record + batch.index[i + k + kAhead]);
                if (ignores(i + k)) continue;
                const T* const ahead = i + k + 1 < end ? row + batch.row_stride : row;
                facts.put(k, facts_of_row<isa>(row, batch.classes, batch.labels[i + k],
                                               args.statistics, others, ahead));
            }
            int64_t visits[kLanes];
            facts.pack_visits<kFused>(args.statistics, visits);
            for (int64_t k = 0; k < rows; ++k)
                if (!ignores(i + k)) raise(args.record + batch.index[i + k], visits[k], shared);
        }
    }
};

template <class T>
void record(const RecordVisits& args, bool has_ignored, int threads) {
    const Batch& batch = args.batch;
    // With the exponentials a byte of logits takes about four times as long as reading it.
    const int64_t work = batch.classes * int64_t{sizeof(T)} * (args.statistics ? 4 : 1);
    const int parts = threads_for(batch.rows, work, kHasAtomicMax ? threads : 1);
    parallel(batch.rows, parts, [&](int, int64_t begin, int64_t end) {
        constexpr int64_t kOnStack = 2048;
        alignas(64) ValueOf<T> few[kOnStack];
        std::vector<ValueOf<T>> many;
        if (batch.classes > kOnStack) many.resize(static_cast<size_t>(batch.classes + kLanes));
        run(RecordRows<T>{args, has_ignored, parts > 1, many.empty() ? few : many.data()}, begin,
            end);
    });
}

}  // namespace

void record_visits(const RecordVisits& args, int threads) {
    if (args.batch.rows == 0) return;
    const bool has_ignored = checked(args.batch, args.num_samples).has_ignored;
    switch (args.batch.logit_type) {
        case LogitType::kFloat64:
            return record<double>(args, has_ignored, threads);
        case LogitType::kFloat32:
            return record<float>(args, has_ignored, threads);
        case LogitType::kFloat16:
            return record<Half>(args, has_ignored, threads);
        case LogitType::kBFloat16:
            return record<BFloat16>(args, has_ignored, threads);
    }
}

}  // namespace mild::cpu
