// How the launchers choose a grid, and the group of lanes that a row gets.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "cuda_check.h"
#include "row_kernels.cuh"

namespace mild::cuda {

inline int multiprocessors(int device) {
    int count = 0;
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
          "cudaDeviceGetAttribute");
    return count;
}

// Blocks for `wanted` blocks' worth of work: enough to fill the device several times over, the rest
// by grid-stride.
inline unsigned grid_for(int64_t wanted, int device, int per_multiprocessor) {
    const int64_t most = int64_t{multiprocessors(device)} * per_multiprocessor;
    return static_cast<unsigned>(std::clamp<int64_t>(wanted, 1, most));
}

inline void require_classes(const Batch& batch) {
    if (batch.classes > INT32_MAX)
        throw std::invalid_argument("a row of logits must have fewer than 2^31 classes on CUDA");
}

// launch<T, kLanes>() for the batch's type and number of classes. Few classes: a lane takes about
// eight of them. Many: a warp, then a block for each row.
template <class Launch, class T>
void launch_lanes(const Batch& batch, const Launch& launch, T) {
    if (batch.classes <= 4) return launch.template operator()<T, 1>();
    if (batch.classes <= 32) return launch.template operator()<T, 4>();
    if (batch.classes <= 2048) return launch.template operator()<T, kWarp>();
    launch.template operator()<T, kBlock>();
}
template <class Launch>
void launch_rows(const Batch& batch, const Launch& launch) {
    require_classes(batch);
    switch (batch.logit_type) {
        case LogitType::kFloat64:
            return launch_lanes(batch, launch, double{});
        case LogitType::kFloat32:
            return launch_lanes(batch, launch, float{});
        case LogitType::kFloat16:
            return launch_lanes(batch, launch, Half{});
        case LogitType::kBFloat16:
            return launch_lanes(batch, launch, BFloat16{});
    }
}

}  // namespace mild::cuda
