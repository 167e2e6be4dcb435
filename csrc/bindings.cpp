// The module _C: argument unpacking, the GIL, nothing else. mild_ext/_C.pyi documents the Python
// side.
#include "bindings.h"

#include <array>

#include "cpu_dispatch.h"

namespace py = pybind11;

namespace mild::bindings {

Batch batch_at(uintptr_t index, bool index_is_int64, uintptr_t logits, int logit_type, int64_t rows,
               int64_t classes, int64_t row_stride, uintptr_t labels, bool labels_are_int64,
               uintptr_t epoch, int64_t num_epochs, uintptr_t faults) {
    if (logit_type < 0 || logit_type > static_cast<int>(LogitType::kBFloat16))
        throw std::invalid_argument("unknown logit type code " + std::to_string(logit_type));
    return {{pointer<const void*>(index, rows, "index"), index_is_int64},
            pointer<const void*>(logits, rows, "logits"),
            static_cast<LogitType>(logit_type),
            rows,
            classes,
            row_stride,
            {pointer<const void*>(labels, rows, "labels"), labels_are_int64},
            pointer<const int64_t*>(epoch, 1, "epoch"),
            num_epochs,
            pointer<unsigned long long*>(faults, 1, "faults")};
}

namespace {

#ifdef MILD_EXT_WITH_CUDA
constexpr const char* kCudaArchitectures = MILD_EXT_CUDA_ARCHITECTURES;
constexpr const char* kCudaVersion = MILD_EXT_CUDA_VERSION;
#else
constexpr const char* kCudaArchitectures = "";
constexpr const char* kCudaVersion = "";
#endif

void update(uintptr_t words, int64_t num_samples, int64_t num_words, uintptr_t index,
            bool index_is_int64, uintptr_t logits, int logit_type, int64_t rows, int64_t classes,
            int64_t row_stride, uintptr_t labels, bool labels_are_int64, uintptr_t epoch,
            int64_t num_epochs, uintptr_t faults, int device, uintptr_t stream, int threads) {
    const Update args{{pointer<WordPair*>(words, num_samples, "words"), num_samples, num_words},
                      batch_at(index, index_is_int64, logits, logit_type, rows, classes, row_stride,
                               labels, labels_are_int64, epoch, num_epochs, faults)};
    const Place place{device, stream, threads};
    const py::gil_scoped_release released;
    MILD_RUN(place, update, args);
}

ConstStatusBuffer status_at(uintptr_t words, int64_t num_samples, int64_t num_words) {
    return {pointer<const WordPair*>(words, num_samples, "words"), num_samples, num_words};
}

void transition_times(uintptr_t words, int64_t num_samples, int64_t num_words, int64_t start,
                      int64_t stop, uintptr_t out, int device, uintptr_t stream, int threads) {
    const ConstStatusBuffer status = status_at(words, num_samples, num_words);
    auto* const to = pointer<int32_t*>(out, num_samples, "out");
    const Place place{device, stream, threads};
    const Window window(start, stop);
    const py::gil_scoped_release released;
    MILD_RUN(place, transition_times, status, window, to);
}

void histogram(uintptr_t words, int64_t num_samples, int64_t num_words, int64_t start, int64_t stop,
               uintptr_t counts, int device, uintptr_t stream, int threads) {
    const ConstStatusBuffer status = status_at(words, num_samples, num_words);
    auto* const to = pointer<int64_t*>(counts, 1, "counts");
    const Place place{device, stream, threads};
    const Window window(start, stop);
    const py::gil_scoped_release released;
    MILD_RUN(place, histogram, status, window, to);
}

void lookup(uintptr_t words, int64_t num_samples, int64_t num_words, int64_t start, int64_t stop,
            uintptr_t table, uintptr_t out, int element_size, int device, uintptr_t stream,
            int threads) {
    const ConstStatusBuffer status = status_at(words, num_samples, num_words);
    const Lookup args{pointer<const void*>(table, 1, "table"),
                      pointer<void*>(out, num_samples, "out"), element_size};
    const Place place{device, stream, threads};
    const Window window(start, stop);
    const py::gil_scoped_release released;
    MILD_RUN(place, lookup, status, window, args);
}

void first_run(uintptr_t words, int64_t num_samples, int64_t num_words, int64_t start, int64_t stop,
               int64_t length, uintptr_t out, int device, uintptr_t stream, int threads) {
    const ConstStatusBuffer status = status_at(words, num_samples, num_words);
    auto* const to = pointer<int32_t*>(out, num_samples, "out");
    const Place place{device, stream, threads};
    const Window window(start, stop);
    const py::gil_scoped_release released;
    MILD_RUN(place, first_run, status, window, length, to);
}

// ---- devices ----

#ifdef MILD_EXT_WITH_CUDA
int cuda_driver() { return cuda::driver_version(); }
void load_kernels(int device) {
    cuda::load_status_kernels({device, nullptr});
    cuda::load_dynamics_kernels({device, nullptr});
}
#else
int cuda_driver() { return 0; }
void load_kernels(int) { no_cuda(); }
#endif

// ---- instruction sets ----

constexpr std::array<const char*, 3> kIsaNames{"plain", "avx2", "avx512"};

const char* isa_name(cpu::Isa isa) { return kIsaNames[static_cast<size_t>(isa)]; }

void use_isa(const std::string& name) {
    for (size_t isa = 0; isa < kIsaNames.size(); ++isa)
        if (name == kIsaNames[isa]) return cpu::use_isa(static_cast<cpu::Isa>(isa));
    throw std::invalid_argument("isa must be plain, avx2 or avx512; got " + name);
}

}  // namespace
}  // namespace mild::bindings

