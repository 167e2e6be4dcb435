// Ending an epoch: the open-epoch record of one sample goes into its status bits, its predicted
// class and its running sums.
//
//   sums: int32 [kNumSums or kNumShortfallSums, num_samples], a row for each quantity
//
// The sums are fixed-point numbers, so that they do not depend on an order, and the difference of
// two is exact. How many binary places a quantity has follows from its bound and the number of
// epochs: bound * 2^places * num_epochs <= 2^30 fits an int32.
#pragma once

#include "row_dynamics.h"
#include "status_word.h"

namespace mild {

enum Sum : int {
    kShortfall = 0,           // -margin where misclassified, at most log 10^4
    kShortfallFirstHalf = 1,  // the same, as it stood after half of the epochs
    kNumShortfallSums = 2,
    kMargin = 2,       // in [-1024, 1024]
    kLoss = 3,         // in [0, 1024]
    kProbability = 4,  // of the label
    kProbabilitySquared = 5,
    kEl2n = 6,
    kNumSums = 7,
};

constexpr float kMostShortfall = 9.21034037f;  // log 10^4
constexpr float kMostMargin = 1024.0f;         // of margin and loss

MILD_HD constexpr int ceil_log2(int64_t x) {
    int log = 0;
    while ((int64_t{1} << log) < x) ++log;
    return log;
}
// Binary places of each quantity; mild_ext reads the sums with the same.
MILD_HD constexpr int places_of(int sum, int64_t num_epochs) {
    const int room = 30 - ceil_log2(num_epochs);
    const int bound = sum <= kShortfallFirstHalf       ? 4
                      : sum == kMargin || sum == kLoss ? 10
                      : sum == kEl2n                   ? 1
                                                       : 0;
    return room - bound < 24 ? room - bound : 24;
}
static_assert(places_of(kMargin, kMaxEpochs) == 8, "2^-8 at worst");

struct Places {
    float shortfall, margin, probability, el2n;  // 2^places
    MILD_HD explicit Places(int64_t num_epochs)
        : shortfall(static_cast<float>(1 << places_of(kShortfall, num_epochs))),
          margin(static_cast<float>(1 << places_of(kMargin, num_epochs))),
          probability(static_cast<float>(1 << places_of(kProbability, num_epochs))),
          el2n(static_cast<float>(1 << places_of(kEl2n, num_epochs))) {}
};

// x >= 0 in units of 1 / scale, rounded to nearest. From 2^22 on adding a half could itself be
// rounded; there the fraction is not needed.
MILD_HD int32_t fixed_point(float x, float scale) {
    const float scaled = x * scale;
    return static_cast<int32_t>(scaled < 4194304.0f ? scaled + 0.5f : scaled);
}

// What a visit adds to each sum.
MILD_HD int32_t shortfall_of(uint32_t key, const Places& places) {
    const float distance = distance_of(key);
    const float clipped = distance < kMostShortfall ? distance : kMostShortfall;
    // Computed in any case: what hangs on a condition would not become vector code.
    const int32_t fixed = fixed_point(clipped, places.shortfall);
    return is_misclassified(key) ? fixed : 0;
}
MILD_HD int32_t margin_of(uint32_t key, const Places& places) {
    const float distance = distance_of(key);
    const int32_t fixed =
        fixed_point(distance < kMostMargin ? distance : kMostMargin, places.margin);
    return is_misclassified(key) ? -fixed : fixed;
}
MILD_HD float clipped_loss(uint32_t loss) {
    const float value = half_value(loss);
    return value < kMostMargin ? value : kMostMargin;
}
MILD_HD int32_t loss_of(uint32_t loss, const Places& places) {
    return fixed_point(clipped_loss(loss), places.margin);
}
// p = exp(-loss): not fused, so that every device and instruction set adds the same.
MILD_HD float probability_of(uint32_t loss) {
    return exp_of_nonpositive<false>(-clipped_loss(loss));
}
MILD_HD int32_t el2n_of(uint32_t el2n, const Places& places) {
    return fixed_point(half_value(el2n), places.el2n);
}

// Code of a visit's predicted class (predicted_classes.h); 0 with a NaN.
MILD_HD uint32_t code_of(uint32_t predicted, uint32_t key) {
    return is_nan(key) ? 0u : predicted + 1u;
}

}  // namespace mild
