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

template <class T>
void load_update() {
    load(update_kernel<T, 1>, update_kernel<T, 4>, update_kernel<T, kWarp>,
         update_kernel<T, kBlock>);
}

}  // namespace

int driver_version() {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

bool on_current_device(Target target) {
    int current = -1;
    return cudaGetDevice(&current) == cudaSuccess && current == target.device;
}

void load_status_kernels(Target target) {
    require_current(target.device);
    load_update<double>();
    load_update<float>();
    load_update<Half>();
    load_update<BFloat16>();
    load(transition_times_kernel, histogram_kernel, lookup_kernel<uint8_t>, lookup_kernel<uint32_t>,
         first_run_kernel);
}

void update(const Update& args, Target target) {
    if (args.batch.rows == 0) return;
    require_current(target.device);
    launch_rows(args.batch, LaunchUpdate{args, target});
}

void transition_times(ConstStatusBuffer status, Window window, int32_t* out, Target target) {
    if (status.num_samples == 0) return;
    require_current(target.device);
    const unsigned grid = grid_for(ceil_div(status.num_samples, kBlock), target.device, 32);
    transition_times_kernel<<<grid, kBlock, 0, static_cast<cudaStream_t>(target.stream)>>>(
        status, window, out);
    check(cudaGetLastError(), "transition_times: launch");
}

void lookup(ConstStatusBuffer status, Window window, const Lookup& args, Target target) {
    if (status.num_samples == 0) return;
    require_current(target.device);
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

void first_run(ConstStatusBuffer status, Window window, int64_t length, int32_t* out,
               Target target) {
    if (status.num_samples == 0) return;
    require_current(target.device);
    const unsigned grid = grid_for(ceil_div(status.num_samples, kBlock), target.device, 32);
    first_run_kernel<<<grid, kBlock, 0, static_cast<cudaStream_t>(target.stream)>>>(status, window,
                                                                                    length, out);
    check(cudaGetLastError(), "first_run: launch");
}

void histogram(ConstStatusBuffer status, Window window, int64_t* counts, Target target) {
    require_current(target.device);
    const auto stream = static_cast<cudaStream_t>(target.stream);
    const int64_t side = window.length() + 1;
    check(cudaMemsetAsync(counts, 0, static_cast<size_t>(side * side) * sizeof *counts, stream),
          "histogram: memset");
    if (status.num_samples == 0) return;

    const int binned = binned_values(side);
    const auto shared = static_cast<size_t>(binned * side) * sizeof(unsigned);
    const unsigned grid = grid_for(ceil_div(status.num_samples, kBlock), target.device, 8);
    histogram_kernel<<<grid, kBlock, shared, stream>>>(
        status, window, binned, reinterpret_cast<unsigned long long*>(counts));
    check(cudaGetLastError(), "histogram: launch");
}

}  // namespace mild::cuda
