// csrc/status_kernels.cuh as a C library for ctypes; python_tests/test_kernels.py drives it. Every
// function returns null, or what went wrong.
#include "cuda_on_host.h"
// after it: the kernels read CUDA's words from it
#include "status_kernels.cuh"

namespace mild::cuda {
unsigned histogram_bins[48 * 1024 / sizeof(unsigned)];  // the shared memory of one block
}

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

template <class T>
void update_as(const Update& args, int lanes, unsigned grid, unsigned seed) {
    const auto with = [&](auto kernel) {
        on_host::launch(grid, kBlock, seed, [&] { kernel(args); });
    };
    switch (lanes) {
        case 1:
            return with(update_kernel<T, 1>);
        case 4:
            return with(update_kernel<T, 4>);
        case kWarp:
            return with(update_kernel<T, kWarp>);
        case kBlock:
            return with(update_kernel<T, kBlock>);
        default:
            throw std::runtime_error("no such kernel");
    }
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
    return guarded([&] {
        switch (args.batch.logit_type) {
            case LogitType::kFloat64:
                return update_as<double>(args, lanes, grid, seed);
            case LogitType::kFloat32:
                return update_as<float>(args, lanes, grid, seed);
            case LogitType::kFloat16:
                return update_as<Half>(args, lanes, grid, seed);
            case LogitType::kBFloat16:
                return update_as<BFloat16>(args, lanes, grid, seed);
        }
    });
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

const char* host_histogram(const WordPair* words, int64_t num_samples, int64_t num_words,
                           int64_t start, int64_t stop, unsigned long long* counts, bool all_bins,
                           unsigned grid, unsigned seed) {
    const ConstStatusBuffer status{words, num_samples, num_words};
    std::memset(histogram_bins, 0xff, sizeof histogram_bins);
    return guarded([&] {
        on_host::launch(grid, kBlock, seed, [&] {
            if (all_bins)
                histogram_kernel<true>(status, Window(start, stop), counts);
            else
                histogram_kernel<false>(status, Window(start, stop), counts);
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

}  // extern "C"
