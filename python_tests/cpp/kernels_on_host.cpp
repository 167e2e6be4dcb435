// csrc/*_kernels.cuh as a C library for ctypes; python_tests/test_kernels.py and
// test_dynamics_kernels.py drive it. Every function returns null, or what went wrong.
#include "cuda_on_host.h"
// after it: the kernels read CUDA's words from it
#include "dynamics_kernels.cuh"
#include "status_kernels.cuh"

namespace mild::cuda {  // the shared memory of one block
unsigned histogram_bins[48 * 1024 / sizeof(unsigned)];
unsigned epoch_counts[kMaxEpochs];
double row_shared[sizeof(RowShared) / sizeof(double)];
}  // namespace mild::cuda

namespace {

using namespace mild;
using namespace mild::cuda;

std::string error;

template <class Launch>
const char* guarded(const Launch& launch) {
    try {
        launch();
        return nullptr;
    } catch (const std::exception& caught) {
        error = caught.what();
        return error.c_str();
    }
}

// kernel<T, kLanes>(args) for the batch's type of logits, with a number of lanes for each row.
template <template <class, int> class Kernel, class T, class Args>
void with_lanes(const Args& args, int lanes, unsigned grid, unsigned seed) {
    const auto with = [&](auto kernel) {
        on_host::launch(grid, kBlock, seed, [&] { kernel(args); });
    };
    switch (lanes) {
        case 1:
            return with(Kernel<T, 1>{});
        case 4:
            return with(Kernel<T, 4>{});
        case kWarp:
            return with(Kernel<T, kWarp>{});
        case kBlock:
            return with(Kernel<T, kBlock>{});
        default:
            throw std::runtime_error("no such kernel");
    }
}
template <template <class, int> class Kernel, class Args>
const char* over_rows(const Args& args, int lanes, unsigned grid, unsigned seed) {
    return guarded([&] {
        switch (args.batch.logit_type) {
            case LogitType::kFloat64:
                return with_lanes<Kernel, double>(args, lanes, grid, seed);
            case LogitType::kFloat32:
                return with_lanes<Kernel, float>(args, lanes, grid, seed);
            case LogitType::kFloat16:
                return with_lanes<Kernel, Half>(args, lanes, grid, seed);
            case LogitType::kBFloat16:
                return with_lanes<Kernel, BFloat16>(args, lanes, grid, seed);
        }
    });
}
template <class T, int kLanes>
struct UpdateKernel {
    void operator()(const Update& args) const { update_kernel<T, kLanes>(args); }
};
template <class T, int kLanes>
struct VisitsKernel {
    void operator()(const RecordVisits& args) const { visits_kernel<T, kLanes>(args); }
};

template <class Kernel>
const char* over_samples(unsigned grid, unsigned seed, const Kernel& kernel) {
    return guarded([&] { on_host::launch(grid, kBlock, seed, kernel); });
}

}  // namespace

