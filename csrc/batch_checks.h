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

inline bool all_below(IntVector values, int64_t count, int64_t limit) {
    bool good = false;
    run(AllBelow{values, static_cast<uint64_t>(limit), &good}, 0, count);
    return good;
}

// Raises for the first value outside [0, limit) in a row that is not ignored, if there is one.
inline void require_below(IntVector values, const Batch& batch, int64_t limit, const char* name,
                          const char* limit_name) {
    for (int64_t at = 0; at < batch.rows; ++at) {
        if ((values[at] >= 0 && values[at] < limit) || batch.labels[at] == kIgnoredLabel) continue;
        throw std::invalid_argument(std::string(name) + "[" + std::to_string(at) + "] is " +
                                    std::to_string(values[at]) + ", but must be in [0, " +
                                    std::to_string(limit) + "), the " + limit_name +
                                    "; nothing of this batch was recorded");
    }
}

// A batch in which everything is valid.
struct GoodBatch {
    int64_t epoch;
    bool has_ignored;  // some labels are kIgnoredLabel
};

// Raises for anything out of range. The usual case, no row ignored, is one quick look at each
// vector.
inline GoodBatch checked(const Batch& batch, int64_t num_samples) {
    const int64_t epoch = *batch.epoch;
    if (epoch < 0 || epoch >= batch.num_epochs)
        throw std::invalid_argument(
            "the current epoch is " + std::to_string(epoch) +
            ", but the status was made for num_epochs = " + std::to_string(batch.num_epochs) +
            "; make it with more epochs, or reset() it for a new round");
    const bool labels_good = all_below(batch.labels, batch.rows, batch.classes);
    if (!all_below(batch.index, batch.rows, num_samples) || !labels_good) {
        require_below(batch.index, batch, num_samples, "index", "number of samples");
        require_below(batch.labels, batch, batch.classes, "labels", "number of classes");
    }
    return {epoch, !labels_good};
}

}  // namespace mild::cpu
