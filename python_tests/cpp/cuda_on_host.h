// Runs the text of a CUDA kernel on the CPU: just enough of the language for csrc/*_kernels.cuh.
//
// Every thread of a block is a fiber with its own stack. A fiber gives way at every vote, shuffle,
// barrier and atomic, and the next one to run is drawn at random from a seed, so that a result that
// depends on the order of execution shows. Blocks run one after another, in random order. A vote
// that not all lanes of the warp reach (or a barrier that not all threads of the block reach) is
// found and reported, as is one with another mask than all lanes.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__

struct uint4 {
    unsigned x, y, z, w;
};
struct Index {
    unsigned x;
};
inline Index threadIdx, blockIdx, gridDim;

namespace on_host {

constexpr unsigned kWarpSize = 32;
inline int64_t wide_adds = 0;  // atomicAdd of 64 bits: those that go to global memory

// Where the threads of a group (a warp or the block) leave a value each and wait for the others.
struct Meeting {
    unsigned size = 0;
    unsigned arrived = 0;
    unsigned rounds = 0;
    std::vector<int64_t> left, taken;
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done = false;
};

class Block {
  public:
    static Block*& current() {
        static Block* block = nullptr;
        return block;
    }

    Block(unsigned threads, std::mt19937& random, const std::function<void()>& kernel)
        : random_(random), kernel_(kernel), fibers_(threads), warps_(threads / kWarpSize) {
        for (Meeting& warp : warps_) warp.size = kWarpSize;
        all_.size = threads;
    }

    void run() {
        constexpr size_t kStack = 64 * 1024;
        current() = this;
        for (Fiber& fiber : fibers_) {
            getcontext(&fiber.context);
            fiber.stack = std::make_unique<char[]>(kStack);
            fiber.context.uc_stack.ss_sp = fiber.stack.get();
            fiber.context.uc_stack.ss_size = kStack;
            fiber.context.uc_link = &scheduler_;
            makecontext(&fiber.context, &Block::enter, 0);
        }
        std::vector<unsigned> order(fibers_.size());
        std::iota(order.begin(), order.end(), 0u);
        for (size_t live = fibers_.size(); live > 0;) {
            std::shuffle(order.begin(), order.end(), random_);
            progress_ = false;
            for (const unsigned thread : order) {
                if (fibers_[thread].done) continue;
                running_ = thread;
                threadIdx.x = thread;
                swapcontext(&scheduler_, &fibers_[thread].context);
                if (fibers_[thread].done) --live;
            }
            if (!progress_) throw std::runtime_error("not all threads reach a vote or barrier");
        }
    }

    void give_way() {
        const unsigned me = running_;
        swapcontext(&fibers_[me].context, &scheduler_);
    }

    void give_way_sometimes() {
        progress_ = true;
        if (random_() % 2) give_way();
    }

    // Leaves `value`, waits for the group, and returns what all have left.
    const std::vector<int64_t>& meet(bool whole_block, int64_t value) {
        give_way_sometimes();
        Meeting& group = whole_block ? all_ : warps_[running_ / kWarpSize];
        group.left.resize(group.size);
        group.left[running_ % group.size] = value;
        progress_ = true;
        if (++group.arrived == group.size) {
            group.arrived = 0;
            ++group.rounds;
            group.taken = group.left;
        } else {
            const unsigned round = group.rounds;
            while (group.rounds == round) give_way();
        }
        return group.taken;
    }

  private:
    static void enter() {
        Block& block = *current();
        block.kernel_();
        block.fibers_[block.running_].done = true;
        block.progress_ = true;
    }

    std::mt19937& random_;
    const std::function<void()>& kernel_;
    std::vector<Fiber> fibers_;
    std::vector<Meeting> warps_;
    Meeting all_;
    ucontext_t scheduler_;
    unsigned running_ = 0;
    bool progress_ = false;
};

inline void launch(unsigned grid, unsigned threads, unsigned seed,
                   const std::function<void()>& kernel) {
    std::mt19937 random(seed);
    std::vector<unsigned> blocks(grid);
    std::iota(blocks.begin(), blocks.end(), 0u);
    std::shuffle(blocks.begin(), blocks.end(), random);
    gridDim.x = grid;
    for (const unsigned block : blocks) {
        blockIdx.x = block;
        Block(threads, random, kernel).run();
    }
}

inline void require_all_lanes(unsigned mask) {
    if (mask != 0xffffffffu) throw std::runtime_error("a vote must name all lanes");
}

}  // namespace on_host

inline unsigned __ballot_sync(unsigned mask, bool vote) {
    on_host::require_all_lanes(mask);
    unsigned bits = 0;
    const std::vector<int64_t>& votes = on_host::Block::current()->meet(false, vote);
    for (unsigned lane = 0; lane < on_host::kWarpSize; ++lane)
        bits |= static_cast<unsigned>(votes[lane] != 0) << lane;
    return bits;
}
inline int __all_sync(unsigned mask, bool vote) { return __ballot_sync(mask, vote) == 0xffffffffu; }
inline void __syncwarp() { on_host::Block::current()->meet(false, 0); }

// What lane `from` of the warp has left; a value of up to 8 bytes.
template <class T>
T shuffled(unsigned mask, T value, unsigned from) {
    on_host::require_all_lanes(mask);
    static_assert(sizeof value <= sizeof(int64_t), "one word for each lane");
    int64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = on_host::Block::current()->meet(false, bits)[from];
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
    return shuffled(mask, value, static_cast<unsigned>(lane));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    return shuffled(mask, value, threadIdx.x % on_host::kWarpSize ^ static_cast<unsigned>(lanes));
}
inline int __syncthreads_and(bool vote) {
    const std::vector<int64_t>& votes = on_host::Block::current()->meet(true, vote);
    return std::all_of(votes.begin(), votes.end(), [](int64_t v) { return v != 0; });
}
inline void __syncthreads() { on_host::Block::current()->meet(true, 0); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <class T>
T atomicOr(T* at, T value) {
    on_host::Block::current()->give_way_sometimes();
    const T before = *at;
    *at |= value;
    return before;
}
template <class T>
T atomicAdd(T* at, T value) {
    on_host::Block::current()->give_way_sometimes();
    if (sizeof(T) == 8) ++on_host::wide_adds;
    const T before = *at;
    *at += value;
    return before;
}
template <class T>
T atomicMax(T* at, T value) {
    on_host::Block::current()->give_way_sometimes();
    const T before = *at;
    if (value > before) *at = value;
    return before;
}
