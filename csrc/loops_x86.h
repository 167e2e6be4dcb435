// What is worth writing in AVX2 and AVX-512 by hand: the two passes over a row of logits, and bits
// of 32 numbers (visits_cpu.cpp and dynamics_cpu.cpp have them in plain C++).
//
//   others: float [classes, padded to 16], the row with the label's logit and the padding at
//   -infinity
//
// First pass: fill `others`, note its largest and any NaN. Second: the sums of the exponentials.
#pragma once

#include "cpu_dispatch.h"
#include "row_dynamics.h"

#ifdef MILD_X86
// GCC takes what the masked intrinsics leave undefined on purpose for a mistake.
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace mild::cpu::x86 {

struct Scan {
    float largest;
    bool has_nan;
};
struct Sums {
    float mass;
    float square;
};

// ---- AVX-512: sixteen classes at a time, the last ones masked ----

MILD_AVX512 inline __m512 load16(const float* x, __mmask16 mask) {
    return _mm512_maskz_loadu_ps(mask, x);
}
MILD_AVX512 inline __m512 load16(const BFloat16* x, __mmask16 mask) {
    const __m256i bits = _mm256_maskz_loadu_epi16(mask, x);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
MILD_AVX512 inline __m512 load16(const Half* x, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, x));
}

// Four at a time without masks, but for those around the label and the last: the running largest of
// one would wait for the one before, and a comparison of two tells of a NaN in either.
template <class T>
MILD_AVX512 inline Scan scan_avx512(const T* row, int64_t classes, int64_t label, float* others) {
    const __m512 lowest = _mm512_set1_ps(bits_float(0xff800000u));
    __m512 most = lowest, most1 = lowest, most2 = lowest, most3 = lowest;
    __mmask16 nan = 0;
    const int64_t around = label / 64 * 64;
    for (int64_t j = 0; j < classes; j += 16) {
        for (; j + 64 <= classes && j % 64 == 0 && j != around; j += 64) {
            const __m512 x = load16(row + j, 0xffffu);
            const __m512 x1 = load16(row + j + 16, 0xffffu);
            const __m512 x2 = load16(row + j + 32, 0xffffu);
            const __m512 x3 = load16(row + j + 48, 0xffffu);
            nan = static_cast<__mmask16>(nan | _mm512_cmp_ps_mask(x, x1, _CMP_UNORD_Q) |
                                         _mm512_cmp_ps_mask(x2, x3, _CMP_UNORD_Q));
            _mm512_storeu_ps(others + j, x);
            _mm512_storeu_ps(others + j + 16, x1);
            _mm512_storeu_ps(others + j + 32, x2);
            _mm512_storeu_ps(others + j + 48, x3);
            most = _mm512_max_ps(x, most);
            most1 = _mm512_max_ps(x1, most1);
            most2 = _mm512_max_ps(x2, most2);
            most3 = _mm512_max_ps(x3, most3);
        }
        if (j >= classes) break;
        const int64_t left = classes - j;
        const auto valid = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1u);
        const auto at = static_cast<uint64_t>(label - j);
        const auto own = static_cast<__mmask16>(at < 16 ? 1u << at : 0u);
        const __m512 x = load16(row + j, valid);
        nan = static_cast<__mmask16>(nan | _mm512_mask_cmp_ps_mask(valid, x, x, _CMP_UNORD_Q));
        const __m512 rest = _mm512_mask_mov_ps(lowest, static_cast<__mmask16>(valid & ~own), x);
        _mm512_storeu_ps(others + j, rest);
        most = _mm512_max_ps(rest, most);  // the second where the first is a NaN
    }
    most = _mm512_max_ps(_mm512_max_ps(most, most1), _mm512_max_ps(most2, most3));
    return {_mm512_reduce_max_ps(most), nan != 0};
}

