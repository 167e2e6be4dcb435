// One pass over one row of logits: everything that the training dynamics need.
//
//   other   = largest logit besides the label's,   margin = label's logit - other
//   first   = the first class that has it;  memorized <=> margin > 0, or = 0 and label < first
//   mass    = sum over the others of exp(x_j - other),   square = sum of exp(x_j - other)^2
//
// From the margin and the two sums follow, without cancellation:
//
//   loss = log(1 + mass exp(-margin)),   1 - p = mass exp(-margin) / (1 + mass exp(-margin)),
//   EL2N^2 = sum over all of (p_j - [j = label])^2 = (1 - p)^2 + square exp(-margin)^2 / (1 +
//   ...)^2
//
// with exp(-margin) <= 1 for a memorized row; numerator and denominator are scaled by exp(margin)
// for the others, so that nothing overflows.
//
// Status, class and margin are exact, the same on every device: they come from comparisons and one
// subtraction. The two sums depend on the order in which a device adds, and exp on its unit, so
// loss and EL2N may differ in the last place of the fp16 that is kept of them.
#pragma once

#include <cmath>

#include "row_status.h"
#include "visit_record.h"

namespace mild {

// ---- arithmetic that is rounded alike everywhere ----

// a b + c: fused where `kFused`, which every machine with the instruction set does in one step;
// otherwise rounded twice, on every device (the host code is compiled with -ffp-contract=off).
template <bool kFused>
MILD_HD float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
    return kFused ? __fmaf_rn(a, b, c) : __fadd_rn(__fmul_rn(a, b), c);
#elif defined(__GNUC__)
    return kFused ? __builtin_fmaf(a, b, c) : a * b + c;
#else
    return a * b + c;
#endif
}

