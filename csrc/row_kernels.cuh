// How a row of logits is dealt out to the lanes of a group, and the two passes over it: is the
// label the argmax (row_status.h), and what else follows (row_dynamics.h).
//
//   row:  | head | pack 0 | pack 1 | ... | own | ... | tail |        packs: 16 aligned bytes
//
// From a warp up, lane l reads packs l, l + kLanes, ..., kUnroll of them in flight before the first
// is looked at; the few classes that are left over, those of the head, of the tail and of the pack
// with the label, are one class for each of the first lanes. So no comparison in a pack depends on
// where the label lies in it. Smaller groups read class by class.
//
// Only what every architecture has is used (votes, shuffles, 32- and 64-bit atomics, shared
// memory), and nothing but this text is needed to run a kernel: python_tests/cpp/ compiles it for
// the host with a small shim.
#pragma once

#include "row_dynamics.h"
#include "status_ops.h"

namespace mild::cuda {

constexpr int kBlock = 256;  // threads of every block
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
// Blocks that a multiprocessor is to hold of the two row kernels: with 64 and 80 registers for a
// thread the compiler keeps the loads together, and spills nothing.
constexpr int kUpdateBlocks = 4;
constexpr int kVisitBlocks = 3;
constexpr int kUnroll = 4;  // packs of a lane in flight: 64 bytes

// Sixteen bytes of logits, one load.
template <class T>
struct alignas(16) LogitPack {
    static constexpr int kSize = 16 / sizeof(T);
    T values[kSize];
};
template <class T>
__device__ __forceinline__ LogitPack<T> load_pack(const LogitPack<T>* aligned) {
    static_assert(sizeof(LogitPack<T>) == sizeof(uint4), "one 16-byte load");
    const uint4 bits = *reinterpret_cast<const uint4*>(aligned);
    LogitPack<T> pack;
    memcpy(&pack, &bits, sizeof pack);
    return pack;
}

template <class Value>
__device__ __forceinline__ Value infinity();
template <>
__device__ __forceinline__ float infinity<float>() {
    return bits_float(0x7f800000u);
}
template <>
__device__ __forceinline__ double infinity<double>() {
    return static_cast<double>(infinity<float>());
}

// One row as one lane of a group of kLanes (a warp or a block) sees it. A row has fewer than 2^31
// classes.
template <class T, int kLanes>
struct LaneOfRow {
    static constexpr int kPack = LogitPack<T>::kSize;
    const T* row;
    int classes;
    int label;
    int lane;
    int head;   // classes before the first pack
    int packs;  // whole packs
    int own;    // the pack with the label; negative or >= packs: none has it
    const LogitPack<T>* first_pack;

    __device__ __forceinline__ LaneOfRow(const T* row_, int classes_, int label_, int lane_)
        : row(row_), classes(classes_), label(label_), lane(lane_) {
        const int misaligned = static_cast<int>(reinterpret_cast<uintptr_t>(row) % 16);
        head = misaligned == 0 ? 0 : (16 - misaligned) / static_cast<int>(sizeof(T));
        if (head > classes) head = classes;
        packs = (classes - head) / kPack;
        own = label < head ? -1 : (label - head) / kPack;
        first_pack = reinterpret_cast<const LogitPack<T>*>(row + head);
    }

    __device__ __forceinline__ int first_class(int pack) const { return head + pack * kPack; }
    // The u-th of the lane's packs from `first` on. Past the end it is the last one again: looking
    // at a pack twice changes nothing, and no load hangs on a condition.
    __device__ __forceinline__ int pack_of(int first, int u) const {
        const int p = first + lane + u * kLanes;
        return p < packs ? p : packs - 1;
    }

