// The kernels of dynamics_ops.h: recording visits, ending epochs, reading the classes.
#pragma once

#include "dynamics_ops.h"
#include "row_kernels.cuh"

namespace mild::cuda {

// ---- record_visits ----

// What a row's group shares in a block: entries of one warp each.
struct RowShared {
    double other[kBlock / kWarp];
    float mass[kBlock / kWarp];
    float square[kBlock / kWarp];
    int first[kBlock / kWarp];
};
extern __shared__ double row_shared[];  // a RowShared, where a block works on a row

template <int kLanes, class X>
__device__ __forceinline__ X group_max(X x) {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
        const X other = __shfl_xor_sync(kAllLanes, x, step);
        x = other > x ? other : x;
    }
    return x;
}
template <int kLanes>
__device__ __forceinline__ int group_min(int x) {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
        const int other = __shfl_xor_sync(kAllLanes, x, step);
        x = other < x ? other : x;
    }
    return x;
}
template <int kLanes>
__device__ __forceinline__ float group_sum(float x) {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
    return x;
}

// The others of whole groups of up to a warp; afterwards every lane has them.
template <int kLanes, class Value>
__device__ __forceinline__ SomeOthers<Value> join_lanes(SomeOthers<Value> part) {
    const Value other = group_max<kLanes>(part.other);
    const float scale = exp_of(static_cast<float>(finite(part.other) - finite(other)));
    part.mass = group_sum<kLanes>(part.mass * scale);
    part.square = group_sum<kLanes>(part.square * (scale * scale));
    part.other = other;
    return part;
}

// The class of this lane that has the row's largest other logit; INT32_MAX if none does.
template <class T>
__device__ __forceinline__ int class_of(const SomeOthers<ValueOf<T>>& mine, ValueOf<T> other,
                                        const T* row) {
    if (mine.other != other || mine.at == INT32_MAX) return INT32_MAX;
    if (!mine.in_pack) return mine.at;
    const LogitPack<T> pack = load_pack(reinterpret_cast<const LogitPack<T>*>(row + mine.at));
    int k = LogitPack<T>::kSize - 1;
#pragma unroll
    for (int i = LogitPack<T>::kSize - 2; i >= 0; --i)
        if (value_of(pack.values[i]) == other) k = i;
    return mine.at + k;
}

// The row as its first lane sees it in the end; every thread of the block must call it.
template <class T, int kLanes>
__device__ __forceinline__ RowFacts facts_of_row(const T* row, int classes, int label, int lane,
                                                 bool owns_row, bool statistics) {
    using Value = ValueOf<T>;
    SomeOthers<Value> mine;
    Value own = 0;
    if (owns_row) {
        own = value_of(row[label]);
        mine = lane_others<T, kLanes>(row, classes, label, lane, statistics);
    }
    constexpr int kInWarp = kLanes < kWarp ? kLanes : kWarp;
    SomeOthers<Value> all = join_lanes<kInWarp>(mine);
    if constexpr (kLanes > kWarp) {
        auto* const shared = reinterpret_cast<RowShared*>(row_shared);
        const unsigned warp = threadIdx.x / kWarp;
        __syncthreads();  // the row before has been read
        if (threadIdx.x % kWarp == 0) {
            shared->other[warp] = static_cast<double>(all.other);
            shared->mass[warp] = all.mass;
            shared->square[warp] = all.square;
        }
        __syncthreads();
        all = SomeOthers<Value>();
        for (int w = 0; w < kBlock / kWarp; ++w) {
            SomeOthers<Value> part;
            part.other = static_cast<Value>(shared->other[w]);
            part.mass = shared->mass[w];
            part.square = shared->square[w];
            all.join(part);
        }
    }
    int first = INT32_MAX;
    if (kLanes < kWarp || !(own > all.other)) {  // the same for the whole group
        first = group_min<kInWarp>(owns_row ? class_of<T>(mine, all.other, row) : INT32_MAX);
        if constexpr (kLanes > kWarp) {
            auto* const shared = reinterpret_cast<RowShared*>(row_shared);
            if (threadIdx.x % kWarp == 0) shared->first[threadIdx.x / kWarp] = first;
            __syncthreads();
            for (int w = 0; w < kBlock / kWarp; ++w)
                first = shared->first[w] < first ? shared->first[w] : first;
        }
    }
    RowFacts facts{};
    if (all.other == -infinity<Value>()) {
        first = label == 0 ? 1 : 0;
        all.mass = all.mass != all.mass ? all.mass : static_cast<float>(classes - 1);
        all.square = static_cast<float>(classes - 1);
    }
    facts.has_nan = own != own || all.mass != all.mass;
    facts.margin = difference(own, all.other);
    facts.misclassified =
        facts.has_nan || !(own > all.other || (own == all.other && label < first));
    facts.predicted = static_cast<uint32_t>(facts.misclassified ? first : label);
    facts.mass = all.mass;
    facts.square = all.square;
    return facts;
}