// a b, rounded before anything is added to it.
MILD_HD float multiply(float a, float b) {
#if defined(__CUDA_ARCH__)
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

// 2^f on [-1/2, 1/2] = 1 + f (kExp1 + f (kExp2 + ...)), minimax.
constexpr float kExp1 = 6.93147063e-1f;
constexpr float kExp2 = 2.40222350e-1f;
constexpr float kExp3 = 5.55067845e-2f;
constexpr float kExp4 = 9.67196189e-3f;
constexpr float kExp5 = 1.32746331e-3f;

// exp(x) for x <= 0, relative error below 1e-5 (1e-7 near 0), far below the 5e-4 of an fp16;
// exp(-infinity) is about 1e-38. Adding 1.5 * 2^23 rounds to the nearest integer n, which then
// stands in the low bits; 2^(x - n) is a polynomial.
template <bool kFused>
MILD_HD float exp_of_nonpositive(float x) {
    const float shift = 12582912.0f;
    const float clamped = x > -87.0f ? x : -87.0f;
    const float y = clamped * 1.44269504f;
    const float shifted = y + shift;
    const float f = y - (shifted - shift);
    float p = multiply_add<kFused>(f, kExp5, kExp4);
    p = multiply_add<kFused>(p, f, kExp3);
    p = multiply_add<kFused>(p, f, kExp2);
    p = multiply_add<kFused>(p, f, kExp1);
    p = multiply_add<kFused>(p, f, 1.0f);
    return bits_float(float_bits(p) + (float_bits(shifted) << 23));
}

// log(1 + t) for a finite t >= 0, relative error below 1e-6 also where t is tiny. log(u) as in
// Cephes' logf.
template <bool kFused>
MILD_HD float log_of_one_plus(float t) {
    const float u = 1.0f + t;
    const float rest = (t - (u - 1.0f)) / u;             // what the sum was rounded by
    const uint32_t above = float_bits(u) - 0x3f3504f3u;  // in units from sqrt(1/2)
    const float exponent = static_cast<float>(static_cast<int32_t>(above) >> 23);
    const float f = bits_float((above & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    float p = multiply_add<kFused>(f, 7.0376836292e-2f, -1.1514610310e-1f);
    p = multiply_add<kFused>(p, f, 1.1676998740e-1f);
    p = multiply_add<kFused>(p, f, -1.2420140846e-1f);
    p = multiply_add<kFused>(p, f, 1.4249322787e-1f);
    p = multiply_add<kFused>(p, f, -1.6668057665e-1f);
    p = multiply_add<kFused>(p, f, 2.0000714765e-1f);
    p = multiply_add<kFused>(p, f, -2.4999993993e-1f);
    p = multiply_add<kFused>(p, f, 3.3333331174e-1f);
    const float square = f * f;
    const float low = multiply_add<kFused>(p, square * f, -0.5f * square);
    return multiply_add<kFused>(exponent, 0.693147181f, f + (low + rest));
}

MILD_HD float square_root(float x) {
#if defined(__CUDA_ARCH__)
    return __fsqrt_rn(x);
#elif defined(__GNUC__)
    return __builtin_sqrtf(x);
#else
    return std::sqrt(x);
#endif
}

// ---- logits as numbers ----

MILD_HD float value_of(float x) { return x; }
MILD_HD double value_of(double x) { return x; }
MILD_HD float value_of(BFloat16 x) {
    return bits_float(uint32_t{static_cast<uint16_t>(x.bits)} << 16);
}
MILD_HD float value_of(Half x) {
#if defined(__CUDA_ARCH__)
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
    return value;
#else
    const uint32_t bits = static_cast<uint16_t>(x.bits);
    const uint32_t half = bits & 0x7fffu;
    const uint32_t nan = half > kHalfInfinity ? 0x00400000u : 0u;
    return bits_float(float_bits(half_value(half)) | nan | (bits & 0x8000u) << 16);
#endif
}
// What the comparisons are made in: wide enough to hold every logit of type T.
template <class T>
using ValueOf = decltype(value_of(T{}));

// label's logit - other, as float: 0 where they are equal, infinities included.
template <class Value>
MILD_HD float difference(Value x, Value y) {
    return x == y ? 0.0f : static_cast<float>(x - y);
}

// ---- the row's result ----

struct RowFacts {
    float margin;        // label's logit - other; >= 0 if memorized, <= 0 otherwise
    uint32_t predicted;  // the label if memorized, otherwise the first class with the largest logit
    bool misclassified;
    bool has_nan;
    float mass;    // >= 1 if there is another class that is not -infinity
    float square;  // <= mass
};

// Loss and EL2N of a row without a NaN.
template <bool kFused>
MILD_HD void statistics_of(float margin, float row_mass, float square, float& loss, float& el2n) {
    const float below = margin < 0 ? margin : 0.0f;
    const float above = margin < 0 ? 0.0f : -margin;
    const float of_label = exp_of_nonpositive<kFused>(below);
    const float scale = exp_of_nonpositive<kFused>(above);
    const float mass = scale * row_mass;
    const float t = margin < 0 ? (row_mass - 1.0f) + of_label : mass;
    const float whole = 1.0f + t;
    const float others = mass / whole;  // 1 - p
    const float each = scale / whole;
    loss = log_of_one_plus<kFused>(t) - below;
    el2n = square_root(others * others + square * (each * each));
}

template <bool kFused>
MILD_HD Visit visit_of(const RowFacts& row, bool statistics) {
    Visit visit{row.misclassified || row.has_nan,
                row.has_nan,
                row.margin < 0 ? -row.margin : row.margin,
                row.predicted,
                0.0f,
                0.0f};
    if (!statistics) return visit;
    statistics_of<kFused>(row.margin, row.mass, row.square, visit.loss, visit.el2n);
    // With a NaN no softmax is defined: the worst that can be said.
    visit.loss = row.has_nan ? bits_float(0x7f800000u) : visit.loss;
    visit.el2n = row.has_nan ? 1.41421356f : visit.el2n;
    return visit;
}

}  // namespace mild
