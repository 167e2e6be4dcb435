// The kernels. Each is a grid-stride loop over one of the functions of row_status.h and
// status_word.h.
//
// Only what every architecture has is used (votes, shuffles, 32- and 64-bit atomics, shared
// memory), and nothing but this text is needed to run a kernel: python_tests/cpp/ compiles it for
// the host with a small shim.
#pragma once

#include "row_status.h"
#include "status_ops.h"

namespace mild::cuda {

constexpr int kBlock = 256;  // threads of every block
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// ---- update ----

// Sixteen bytes of logits, one load.
template <class T>
struct alignas(16) LogitPack {
    static constexpr int kSize = 16 / sizeof(T);
    T values[kSize];
};
template <class T>
__device__ __forceinline__ LogitPack<T> load_pack(const T* aligned) {
    static_assert(sizeof(LogitPack<T>) == sizeof(uint4), "one 16-byte load");
    const uint4 bits = *reinterpret_cast<const uint4*>(aligned);
    LogitPack<T> pack;
    memcpy(&pack, &bits, sizeof pack);
    return pack;
}

// AND of the comparisons for the classes [first, first + pack) in registers.
template <class T>
__device__ __forceinline__ bool pack_agrees(const LogitPack<T>& pack, LabelLogit<T> logit,
                                            int64_t label, int64_t first) {
    bool agrees = true;
#pragma unroll
    for (int k = 0; k < LogitPack<T>::kSize; ++k) {
        const T x = pack.values[k];
        agrees &= first + k < label ? logit.above(x) : logit.at_least(x);
    }
    return agrees;
}

// The part of a row that belongs to `lane` of kLanes: adjacent lanes read adjacent memory. From a
// warp up, the aligned middle of the row is read 16 bytes at a time, kUnroll loads in flight before
// the first is looked at.
template <class T, int kLanes>
__device__ __forceinline__ bool lane_agrees(const T* row, int64_t classes, int64_t label,
                                            int lane) {
    const LabelLogit<T> logit(row[label]);
    if constexpr (kLanes < kWarp) {
        return part_agrees(row, logit, label, lane, kLanes, classes);
    } else {
        constexpr int kPack = LogitPack<T>::kSize;
        constexpr int kUnroll = sizeof(T) == 2 ? 2 : 4;  // 16 or 32 logits in registers
        const auto misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(row) % 16);
        int64_t head = misaligned == 0 ? 0 : (16 - misaligned) / int64_t{sizeof(T)};
        if (head > classes) head = classes;
        const int64_t packs = (classes - head) / kPack;
        const int64_t tail = head + packs * kPack;
        if (!part_agrees(row, logit, label, lane, kLanes, head)) return false;
        if (!part_agrees(row, logit, label, tail + lane, kLanes, classes)) return false;
        int64_t p = lane;
        for (; p + (kUnroll - 1) * kLanes < packs; p += kUnroll * kLanes) {
            LogitPack<T> pack[kUnroll];
#pragma unroll
            for (int u = 0; u < kUnroll; ++u)
                pack[u] = load_pack(row + head + (p + u * kLanes) * kPack);
            bool agrees = true;
#pragma unroll
            for (int u = 0; u < kUnroll; ++u)
                agrees &= pack_agrees(pack[u], logit, label, head + (p + u * kLanes) * kPack);
            if (!agrees) return false;
        }
        for (; p < packs; p += kLanes)
            if (!pack_agrees(load_pack(row + head + p * kPack), logit, label, head + p * kPack))
                return false;
        return true;
    }
}

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

// Skips the atomic where the bit is there already: visits of one sample in one epoch, and replays.
__device__ __forceinline__ void set_bit(uint64_t* word, uint64_t bit) {
    if ((*word & bit) == 0)
        atomicOr(reinterpret_cast<unsigned long long*>(word), static_cast<unsigned long long>(bit));
}

