// The CUDA backend of dynamics_ops.h: launchers. One kernel launch each (class_votes and
// prediction_changes: and one memset), on the caller's stream.
#include "cuda_launch.h"
#include "dynamics_kernels.cuh"

namespace mild::cuda {

namespace {

struct LaunchVisits {
    const RecordVisits& args;
    Target target;

    template <class T, int kLanes>
    void operator()() const {
        const int64_t blocks = ceil_div(args.batch.rows, kBlock / kLanes);
        const size_t shared = kLanes > kWarp ? sizeof(RowShared) : 0;
        visits_kernel<T, kLanes><<<grid_for(blocks, target.device, 32), kBlock, shared,
                                   static_cast<cudaStream_t>(target.stream)>>>(args);
        check(cudaGetLastError(), "record_visits: launch");
    }
};

unsigned grid_of_samples(int64_t samples, Target target) {
    return grid_for(ceil_div(samples, kBlock), target.device, 32);
}

template <class T>
void load_visits() {
    load(visits_kernel<T, 1>, visits_kernel<T, 4>, visits_kernel<T, kWarp>,
         visits_kernel<T, kBlock>);
}

}  // namespace

void load_dynamics_kernels(Target target) {
    require_current(target.device);
    load_visits<double>();
    load_visits<float>();
    load_visits<Half>();
    load_visits<BFloat16>();
    load(fold_kernel, predictions_kernel, votes_kernel, majority_kernel, count_predicted_kernel,
         changes_kernel);
}

void record_visits(const RecordVisits& args, Target target) {
    if (args.batch.rows == 0) return;
    require_current(target.device);
    launch_rows(args.batch, LaunchVisits{args, target});
}

void fold_epoch(const FoldEpoch& args, Target target) {
    if (args.status.num_samples == 0) return;
    require_current(target.device);
    fold_kernel<<<grid_of_samples(args.status.num_samples, target), kBlock, 0,
                  static_cast<cudaStream_t>(target.stream)>>>(args);
    check(cudaGetLastError(), "fold_epoch: launch");
}

void predictions(const ReadClasses& read, int32_t* out, Target target) {
    if (read.classes.num_samples == 0) return;
    require_current(target.device);
    predictions_kernel<<<grid_of_samples(read.classes.num_samples, target), kBlock, 0,
                         static_cast<cudaStream_t>(target.stream)>>>(read, out);
    check(cudaGetLastError(), "predictions: launch");
}

void class_votes(const ReadClasses& read, int64_t first, int64_t last, int32_t* out,
                 Target target) {
    if (first >= last) return;
    require_current(target.device);
    const auto stream = static_cast<cudaStream_t>(target.stream);
    const auto bytes = static_cast<size_t>((last - first) * read.num_classes) * sizeof *out;
    check(cudaMemsetAsync(out, 0, bytes, stream), "class_votes: memset");
    votes_kernel<<<grid_of_samples(last - first, target), kBlock, 0, stream>>>(read, first, last,
                                                                               out);
    check(cudaGetLastError(), "class_votes: launch");
}

void majority_vote(const ReadClasses& read, const int64_t* excluded, int32_t* out, Target target) {
    if (read.classes.num_samples == 0) return;
    require_current(target.device);
    majority_kernel<<<grid_of_samples(read.classes.num_samples, target), kBlock, 0,
                      static_cast<cudaStream_t>(target.stream)>>>(read, excluded, out);
    check(cudaGetLastError(), "majority_vote: launch");
}

void count_predicted(const ReadClasses& read, const int64_t* wanted, int32_t* out, Target target) {
    if (read.classes.num_samples == 0) return;
    require_current(target.device);
    count_predicted_kernel<<<grid_of_samples(read.classes.num_samples, target), kBlock, 0,
                             static_cast<cudaStream_t>(target.stream)>>>(read, wanted, out);
    check(cudaGetLastError(), "count_predicted: launch");
}

void prediction_changes(const ReadClasses& read, int32_t* out, int64_t* changed, Target target) {
    require_current(target.device);
    const auto stream = static_cast<cudaStream_t>(target.stream);
    const auto length = static_cast<size_t>(read.stop - read.start);
    static_assert(kMaxEpochs * sizeof(unsigned) <= 48 * 1024, "what every architecture gives");
    check(cudaMemsetAsync(changed, 0, length * sizeof *changed, stream),
          "prediction_changes: memset");
    if (read.classes.num_samples == 0) return;
    const unsigned grid = grid_for(ceil_div(read.classes.num_samples, kBlock), target.device, 8);
    changes_kernel<<<grid, kBlock, length * sizeof(unsigned), stream>>>(
        read, out, reinterpret_cast<unsigned long long*>(changed));
    check(cudaGetLastError(), "prediction_changes: launch");
}

}  // namespace mild::cuda