// The sums of a row whose largest other logit is +infinity: as many as there are of these.
template <class T>
__device__ __forceinline__ void count_infinite(const T* row, int classes, int label,
                                               RowFacts& facts) {
    float count = 0.0f;
    for (int j = 0; j < classes; ++j)
        count += j != label && value_of(row[j]) == infinity<ValueOf<T>>() ? 1.0f : 0.0f;
    facts.mass = count;
    facts.square = count;
}

// kLanes threads own row i = base + threadIdx.x / kLanes; the first of them writes. `base` is the
// same for the whole block, so that all its threads meet in every shuffle.
template <class T, int kLanes>
__global__ void __launch_bounds__(kBlock, kVisitBlocks) visits_kernel(const RecordVisits args) {
    constexpr int64_t kRows = kBlock / kLanes;  // rows of a block
    const Batch& batch = args.batch;
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    const int classes = static_cast<int>(batch.classes);
    const int64_t epoch = *batch.epoch;
    const bool epoch_good = 0 <= epoch && epoch < batch.num_epochs;
    for (int64_t base = blockIdx.x * kRows; base < batch.rows; base += gridDim.x * kRows) {
        const int64_t i = base + threadIdx.x / kLanes;
        const BatchRow mine(batch, i, args.num_samples, epoch_good);
        // Looked at early, so that the wait for it hides behind the logits.
        const int64_t before = mine.good && lane == 0 ? args.record[mine.sample] : 0;
        const T* const row = static_cast<const T*>(batch.logits) + i * batch.row_stride;
        RowFacts facts = facts_of_row<T, kLanes>(row, classes, static_cast<int>(mine.label), lane,
                                                 mine.good, args.statistics);
        if (!mine.in_batch || lane != 0) continue;
        if (mine.good) {
            if (facts.mass == infinity<float>())
                count_infinite(row, classes, static_cast<int>(mine.label), facts);
            const int64_t visit = pack(visit_of<true>(facts, args.statistics));
            if (visit > before)
                atomicMax(reinterpret_cast<long long*>(args.record + mine.sample),
                          static_cast<long long>(visit));
        } else {
            mine.count_faults(batch.faults);
        }
    }
}

// ---- one thread, one sample ----

// Every thread of a block goes through the samples together: `sample` may lie past the last one.
template <class Each>
__device__ __forceinline__ void for_each_sample(int64_t first, int64_t last, const Each& each) {
    for (int64_t base = first + static_cast<int64_t>(blockIdx.x) * kBlock; base < last;
         base += static_cast<int64_t>(gridDim.x) * kBlock)
        each(base + threadIdx.x);
}

// A warp's samples share the words of the planes: a vote makes each.
__global__ void __launch_bounds__(kBlock) fold_kernel(const FoldEpoch args) {
    const int64_t n = args.status.num_samples;
    const int64_t epoch = *args.epoch;
    if (epoch < 0 || epoch >= args.num_epochs) return;
    const Places places(args.num_epochs);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for_each_sample(0, n, [&](int64_t i) {
        const int64_t record = i < n ? args.record[i] : kNoVisit;
        const bool visited = record != kNoVisit;
        if (args.parts & kIntoEpoch) {
            const VisitFields visit(record);
            const uint32_t code = visited ? code_of(visit.predicted, visit.key) : 0u;
            uint32_t mine = 0;
            for (int b = 0; b < args.classes.bits; ++b) {
                const uint32_t word = __ballot_sync(kAllLanes, (code >> b & 1u) != 0);
                if (lane == b) mine = word;
            }
            if (lane < args.classes.bits && i - lane < n)
                args.classes.at(epoch, i / kSamplesPerPlaneWord)[lane * args.classes.words()] =
                    mine;
        }
        if (i >= n) return;
        if (visited && (args.parts & kIntoEpoch)) {
            WordPair* const pair = args.status.words + pair_offset(i, args.status.num_words, epoch);
            pair->seen |= bit_of(epoch);
            if (record >= 0) pair->wrong |= bit_of(epoch);
        }
        if (visited && (args.parts & kIntoSums)) {
            const VisitFields visit(record);
            const auto add = [&](int row, int32_t value) { args.sums[row * n + i] += value; };
            add(kShortfall, shortfall_of(visit.key, places));
            if (args.statistics) {
                const float p = probability_of(visit.loss);
                add(kMargin, margin_of(visit.key, places));
                add(kLoss, loss_of(visit.loss, places));
                add(kProbability, fixed_point(p, places.probability));
                add(kProbabilitySquared, fixed_point(multiply(p, p), places.probability));
                add(kEl2n, el2n_of(visit.el2n, places));
            }
        }
        if ((args.parts & kIntoSums) && epoch + 1 == args.half())
            args.sums[kShortfallFirstHalf * n + i] = args.sums[kShortfall * n + i];
        if (visited && (args.parts & kEmptied)) args.record[i] = kNoVisit;
    });
}

