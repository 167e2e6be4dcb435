// What the parts of the module _C share: addresses from Python, and where work goes.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "dynamics_ops.h"

namespace mild::bindings {

constexpr int kCpu = -1;  // the device number that stands for the CPU

#ifdef MILD_EXT_WITH_CUDA
constexpr bool kCudaBuilt = true;
#else
constexpr bool kCudaBuilt = false;
[[noreturn]] inline void no_cuda() {
    throw std::runtime_error(
        "this build of mild_ext has no CUDA backend; reinstall it where nvcc is on PATH "
        "(MILD_EXT_CUDA=ON pip install --force-reinstall --no-deps .), or keep the status on the "
        "CPU");
}
#endif

// Where an operation runs: `device` kCpu with at most `threads`, or a CUDA device and its stream.
struct Place {
    int device;
    uintptr_t stream;
    int threads;
};

inline bool is_current([[maybe_unused]] const Place& place) {
#ifdef MILD_EXT_WITH_CUDA
    return cuda::on_current_device({place.device, reinterpret_cast<void*>(place.stream)});
#else
    return false;
#endif
}

// Runs cpu::name or cuda::name of the same arguments; both end in how the place is named there.
#ifdef MILD_EXT_WITH_CUDA
#define MILD_RUN(place, name, ...)                 \
    ((place).device == kCpu                        \
         ? cpu::name(__VA_ARGS__, (place).threads) \
         : cuda::name(__VA_ARGS__,                 \
                      cuda::Target{(place).device, reinterpret_cast<void*>((place).stream)}))
#else
#define MILD_RUN(place, name, ...) \
    ((place).device == kCpu ? cpu::name(__VA_ARGS__, (place).threads) : no_cuda())
#endif

// A null address where there should be data is the one thing about memory that can be checked here.
template <class Pointer>
Pointer pointer(uintptr_t address, int64_t count, const char* name) {
    if (address == 0 && count > 0)
        throw std::invalid_argument(std::string(name) +
                                    " has no memory behind it (was its storage freed or resized?)");
    return reinterpret_cast<Pointer>(address);
}

Batch batch_at(uintptr_t index, bool index_is_int64, uintptr_t logits, int logit_type, int64_t rows,
               int64_t classes, int64_t row_stride, uintptr_t labels, bool labels_are_int64,
               uintptr_t epoch, int64_t num_epochs, uintptr_t faults);

void add_dynamics(pybind11::module_& m);   // dynamics_bindings.cpp
void add_fast_lane(pybind11::module_& m);  // fast_lane.cpp

}  // namespace mild::bindings
