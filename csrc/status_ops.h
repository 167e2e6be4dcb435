// The operations on the status buffer. Both backends implement exactly these contracts.
//
// Memory belongs to the caller (torch). Sizes, strides and indices are int64. The functions neither
// allocate device memory nor synchronise with a device, and return early on empty input. The Python
// side (mild_ext/recording/_checks.py) has made sure of shapes, dtypes, devices and contiguity;
// values are checked here.
#pragma once

#include <cstdint>

#include "status_word.h"

namespace mild {

enum class LogitType : int { kFloat64 = 0, kFloat32 = 1, kFloat16 = 2, kBFloat16 = 3 };

// A vector of int32 or int64, read as int64.
struct IntVector {
    const void* data;
    bool is_int64;
    MILD_HD int64_t operator[](int64_t i) const {
        return is_int64 ? static_cast<const int64_t*>(data)[i]
                        : static_cast<const int32_t*>(data)[i];
    }
};

// WordPair [num_samples, num_words], contiguous.
struct StatusBuffer {
    WordPair* words;
    int64_t num_samples;
    int64_t num_words;
};
struct ConstStatusBuffer {
    const WordPair* words;
    int64_t num_samples;
    int64_t num_words;
};

// What update counts instead of recording, where it cannot raise (CUDA).
enum Fault : int { kBadIndex = 0, kBadLabel = 1, kBadEpoch = 2, kNumFaults = 3 };

// Rows with this label are skipped, whatever else is in them: torch's ignore_index, with which
// padding is labelled.
constexpr int64_t kIgnoredLabel = -100;

// One batch of the training loop, as every recording operation takes it.
// Valid (but in rows labelled kIgnoredLabel): 0 <= index < number of samples, 0 <= labels <
// classes, 0 <= *epoch < num_epochs.
//   CPU: raises std::invalid_argument before the first write.
//   CUDA: skips the row and adds it to `faults`.
struct Batch {
    IntVector index;     // [rows]
    const void* logits;  // [rows, classes], rows `row_stride` elements apart, classes adjacent
    LogitType logit_type;
    int64_t rows;
    int64_t classes;
    int64_t row_stride;
    IntVector labels;  // [rows]
    // Scalar, where the status is: a replayed CUDA graph reads the current one.
    const int64_t* epoch;
    int64_t num_epochs;
    unsigned long long* faults;  // [kNumFaults], where the status is; the CPU leaves it alone
};

// update: records one batch into epoch `*epoch`.
//   for each row i:  memorized_i = labels[i] is the first maximum of logits[i, :], none a NaN;
//                    seen bit of sample index[i] |= 1,  wrong bit |= !memorized_i
// Duplicates in index are allowed; the result does not depend on their order.
// Valid also: num_epochs <= 64 num_words.
struct Update {
    StatusBuffer status;
    Batch batch;
};

// transition_times: out int32 [8, num_samples], one row for each field of TransitionTimes.
// histogram:        counts int64 [P + 1, P + 1] with P = stop - start, zeroed by the callee;
//                   counts[misclassified, seen] = number of samples.
// lookup:           out[i] = table[misclassified_i, seen_i]; table [P + 1, P + 1],
//                   out [num_samples], elements of `element_size` 1 or 4 bytes, copied as they are.
// first_run:        out int32 [num_samples], of the function of that name in status_word.h.
struct Lookup {
    const void* table;
    void* out;
    int element_size;
};

namespace cpu {
// `threads` is the most that may be used; small work uses one.
void update(const Update& args, int threads);
void transition_times(ConstStatusBuffer status, Window window, int32_t* out, int threads);
void histogram(ConstStatusBuffer status, Window window, int64_t* counts, int threads);
void lookup(ConstStatusBuffer status, Window window, const Lookup& args, int threads);
void first_run(ConstStatusBuffer status, Window window, int64_t length, int32_t* out, int threads);

// Asks the system for large pages behind a new buffer: a batch's samples lie far apart, and in a
// large buffer each would cost a walk of the page tables. Only a hint: does nothing where there are
// none.
void advise_large_pages(void* memory, int64_t bytes);
}  // namespace cpu

#ifdef MILD_EXT_WITH_CUDA
// `stream` is a cudaStream_t of `device`, which must be the current device. All errors are
// std::runtime_error.
namespace cuda {
struct Target {
    int device;
    void* stream;
};
int driver_version();  // the newest CUDA that the driver knows, 1000 major + 10 minor; 0: none
bool on_current_device(Target target);
void load_status_kernels(Target target);
void update(const Update& args, Target target);
void transition_times(ConstStatusBuffer status, Window window, int32_t* out, Target target);
void histogram(ConstStatusBuffer status, Window window, int64_t* counts, Target target);
void lookup(ConstStatusBuffer status, Window window, const Lookup& args, Target target);
void first_run(ConstStatusBuffer status, Window window, int64_t length, int32_t* out,
               Target target);
}  // namespace cuda
#endif

}  // namespace mild