    // The class that this lane reads by itself: of the head, of the label's pack, or of the tail,
    // for eight lanes each; the label where it has none.
    __device__ __forceinline__ int single() const {
        static_assert(kPack <= 8 && kLanes >= 24, "three stretches of at most eight classes");
        const bool own_is_whole = 0 <= own && own < packs;
        const int kind = lane / 8;
        const int start = kind == 0 ? 0 : first_class(kind == 1 ? own : packs);
        const int end = kind == 0                   ? head
                        : kind == 1 && own_is_whole ? start + kPack
                        : kind == 2                 ? classes
                                                    : start;
        const int j = start + lane % 8;
        return j < end ? j : label;
    }
};

// ---- which rows are recorded ----

// Row i of a batch as every lane of its group sees it. Rows past the last one, and those labelled
// kIgnoredLabel, are not in the batch; of the others, `good` ones are recorded and bad ones
// counted.
struct BatchRow {
    bool in_batch;
    int64_t label;
    int64_t sample;
    bool epoch_good;
    bool index_good;
    bool label_good;
    bool good;

    __device__ __forceinline__ BatchRow(const Batch& batch, int64_t i, int64_t num_samples,
                                        bool epoch_good_) {
        label = i < batch.rows ? batch.labels[i] : kIgnoredLabel;
        in_batch = label != kIgnoredLabel;
        sample = in_batch ? batch.index[i] : 0;
        epoch_good = epoch_good_;
        index_good = 0 <= sample && sample < num_samples;
        label_good = 0 <= label && label < batch.classes;
        good = in_batch && epoch_good && index_good && label_good;
    }
    __device__ __forceinline__ void count_faults(unsigned long long* faults) const {
        if (!epoch_good) atomicAdd(faults + kBadEpoch, 1ull);
        if (!index_good) atomicAdd(faults + kBadIndex, 1ull);
        if (!label_good) atomicAdd(faults + kBadLabel, 1ull);
    }
};

// `good` of the row that a thread works on; where a whole warp works on one row, in a form that
// tells the compiler that its lanes stay together.
template <int kLanes>
__device__ __forceinline__ bool row_is_good(bool good) {
    return kLanes < kWarp ? good : __all_sync(kAllLanes, good) != 0;
}

// ---- is the label the argmax? ----

// The largest number below x: y < x is y <= next_below(x). A NaN where there is none (-infinity).
__device__ __forceinline__ float next_below(float x) {
    const uint32_t bits = float_bits(x);
    return bits_float(x == 0.0f ? 0x80000001u : x > 0.0f ? bits - 1 : bits + 1);
}
__device__ __forceinline__ double next_below(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = x == 0.0 ? 0x8000000000000001u : x > 0.0 ? bits - 1 : bits + 1;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// The lane's packs from `first` on, all in flight at once: the barrier keeps the compiler from
// waiting for one before it asks for the next. Every lane of the warp must call it.
template <int kPacks, class T, int kLanes>
__device__ __forceinline__ void load_packs(const LaneOfRow<T, kLanes>& part, int first,
                                           LogitPack<T> (&x)[kPacks]) {
#pragma unroll
    for (int u = 0; u < kPacks; ++u) x[u] = load_pack(part.first_pack + part.pack_of(first, u));
    __syncwarp();
}

// Those packs against the label's logit. A pack before the label's must lie below it, one after it
// may reach it; the label's own is looked at class by class elsewhere, and passes here unless it
// has a NaN, which ends the row anyhow.
template <int kPacks, class T, int kLanes>
__device__ __forceinline__ bool packs_agree(const LaneOfRow<T, kLanes>& part, int first,
                                            ValueOf<T> own, ValueOf<T> below) {
    LogitPack<T> x[kPacks];
    load_packs(part, first, x);
    ValueOf<T> most[kPacks];
#pragma unroll
    for (int u = 0; u < kPacks; ++u) {
        const int p = part.pack_of(first, u);
        const ValueOf<T> from_own_on = p == part.own ? infinity<ValueOf<T>>() : own;
        most[u] = p < part.own ? below : from_own_on;
    }
    bool agrees = true;
#pragma unroll
    for (int k = 0; k < LogitPack<T>::kSize; ++k)
#pragma unroll
        for (int u = 0; u < kPacks; ++u) agrees &= value_of(x[u].values[k]) <= most[u];
    return agrees;
}

// The part of a row that belongs to `lane` of kLanes. The label's own class is in it once, so that
// a NaN there disagrees with itself.
template <class T, int kLanes>
__device__ __forceinline__ bool lane_agrees(const T* row, int classes, int label, int lane) {
    using Value = ValueOf<T>;
    const Value own = value_of(row[label]);
    const Value below = next_below(own);
    const auto agrees_at = [&](int j, Value x) { return x <= (j < label ? below : own); };
    if constexpr (kLanes < kWarp) {
        bool agrees = true;
#pragma unroll 1
        for (int first = lane; first < classes; first += kUnroll * kLanes) {
            Value x[kUnroll];
            int at[kUnroll];
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) {
                const int j = first + u * kLanes;
                at[u] = j < classes ? j : label;
                x[u] = value_of(row[at[u]]);
            }
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) agrees &= agrees_at(at[u], x[u]);
        }
        return agrees;
    } else {
        const LaneOfRow<T, kLanes> part(row, classes, label, lane);
        const int at = part.single();
        const Value single = value_of(row[at]);
        // The same in every lane; asked for like this, it is not computed anew for each pack.
        const Value same_below = __shfl_sync(kAllLanes, below, 0);
        bool agrees = true;
        if (part.packs > kLanes) {
            // A row ends where any lane of the warp disagrees.
            for (int first = 0; first < part.packs && __all_sync(kAllLanes, agrees);
                 first += kUnroll * kLanes)
                agrees = packs_agree<kUnroll>(part, first, own, same_below);
        } else if (part.packs > 0) {
            agrees = packs_agree<1>(part, 0, own, same_below);
        }
        return agrees & agrees_at(at, single);
    }
}

