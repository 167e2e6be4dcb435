// CUDA status to exception, with what to do about it.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace mild::cuda {

// What a user can do about an error that lies in how this build and this machine fit together.
inline const char* remedy(cudaError_t status) {
    switch (status) {
        case cudaErrorNoKernelImageForDevice:
        case cudaErrorInvalidDeviceFunction:
        case cudaErrorInvalidPtx:
        case cudaErrorUnsupportedPtxVersion:
            return "; this build (CUDA " MILD_EXT_CUDA_VERSION " for " MILD_EXT_CUDA_ARCHITECTURES
                   ") has no code that the device can run: mild-ext info says what to do";
        case cudaErrorInsufficientDriver:
            return "; this build was made with CUDA " MILD_EXT_CUDA_VERSION
                   ", which needs a newer NVIDIA driver: mild-ext info says what to do";
        default:
            return "";
    }
}

inline void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // so that a later call does not report it again
    throw std::runtime_error(std::string(what) + " failed: " + cudaGetErrorString(status) + " (" +
                             cudaGetErrorName(status) + ")" + remedy(status));
}

// The caller makes the device current (torch's guard, in mild_ext/recording/ops.py). Nobody here
// calls cudaSetDevice: to set a device back would create a context, some hundred MB, on a device 0
// that this thread was only said to use because it never chose one.
inline void require_current(int device) {
    int current = -1;
    check(cudaGetDevice(&current), "cudaGetDevice");
    if (current != device)
        throw std::runtime_error("device " + std::to_string(device) + " is not the current one");
}

// Loads kernels onto the current device. They would load at their first launch, which must not be
// while a CUDA graph is captured; and a build that does not fit the machine shows here.
template <class... Kernels>
void load(Kernels*... kernels) {
    cudaFuncAttributes ignored;
    (check(cudaFuncGetAttributes(&ignored, reinterpret_cast<const void*>(kernels)),
           "loading the kernels"),
     ...);
}

}  // namespace mild::cuda
