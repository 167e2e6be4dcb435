// The CUDA backend: launchers. One kernel launch each (histogram: and one memset), on the caller's
// stream.
#include "cuda_launch.h"
#include "status_kernels.cuh"

namespace mild::cuda {

namespace {

struct LaunchUpdate {
    const Update& args;
    Target target;

    template <class T, int kLanes>
    void operator()() const {
        const int64_t blocks = ceil_div(args.batch.rows, kBlock / kLanes);
        update_kernel<T, kLanes><<<grid_for(blocks, target.device, 32), kBlock, 0,
                                   static_cast<cudaStream_t>(target.stream)>>>(args);
        check(cudaGetLastError(), "update: launch");
    }
};

}  // namespace

void update(const Update& args, Target target) {
    if (args.batch.rows == 0) return;
    const DeviceGuard guard(target.device);
    launch_rows(args.batch, LaunchUpdate{args, target});
}

void transition_times(ConstStatusBuffer status, Window window, int32_t* out, Target target) {
    if (status.num_samples == 0) return;
    const DeviceGuard guard(target.device);
    const unsigned grid = grid_for(ceil_div(status.num_samples, kBlock), target.device, 32);
    transition_times_kernel<<<grid, kBlock, 0, static_cast<cudaStream_t>(target.stream)>>>(
        status, window, out);
    check(cudaGetLastError(), "transition_times: launch");
}

void lookup(ConstStatusBuffer status, Window window, const Lookup& args, Target target) {
    if (status.num_samples == 0) return;
    const DeviceGuard guard(target.device);
    const unsigned grid = grid_for(ceil_div(status.num_samples, kBlock), target.device, 32);
    const auto stream = static_cast<cudaStream_t>(target.stream);
    if (args.element_size == 1)
        lookup_kernel<<<grid, kBlock, 0, stream>>>(status, window,
                                                   static_cast<const uint8_t*>(args.table),
                                                   static_cast<uint8_t*>(args.out));
    else if (args.element_size == 4)
        lookup_kernel<<<grid, kBlock, 0, stream>>>(status, window,
                                                   static_cast<const uint32_t*>(args.table),
                                                   static_cast<uint32_t*>(args.out));
    else
        throw std::invalid_argument("lookup copies elements of 1 or 4 bytes");
    check(cudaGetLastError(), "lookup: launch");
}

void histogram(ConstStatusBuffer status, Window window, int64_t* counts, Target target) {
    const DeviceGuard guard(target.device);
    const auto stream = static_cast<cudaStream_t>(target.stream);
    const int64_t side = window.length() + 1;
    check(cudaMemsetAsync(counts, 0, static_cast<size_t>(side * side) * sizeof *counts, stream),
          "histogram: memset");
    if (status.num_samples == 0) return;

    constexpr int64_t kSharedBytes = 48 * 1024;  // what every architecture gives without asking
    const int64_t all_bins = side * side * int64_t{sizeof(unsigned)};
    static_assert((kMaxEpochs + 1) * sizeof(unsigned) <= kSharedBytes,
                  "one row of bins always fits");
    auto* const out = reinterpret_cast<unsigned long long*>(counts);
    const unsigned grid = grid_for(ceil_div(status.num_samples, kBlock), target.device, 8);
    if (all_bins <= kSharedBytes)
        histogram_kernel<true>
            <<<grid, kBlock, static_cast<size_t>(all_bins), stream>>>(status, window, out);
    else
        histogram_kernel<false>
            <<<grid, kBlock, static_cast<size_t>(side) * sizeof(unsigned), stream>>>(status, window,
                                                                                     out);
    check(cudaGetLastError(), "histogram: launch");
}

}  // namespace mild::cuda