MILD_AVX512 inline int64_t first_equal_avx512(const float* others, int64_t padded, float value) {
    const __m512 wanted = _mm512_set1_ps(value);
    for (int64_t j = 0; j < padded; j += 16) {
        const unsigned equal = _mm512_cmp_ps_mask(_mm512_loadu_ps(others + j), wanted, _CMP_EQ_OQ);
        if (equal != 0) return j + __builtin_ctz(equal);
    }
    return 0;
}

// `other` is finite. `ahead`: the next row, asked for meanwhile: this pass waits for nothing.
template <class T>
MILD_AVX512 inline Sums sum_avx512(const float* others, int64_t padded, float other,
                                   const T* ahead) {
    const __m512 from = _mm512_set1_ps(other);
    const __m512 least = _mm512_set1_ps(-87.0f);
    const __m512 log2_e = _mm512_set1_ps(1.44269504f);
    const __m512 shift = _mm512_set1_ps(12582912.0f);
    __m512 mass = _mm512_setzero_ps();
    __m512 square = _mm512_setzero_ps();
    for (int64_t j = 0; j < padded; j += 16) {
        _mm_prefetch(reinterpret_cast<const char*>(ahead + j), _MM_HINT_T0);
        const __m512 d = _mm512_sub_ps(_mm512_loadu_ps(others + j), from);
        const __m512 y = _mm512_mul_ps(_mm512_max_ps(d, least), log2_e);
        const __m512 shifted = _mm512_add_ps(y, shift);
        const __m512 f = _mm512_sub_ps(y, _mm512_sub_ps(shifted, shift));
        __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(kExp5), _mm512_set1_ps(kExp4));
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp3));
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2));
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp1));
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
        const __m512i scaled = _mm512_add_epi32(
            _mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23));
        const __m512 e = _mm512_castsi512_ps(scaled);
        mass = _mm512_add_ps(mass, e);
        square = _mm512_fmadd_ps(e, e, square);
    }
    return {_mm512_reduce_add_ps(mass), _mm512_reduce_add_ps(square)};
}

// Bit b of each of 32 numbers.
MILD_AVX512 inline uint32_t bits_avx512(const uint32_t* x, int b) {
    const __m512i bit = _mm512_set1_epi32(1 << b);
    const unsigned low = _mm512_test_epi32_mask(_mm512_loadu_si512(x), bit);
    const unsigned high = _mm512_test_epi32_mask(_mm512_loadu_si512(x + 16), bit);
    return low | high << 16;
}

// ---- AVX2: eight classes at a time, the last ones one by one ----

MILD_AVX2 inline __m256 load8(const float* x) { return _mm256_loadu_ps(x); }
MILD_AVX2 inline __m256 load8(const BFloat16* x) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
// As half_value() does it, without F16C: subnormal floats on the way may be flushed to zero.
MILD_AVX2 inline __m256 load8(const Half* x) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
    const __m256i bits = _mm256_cvtepu16_epi32(packed);
    const __m256i half = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fff));
    const __m256i sign = _mm256_slli_epi32(_mm256_xor_si256(bits, half), 16);
    const __m256i shifted = _mm256_slli_epi32(half, 13);
    const __m256i offset = _mm256_set1_epi32(113 << 23);
    const __m256 small = _mm256_sub_ps(_mm256_castsi256_ps(_mm256_add_epi32(shifted, offset)),
                                       _mm256_castsi256_ps(offset));
    const __m256i normal = _mm256_add_epi32(shifted, _mm256_set1_epi32(112 << 23));
    // Infinities and NaNs have the highest exponent in both formats.
    const __m256i top = _mm256_cmpgt_epi32(half, _mm256_set1_epi32(0x7bff));
    const __m256i wide =
        _mm256_or_si256(normal, _mm256_and_si256(top, _mm256_set1_epi32(0x7f800000)));
    const __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x400), half);
    const __m256i value = _mm256_blendv_epi8(wide, _mm256_castps_si256(small), is_small);
    return _mm256_castsi256_ps(_mm256_or_si256(value, sign));
}