// ---- reading the classes ----

// code(t) of one sample; 0 past the last.
struct CodeOf {
    const PredictedClasses& classes;
    int64_t sample;
    __device__ __forceinline__ uint32_t operator()(int64_t t) const {
        return sample < classes.num_samples ? classes.code(t, sample) : 0u;
    }
};

__global__ void __launch_bounds__(kBlock) predictions_kernel(const ReadClasses read, int32_t* out) {
    const int64_t n = read.classes.num_samples;
    for_each_sample(0, n, [&](int64_t i) {
        if (i < n) out[i] = static_cast<int32_t>(CodeOf{read.classes, i}(read.start)) - 1;
    });
}

// out: int32 [last - first, num_classes], zeroed before; a thread adds to its own row.
__global__ void __launch_bounds__(kBlock)
    votes_kernel(const ReadClasses read, int64_t first, int64_t last, int32_t* out) {
    for_each_sample(first, last, [&](int64_t i) {
        if (i >= last) return;
        const CodeOf code{read.classes, i};
        int32_t* const votes = out + (i - first) * read.num_classes;
        for (int64_t t = read.start; t < read.stop; ++t) {
            const int64_t c = int64_t{code(t)} - 1;
            if (0 <= c && c < read.num_classes) ++votes[c];
        }
    });
}

// out: int32 [3, num_samples]
__global__ void __launch_bounds__(kBlock)
    majority_kernel(const ReadClasses read, const int64_t* excluded, int32_t* out) {
    const int64_t n = read.classes.num_samples;
    for_each_sample(0, n, [&](int64_t i) {
        if (i >= n) return;
        const uint32_t without = excluded == nullptr ? 0u : static_cast<uint32_t>(excluded[i] + 1);
        const Majority found = majority(CodeOf{read.classes, i}, read.start, read.stop, without);
        out[i] = static_cast<int32_t>(found.code) - 1;
        out[n + i] = found.count;
        out[2 * n + i] = found.votes;
    });
}

__global__ void __launch_bounds__(kBlock)
    count_predicted_kernel(const ReadClasses read, const int64_t* wanted, int32_t* out) {
    const int64_t n = read.classes.num_samples;
    for_each_sample(0, n, [&](int64_t i) {
        if (i < n)
            out[i] = count_code(CodeOf{read.classes, i}, read.start, read.stop,
                                static_cast<uint32_t>(wanted[i] + 1));
    });
}

// changed: [stop - start], zeroed before. Shared memory: unsigned [stop - start], the block's
// counts.
extern __shared__ unsigned epoch_counts[];
__global__ void __launch_bounds__(kBlock)
    changes_kernel(const ReadClasses read, int32_t* out, unsigned long long* changed) {
    const int64_t n = read.classes.num_samples;
    const int length = static_cast<int>(read.stop - read.start);
    for (int t = static_cast<int>(threadIdx.x); t < length; t += kBlock) epoch_counts[t] = 0;
    __syncthreads();
    for_each_sample(0, n, [&](int64_t i) {
        const int32_t changes = count_changes(
            CodeOf{read.classes, i}, read.start, read.stop, [&](int64_t t, bool change) {
                const unsigned lanes = __ballot_sync(kAllLanes, change);
                if (threadIdx.x % kWarp == 0 && lanes != 0)
                    atomicAdd(epoch_counts + (t - read.start),
                              static_cast<unsigned>(__popc(lanes)));
            });
        if (i < n) out[i] = changes;
    });
    __syncthreads();
    for (int t = static_cast<int>(threadIdx.x); t < length; t += kBlock)
        if (epoch_counts[t] != 0)
            atomicAdd(changed + t, static_cast<unsigned long long>(epoch_counts[t]));
}

}  // namespace mild::cuda