// kLanes threads own row i = base + threadIdx.x / kLanes; the first of them writes. `base` is the
// same for the whole block, so that all its threads meet in every vote.
template <class T, int kLanes>
__global__ void __launch_bounds__(kBlock) update_kernel(const Update args) {
    const Batch& batch = args.batch;
    constexpr int64_t kRows = kBlock / kLanes;  // rows of a block
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    const int64_t epoch = *batch.epoch;
    const bool epoch_good = 0 <= epoch && epoch < batch.num_epochs;
    for (int64_t base = blockIdx.x * kRows; base < batch.rows; base += gridDim.x * kRows) {
        const int64_t i = base + threadIdx.x / kLanes;
        const bool owns_row = i < batch.rows;
        int64_t sample = 0;
        int64_t label = 0;
        bool index_good = false;
        bool label_good = false;
        bool agrees = false;
        if (owns_row) {
            sample = batch.index[i];
            label = batch.labels[i];
            index_good = 0 <= sample && sample < args.status.num_samples;
            label_good = 0 <= label && label < batch.classes;
            if (epoch_good && index_good && label_good)
                agrees = lane_agrees<T, kLanes>(
                    static_cast<const T*>(batch.logits) + i * batch.row_stride, batch.classes,
                    label, lane);
        }
        const bool memorized = group_agrees<kLanes>(agrees);
        if (!owns_row || lane != 0) continue;
        if (epoch_good && index_good && label_good) {
            WordPair* const pair =
                args.status.words + pair_offset(sample, args.status.num_words, epoch);
            set_bit(&pair->seen, bit_of(epoch));
            if (!memorized) set_bit(&pair->wrong, bit_of(epoch));
        } else {
            if (!epoch_good) atomicAdd(batch.faults + kBadEpoch, 1ull);
            if (!index_good) atomicAdd(batch.faults + kBadIndex, 1ull);
            if (!label_good) atomicAdd(batch.faults + kBadLabel, 1ull);
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

// counts: [P + 1, P + 1] over (misclassified, seen), zeroed before.
// Shared memory, unsigned each:
//   kAllBins   [P + 1, P + 1] over (seen, misclassified): every bin
//   otherwise  [P + 1] over misclassified: the samples seen in every epoch, nearly all; the others
//   go to `counts`
template <bool kAllBins>
__global__ void __launch_bounds__(kBlock)
    histogram_kernel(const ConstStatusBuffer status, const Window window,
                     unsigned long long* counts) {
    extern __shared__ unsigned histogram_bins[];
    const int side = static_cast<int>(window.length()) + 1;
    const int num_bins = kAllBins ? side * side : side;
    for (int b = static_cast<int>(threadIdx.x); b < num_bins; b += kBlock) histogram_bins[b] = 0;
    __syncthreads();

    // `base` is the same for the whole block: all lanes of a warp meet in every vote.
    for (int64_t base = static_cast<int64_t>(blockIdx.x) * kBlock; base < status.num_samples;
         base += samples_per_step()) {
        const int64_t i = base + threadIdx.x;
        int key = -1;
        if (i < status.num_samples) {
            const Totals t = totals(status.words + i * status.num_words, window);
            if (kAllBins)
                key = t.seen * side + t.misclassified;
            else if (t.seen == side - 1)
                key = t.misclassified;
            else
                atomicAdd(counts + int64_t{t.misclassified} * side + t.seen, 1ull);
        }
        count_in_warp(histogram_bins, key);
    }
    __syncthreads();

    for (int b = static_cast<int>(threadIdx.x); b < num_bins; b += kBlock) {
        const unsigned count = histogram_bins[b];
        const int seen = kAllBins ? b / side : side - 1;
        const int misclassified = kAllBins ? b % side : b;
        if (count != 0)
            atomicAdd(counts + int64_t{misclassified} * side + seen,
                      static_cast<unsigned long long>(count));
    }
}

}  // namespace mild::cuda