// ---- everything else ----

// exp(d) for d <= 0, or +infinity where a logit is infinite.
__device__ __forceinline__ float exp_of(float d) {
#if defined(__CUDA_ARCH__)
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(d * 1.44269504f));
    return result;
#else
    return d > 0.0f ? infinity<float>() : d == d ? exp_of_nonpositive<true>(d) : d;
#endif
}

// What the exponents are taken against: the largest logit, but finite, so that no difference of
// infinities arises.
__device__ __forceinline__ float finite(float x) {
    const float most = 3.402823466e38f;
    return x > most ? most : x < -most ? -most : x;
}
__device__ __forceinline__ double finite(double x) {
    const double most = 1.7976931348623157e308;
    return x > most ? most : x < -most ? -most : x;
}

// The others among some classes of a row: the largest, where it is, and the two sums against it.
template <class Value>
struct SomeOthers {
    Value other = -infinity<Value>();
    int at = INT32_MAX;  // class of it; or the first class of its pack, if `in_pack`
    bool in_pack = false;
    float mass = 0.0f;  // NaN if a logit is
    float square = 0.0f;

    // n values, none of them the label's. Where each is follows from note(), called before.
    template <int n>
    __device__ __forceinline__ void sum(const Value (&x)[n], Value before) {
        const Value base = finite(other);
        const float scale = exp_of(static_cast<float>(finite(before) - base));
        mass *= scale;
        square *= scale * scale;
#pragma unroll
        for (int k = 0; k < n; ++k) {
            const float e = exp_of(static_cast<float>(x[k] - base));
            mass += e;
            square = multiply_add<true>(e, e, square);
        }
    }
    template <int n>
    __device__ __forceinline__ void look_for_nan(const Value (&x)[n]) {
        bool nan = false;
#pragma unroll
        for (int k = 0; k < n; ++k) nan |= x[k] != x[k];
        if (nan) mass = bits_float(0x7fc00000u);
    }
    template <int n>
    __device__ __forceinline__ void add(const Value (&x)[n], Value before, bool statistics) {
        if (statistics)
            sum(x, before);
        else
            look_for_nan(x);
    }
    // Takes the sums of other classes of the row over.
    __device__ __forceinline__ void join(const SomeOthers& from) {
        const Value most = from.other > other ? from.other : other;
        const float mine = exp_of(static_cast<float>(finite(other) - finite(most)));
        const float theirs = exp_of(static_cast<float>(finite(from.other) - finite(most)));
        mass = mass * mine + from.mass * theirs;
        square = square * (mine * mine) + from.square * (theirs * theirs);
        other = most;
    }
};