extern "C" {

const char* host_update(WordPair* words, int64_t num_samples, int64_t num_words, const void* index,
                        bool index_is_int64, const void* logits, int logit_type, int64_t rows,
                        int64_t classes, int64_t row_stride, const void* labels,
                        bool labels_are_int64, const int64_t* epoch, int64_t num_epochs,
                        unsigned long long* faults, int lanes, unsigned grid, unsigned seed) {
    const Update args{{words, num_samples, num_words},
                      {{index, index_is_int64},
                       logits,
                       static_cast<LogitType>(logit_type),
                       rows,
                       classes,
                       row_stride,
                       {labels, labels_are_int64},
                       epoch,
                       num_epochs,
                       faults}};
    return over_rows<UpdateKernel>(args, lanes, grid, seed);
}

const char* host_transition_times(const WordPair* words, int64_t num_samples, int64_t num_words,
                                  int64_t start, int64_t stop, int32_t* out, unsigned grid,
                                  unsigned seed) {
    const ConstStatusBuffer status{words, num_samples, num_words};
    return guarded([&] {
        on_host::launch(grid, kBlock, seed,
                        [&] { transition_times_kernel(status, Window(start, stop), out); });
    });
}

int host_binned_values(int64_t side) { return binned_values(side); }
int64_t host_wide_adds() { return on_host::wide_adds; }

const char* host_histogram(const WordPair* words, int64_t num_samples, int64_t num_words,
                           int64_t start, int64_t stop, unsigned long long* counts, int binned,
                           unsigned grid, unsigned seed) {
    const ConstStatusBuffer status{words, num_samples, num_words};
    std::memset(histogram_bins, 0xff, sizeof histogram_bins);
    return guarded([&] {
        on_host::launch(grid, kBlock, seed, [&] {
            histogram_kernel(status, Window(start, stop), binned, counts);
        });
    });
}

const char* host_lookup(const WordPair* words, int64_t num_samples, int64_t num_words,
                        int64_t start, int64_t stop, const void* table, void* out, int element_size,
                        unsigned grid, unsigned seed) {
    const ConstStatusBuffer status{words, num_samples, num_words};
    return guarded([&] {
        on_host::launch(grid, kBlock, seed, [&] {
            if (element_size == 1)
                lookup_kernel(status, Window(start, stop), static_cast<const uint8_t*>(table),
                              static_cast<uint8_t*>(out));
            else
                lookup_kernel(status, Window(start, stop), static_cast<const uint32_t*>(table),
                              static_cast<uint32_t*>(out));
        });
    });
}

// ---- dynamics_kernels.cuh

const char* host_record_visits(int64_t* record, int64_t num_samples, const void* index,
                               bool index_is_int64, const void* logits, int logit_type,
                               int64_t rows, int64_t classes, int64_t row_stride,
                               const void* labels, bool labels_are_int64, const int64_t* epoch,
                               int64_t num_epochs, unsigned long long* faults, bool statistics,
                               int lanes, unsigned grid, unsigned seed) {
    const RecordVisits args{record,
                            num_samples,
                            {{index, index_is_int64},
                             logits,
                             static_cast<LogitType>(logit_type),
                             rows,
                             classes,
                             row_stride,
                             {labels, labels_are_int64},
                             epoch,
                             num_epochs,
                             faults},
                            statistics};
    return over_rows<VisitsKernel>(args, lanes, grid, seed);
}

const char* host_fold_epoch(int64_t* record, int64_t num_samples, WordPair* words,
                            int64_t num_words, uint32_t* planes, int bits, int32_t* sums,
                            const int64_t* epoch, int64_t num_epochs, bool statistics, int parts,
                            unsigned grid, unsigned seed) {
    const FoldEpoch args{record,
                         {words, num_samples, num_words},
                         {planes, num_samples, bits},
                         sums,
                         epoch,
                         num_epochs,
                         statistics,
                         parts};
    return over_samples(grid, seed, [&] { fold_kernel(args); });
}

const char* host_predictions(const ReadClasses* read, int32_t* out, unsigned grid, unsigned seed) {
    return over_samples(grid, seed, [&] { predictions_kernel(*read, out); });
}
const char* host_class_votes(const ReadClasses* read, int64_t first, int64_t last, int32_t* out,
                             unsigned grid, unsigned seed) {
    return over_samples(grid, seed, [&] { votes_kernel(*read, first, last, out); });
}
const char* host_majority_vote(const ReadClasses* read, const int64_t* excluded, int32_t* out,
                               unsigned grid, unsigned seed) {
    return over_samples(grid, seed, [&] { majority_kernel(*read, excluded, out); });
}
const char* host_count_predicted(const ReadClasses* read, const int64_t* wanted, int32_t* out,
                                 unsigned grid, unsigned seed) {
    return over_samples(grid, seed, [&] { count_predicted_kernel(*read, wanted, out); });
}
const char* host_prediction_changes(const ReadClasses* read, int32_t* out,
                                    unsigned long long* changed, unsigned grid, unsigned seed) {
    std::memset(epoch_counts, 0xff, sizeof epoch_counts);
    return over_samples(grid, seed, [&] { changes_kernel(*read, out, changed); });
}
const char* host_first_run(const WordPair* words, int64_t num_samples, int64_t num_words,
                           int64_t start, int64_t stop, int64_t length, int32_t* out, unsigned grid,
                           unsigned seed) {
    const ConstStatusBuffer status{words, num_samples, num_words};
    return over_samples(grid, seed,
                        [&] { first_run_kernel(status, Window(start, stop), length, out); });
}

}  // extern "C"
