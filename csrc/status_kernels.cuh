// The kernels of status_ops.h. Each is a grid-stride loop over one of the functions of
// row_kernels.cuh and status_word.h.
#pragma once

#include "row_kernels.cuh"
#include "status_ops.h"

namespace mild::cuda {

// ---- update ----

// Whether all kLanes lanes of this thread's group agree. Every thread of the block must call it.
template <int kLanes>
__device__ __forceinline__ bool group_agrees(bool agrees) {
    if constexpr (kLanes == 1) {
        return agrees;
    } else if constexpr (kLanes <= kWarp) {
        constexpr unsigned kGroup = kAllLanes >> (kWarp - kLanes);
        const unsigned first_lane = threadIdx.x % kWarp / kLanes * kLanes;
        return (__ballot_sync(kAllLanes, agrees) >> first_lane & kGroup) == kGroup;
    } else {
        static_assert(kLanes == kBlock, "a group is part of a warp, a warp, or the block");
        return __syncthreads_and(agrees) != 0;
    }
}

__device__ __forceinline__ void set_bit(uint64_t* word, uint64_t bit) {
    atomicOr(reinterpret_cast<unsigned long long*>(word), static_cast<unsigned long long>(bit));
}

// kLanes threads own row i = base + threadIdx.x / kLanes; the first of them writes. `base` is the
// same for the whole block, so that all its threads meet in every vote.
template <class T, int kLanes>
__global__ void __launch_bounds__(kBlock, kUpdateBlocks) update_kernel(const Update args) {
    constexpr int64_t kRows = kBlock / kLanes;  // rows of a block
    const Batch& batch = args.batch;
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    const int classes = static_cast<int>(batch.classes);
    const int64_t epoch = *batch.epoch;
    const bool epoch_good = 0 <= epoch && epoch < batch.num_epochs;
    const uint64_t bit = bit_of(epoch);
    for (int64_t base = blockIdx.x * kRows; base < batch.rows; base += gridDim.x * kRows) {
        const int64_t i = base + threadIdx.x / kLanes;
        const BatchRow mine(batch, i, args.status.num_samples, epoch_good);
        WordPair* const pair =
            args.status.words + pair_offset(mine.sample, args.status.num_words, epoch);
        // Looked at early, so that the wait for it hides behind the logits. Bits that are there
        // already (another visit in this epoch, a replay) need no atomic.
        WordPair before{0, 0};
        if (mine.good && lane == 0) before = *pair;
        bool agrees = false;
        if (row_is_good<kLanes>(mine.good))
            agrees =
                lane_agrees<T, kLanes>(static_cast<const T*>(batch.logits) + i * batch.row_stride,
                                       classes, static_cast<int>(mine.label), lane);
        const bool memorized = group_agrees<kLanes>(agrees);
        if (!mine.in_batch || lane != 0) continue;
        if (mine.good) {
            if ((before.seen & bit) == 0) set_bit(&pair->seen, bit);
            if (!memorized && (before.wrong & bit) == 0) set_bit(&pair->wrong, bit);
        } else {
            mine.count_faults(batch.faults);
        }
    }
}

// ---- one thread, one sample ----

__device__ __forceinline__ int64_t first_sample() {
    return static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
}
__device__ __forceinline__ int64_t samples_per_step() {
    return static_cast<int64_t>(gridDim.x) * kBlock;
}

// out: int32 [8, num_samples]
__global__ void __launch_bounds__(kBlock)
    transition_times_kernel(const ConstStatusBuffer status, const Window window, int32_t* out) {
    const int64_t n = status.num_samples;
    for (int64_t i = first_sample(); i < n; i += samples_per_step()) {
        store(transition_times(status.words + i * status.num_words, window), out, i, n);
    }
}

// table: [P + 1, P + 1] over (misclassified, seen), out: [num_samples]
template <class Element>
__global__ void __launch_bounds__(kBlock)
    lookup_kernel(const ConstStatusBuffer status, const Window window, const Element* table,
                  Element* out) {
    const int64_t side = window.length() + 1;
    for (int64_t i = first_sample(); i < status.num_samples; i += samples_per_step()) {
        const Totals t = totals(status.words + i * status.num_words, window);
        out[i] = table[t.misclassified * side + t.seen];
    }
}

// out: int32 [num_samples]
__global__ void __launch_bounds__(kBlock)
    first_run_kernel(const ConstStatusBuffer status, const Window window, int64_t length,
                     int32_t* out) {
    for (int64_t i = first_sample(); i < status.num_samples; i += samples_per_step())
        out[i] = first_run(status.words + i * status.num_words, window, length);
}

// ---- histogram ----

// ++bins[key] for every lane with key >= 0. Neighbouring samples often share a bin (most are always
// memorized or never), and atomics on one address take turns, so the two keys met first are added
// once for all their lanes.
__device__ __forceinline__ void count_in_warp(unsigned* bins, int key) {
    const unsigned lane = threadIdx.x % kWarp;
    unsigned waiting = __ballot_sync(kAllLanes, key >= 0);
#pragma unroll
    for (int round = 0; round < 2; ++round) {
        if (waiting == 0) return;
        const int leader = __ffs(static_cast<int>(waiting)) - 1;
        const int leader_key = __shfl_sync(kAllLanes, key, leader);
        const unsigned same = __ballot_sync(kAllLanes, key == leader_key);
        if (static_cast<int>(lane) == leader)
            atomicAdd(bins + key, static_cast<unsigned>(__popc(same)));
        if (key == leader_key) key = -1;
        waiting &= ~same;
    }
    if (key >= 0) atomicAdd(bins + key, 1u);
}

// Bins that a block may keep: what every architecture gives without asking.
constexpr int64_t kSharedBytes = 48 * 1024;

// How many values of `seen`, from P downward, have bins in the block: all of them in windows of up
// to 109 epochs, and at least P and P - 1, since most samples miss at most an epoch.
inline int binned_values(int64_t side) {
    static_assert(2 * (kMaxEpochs + 1) * sizeof(unsigned) <= kSharedBytes, "two rows always fit");
    const int64_t most = kSharedBytes / (side * int64_t{sizeof(unsigned)});
    return static_cast<int>(most < side ? most : side);
}

// counts: [P + 1, P + 1] over (misclassified, seen), zeroed before.
// Shared memory, unsigned [binned, P + 1] over (seen - (P + 1 - binned), misclassified); the
// samples seen in fewer epochs go to `counts`.
__global__ void __launch_bounds__(kBlock)
    histogram_kernel(const ConstStatusBuffer status, const Window window, const int binned,
                     unsigned long long* counts) {
    extern __shared__ unsigned histogram_bins[];
    const int side = static_cast<int>(window.length()) + 1;
    const int first_seen = side - binned;
    const int num_bins = binned * side;
    for (int b = static_cast<int>(threadIdx.x); b < num_bins; b += kBlock) histogram_bins[b] = 0;
    __syncthreads();

    // `base` is the same for the whole block: all lanes of a warp meet in every vote.
    for (int64_t base = static_cast<int64_t>(blockIdx.x) * kBlock; base < status.num_samples;
         base += samples_per_step()) {
        const int64_t i = base + threadIdx.x;
        int key = -1;
        if (i < status.num_samples) {
            const Totals t = totals(status.words + i * status.num_words, window);
            if (t.seen >= first_seen)
                key = (t.seen - first_seen) * side + t.misclassified;
            else
                atomicAdd(counts + int64_t{t.misclassified} * side + t.seen, 1ull);
        }
        count_in_warp(histogram_bins, key);
    }
    __syncthreads();

    for (int b = static_cast<int>(threadIdx.x); b < num_bins; b += kBlock) {
        const unsigned count = histogram_bins[b];
        if (count != 0)
            atomicAdd(counts + int64_t{b % side} * side + first_seen + b / side,
                      static_cast<unsigned long long>(count));
    }
}

}  // namespace mild::cuda
