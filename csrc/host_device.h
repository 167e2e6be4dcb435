// What both compilers need to read the shared per-sample functions.
//
// MILD_HD marks a function that runs per sample or per row, on the CPU and in a kernel. On the host
// it is always inlined, so that one source is compiled once per instruction set of the caller (see
// cpu_dispatch.h).
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define MILD_HD __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define MILD_HD __forceinline
#else
#define MILD_HD inline __attribute__((always_inline))
#endif

namespace mild {

MILD_HD constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

MILD_HD int count_ones(uint64_t x) {
#if defined(__CUDA_ARCH__)
    return __popcll(x);
#elif defined(__GNUC__)
    return __builtin_popcountll(x);
#else
    x -= (x >> 1) & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return static_cast<int>((x * 0x0101010101010101u) >> 56);
#endif
}

// Zeros below the lowest set bit; 64 for x = 0.
MILD_HD int trailing_zeros(uint64_t x) { return count_ones(~x & (x - 1)); }

// Zeros above the highest set bit; 64 for x = 0.
MILD_HD int leading_zeros(uint64_t x) {
#if defined(__CUDA_ARCH__)
    return __clzll(static_cast<long long>(x));
#elif defined(__GNUC__)
    return x == 0 ? 64 : __builtin_clzll(x);
#else
    for (int s = 1; s < 64; s *= 2) x |= x >> s;
    return 64 - count_ones(x);
#endif
}

}  // namespace mild