template <int kPacks, class T, int kLanes>
__device__ __forceinline__ void add_packs(const LaneOfRow<T, kLanes>& part, int first,
                                          bool statistics, SomeOthers<ValueOf<T>>& others) {
    using Value = ValueOf<T>;
    constexpr int kPack = LogitPack<T>::kSize;
    LogitPack<T> raw[kPacks];
    load_packs(part, first, raw);
    // So many at a time that their values fit beside the packs that wait.
    constexpr int kMost = sizeof(Value) == 4 ? 16 : 4;
    constexpr int kTogether = kPacks * kPack <= kMost ? kPacks : kMost / kPack;
#pragma unroll
    for (int from = 0; from < kPacks; from += kTogether) {
        Value x[kTogether * kPack];
        const Value before = others.other;
#pragma unroll
        for (int u = 0; u < kTogether; ++u) {
            const int p = part.pack_of(first, from + u);
            // Not twice into a sum, and the label's pack not at all.
            const bool counts = p == first + part.lane + (from + u) * kLanes && p != part.own;
            Value most = -infinity<Value>();
#pragma unroll
            for (int k = 0; k < kPack; ++k) {
                const Value value = counts ? value_of(raw[from + u].values[k]) : -infinity<Value>();
                x[u * kPack + k] = value;
                most = value > most ? value : most;
            }
            if (most > others.other) {
                others.other = most;
                others.at = part.first_class(p);
                others.in_pack = true;
            }
        }
        others.add(x, before, statistics);
    }
}

// n single classes, the label's among them where a lane has fewer.
template <int n, class T>
__device__ __forceinline__ void add_singles(const int (&at)[n], const T (&raw)[n], int label,
                                            bool statistics, SomeOthers<ValueOf<T>>& others) {
    using Value = ValueOf<T>;
    Value x[n];
    const Value before = others.other;
#pragma unroll
    for (int s = 0; s < n; ++s) {
        x[s] = at[s] == label ? -infinity<Value>() : value_of(raw[s]);
        const bool first = x[s] == others.other && at[s] < others.at;
        if (at[s] != label && (x[s] > others.other || first)) {
            others.other = x[s];
            others.at = at[s];
            others.in_pack = false;
        }
    }
    others.add(x, before, statistics);
}

template <class T, int kLanes>
__device__ __forceinline__ SomeOthers<ValueOf<T>> lane_others(const T* row, int classes, int label,
                                                              int lane, bool statistics) {
    SomeOthers<ValueOf<T>> others;
    if constexpr (kLanes < kWarp) {
#pragma unroll 1
        for (int first = lane; first < classes; first += kUnroll * kLanes) {
            T raw[kUnroll];
            int at[kUnroll];
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) {
                const int j = first + u * kLanes;
                at[u] = j < classes ? j : label;
                raw[u] = row[at[u]];
            }
            add_singles(at, raw, label, statistics, others);
        }
    } else {
        const LaneOfRow<T, kLanes> part(row, classes, label, lane);
        const int at[1] = {part.single()};
        const T single[1] = {row[at[0]]};
        if (part.packs > kLanes) {
            for (int first = 0; first < part.packs; first += kUnroll * kLanes)
                add_packs<kUnroll>(part, first, statistics, others);
        } else if (part.packs > 0) {
            add_packs<1>(part, 0, statistics, others);
        }
        add_singles(at, single, label, statistics, others);
    }
    return others;
}

}  // namespace mild::cuda