MILD_AVX2 inline uint32_t bits_avx2(const uint32_t* x, int b) {
    uint32_t bits = 0;
    for (int k = 0; k < 32; k += 8) {
        const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + k));
        const __m256 at_sign =
            _mm256_castsi256_ps(_mm256_sll_epi32(codes, _mm_cvtsi32_si128(31 - b)));
        bits |= static_cast<uint32_t>(_mm256_movemask_ps(at_sign)) << k;
    }
    return bits;
}

MILD_AVX2 inline float largest_of(__m256 x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_shuffle_ps(y, y, 1)));
}
MILD_AVX2 inline float sum_of(__m256 x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_shuffle_ps(y, y, 1)));
}

template <class T>
MILD_AVX2 inline Scan scan_avx2(const T* row, int64_t classes, int64_t label, float* others) {
    const float lowest = bits_float(0xff800000u);
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256 most = _mm256_set1_ps(lowest);
    __m256 nan = _mm256_setzero_ps();
    int64_t j = 0;
    for (; j + 8 <= classes; j += 8) {
        const __m256 x = load8(row + j);
        nan = _mm256_or_ps(nan, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        const int64_t at = label - j;
        const __m256i own = _mm256_cmpeq_epi32(
            lanes, _mm256_set1_epi32(at >= 0 && at < 8 ? static_cast<int>(at) : 8));
        const __m256 rest = _mm256_blendv_ps(x, _mm256_set1_ps(lowest), _mm256_castsi256_ps(own));
        _mm256_storeu_ps(others + j, rest);
        most = _mm256_max_ps(rest, most);
    }
    float largest = largest_of(most);
    bool has_nan = _mm256_movemask_ps(nan) != 0;
    const int64_t padded = ceil_div(classes, 16) * 16;
    for (; j < padded; ++j) {
        const float x = j < classes ? value_of(row[j]) : lowest;
        has_nan |= x != x;
        others[j] = j == label ? lowest : x;
        largest = others[j] > largest ? others[j] : largest;
    }
    return {largest, has_nan};
}

MILD_AVX2 inline int64_t first_equal_avx2(const float* others, int64_t padded, float value) {
    const __m256 wanted = _mm256_set1_ps(value);
    for (int64_t j = 0; j < padded; j += 8) {
        const int equal =
            _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(others + j), wanted, _CMP_EQ_OQ));
        if (equal != 0) return j + __builtin_ctz(static_cast<unsigned>(equal));
    }
    return 0;
}

MILD_AVX2 inline Sums sum_avx2(const float* others, int64_t padded, float other) {
    const __m256 from = _mm256_set1_ps(other);
    const __m256 least = _mm256_set1_ps(-87.0f);
    const __m256 log2_e = _mm256_set1_ps(1.44269504f);
    const __m256 shift = _mm256_set1_ps(12582912.0f);
    __m256 mass = _mm256_setzero_ps();
    __m256 square = _mm256_setzero_ps();
    for (int64_t j = 0; j < padded; j += 8) {
        const __m256 d = _mm256_sub_ps(_mm256_loadu_ps(others + j), from);
        const __m256 y = _mm256_mul_ps(_mm256_max_ps(d, least), log2_e);
        const __m256 shifted = _mm256_add_ps(y, shift);
        const __m256 f = _mm256_sub_ps(y, _mm256_sub_ps(shifted, shift));
        __m256 p = _mm256_fmadd_ps(f, _mm256_set1_ps(kExp5), _mm256_set1_ps(kExp4));
        p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp3));
        p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2));
        p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp1));
        p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
        const __m256i scaled = _mm256_add_epi32(
            _mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(shifted), 23));
        const __m256 e = _mm256_castsi256_ps(scaled);
        mass = _mm256_add_ps(mass, e);
        square = _mm256_fmadd_ps(e, e, square);
    }
    return {sum_of(mass), sum_of(square)};
}

}  // namespace mild::cpu::x86
#endif