PYBIND11_MODULE(_C, m) {
    using namespace pybind11::literals;
    namespace bound = mild::bindings;
    m.doc() = "Native core of mild_ext; mild_ext.recording.ops is its checked front.";
    m.attr("__version__") = MILD_EXT_VERSION;
    m.attr("cuda_architectures") = bound::kCudaArchitectures;
    m.attr("cuda_version") = bound::kCudaVersion;
    m.attr("max_epochs") = mild::kMaxEpochs;
    m.attr("num_faults") = static_cast<int>(mild::kNumFaults);
    m.attr("ignored_label") = mild::kIgnoredLabel;

    m.def("cuda_driver", &bound::cuda_driver);
    m.def("load_kernels", &bound::load_kernels, "device"_a);

    m.def("update", &bound::update, "words"_a, "num_samples"_a, "num_words"_a, "index"_a,
          "index_is_int64"_a, "logits"_a, "logit_type"_a, "rows"_a, "classes"_a, "row_stride"_a,
          "labels"_a, "labels_are_int64"_a, "epoch"_a, "num_epochs"_a, "faults"_a, "device"_a,
          "stream"_a, "threads"_a);
    m.def("transition_times", &bound::transition_times, "words"_a, "num_samples"_a, "num_words"_a,
          "start"_a, "stop"_a, "out"_a, "device"_a, "stream"_a, "threads"_a);
    m.def("histogram", &bound::histogram, "words"_a, "num_samples"_a, "num_words"_a, "start"_a,
          "stop"_a, "counts"_a, "device"_a, "stream"_a, "threads"_a);
    m.def("lookup", &bound::lookup, "words"_a, "num_samples"_a, "num_words"_a, "start"_a, "stop"_a,
          "table"_a, "out"_a, "element_size"_a, "device"_a, "stream"_a, "threads"_a);
    m.def("first_run", &bound::first_run, "words"_a, "num_samples"_a, "num_words"_a, "start"_a,
          "stop"_a, "length"_a, "out"_a, "device"_a, "stream"_a, "threads"_a);
    m.def(
        "advise_large_pages",
        [](uintptr_t memory, int64_t bytes) {
            mild::cpu::advise_large_pages(reinterpret_cast<void*>(memory), bytes);
        },
        "memory"_a, "bytes"_a);
    m.def("isa", [] { return bound::isa_name(mild::cpu::current_isa()); });
    m.def("best_isa", [] { return bound::isa_name(mild::cpu::best_isa()); });
    m.def("use_isa", &bound::use_isa, "name"_a);
    bound::add_dynamics(m);
    bound::add_fast_lane(m);
}
