// What the CPU backend makes sure of before it writes anything of a batch.
#pragma once

#include <stdexcept>
#include <string>

#include "cpu_dispatch.h"
#include "status_ops.h"

namespace mild::cpu {

// Whether every value lies in [0, limit).
struct AllBelow {
    IntVector values;
    uint64_t limit;
    bool* out;

    template <class Int>
    MILD_HD bool check(const Int* x, int64_t begin, int64_t end) const {
        int fails = 0;
        for (int64_t i = begin; i < end; ++i)
            fails |= static_cast<uint64_t>(static_cast<int64_t>(x[i])) >= limit;
        return !fails;
    }
    template <Isa isa>
    MILD_HD void operator()(int64_t begin, int64_t end) const {
        *out = values.is_int64 ? check(static_cast<const int64_t*>(values.data), begin, end)
                               : check(static_cast<const int32_t*>(values.data), begin, end);
    }
};

inline void require_below(IntVector values, int64_t count, int64_t limit, const char* name,
                          const char* limit_name) {
    bool good = false;
    run(AllBelow{values, static_cast<uint64_t>(limit), &good}, 0, count);
    if (good) return;
    int64_t at = 0;
    while (values[at] >= 0 && values[at] < limit) ++at;
    throw std::invalid_argument(std::string(name) + "[" + std::to_string(at) + "] is " +
                                std::to_string(values[at]) + ", but must be in [0, " +
                                std::to_string(limit) + "), the " + limit_name +
                                "; nothing of this batch was recorded");
}

// Raises for anything out of range; the current epoch otherwise.
inline int64_t checked_epoch(const Batch& batch, int64_t num_samples) {
    const int64_t epoch = *batch.epoch;
    if (epoch < 0 || epoch >= batch.num_epochs)
        throw std::invalid_argument(
            "the current epoch is " + std::to_string(epoch) +
            ", but the status was made for num_epochs = " + std::to_string(batch.num_epochs) +
            "; make it with more epochs, or reset() it for a new round");
    require_below(batch.index, batch.rows, num_samples, "index", "number of samples");
    require_below(batch.labels, batch.rows, batch.classes, "labels", "number of classes");
    return epoch;
}

}  // namespace mild::cpu
