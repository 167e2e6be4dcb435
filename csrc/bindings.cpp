// Python's view of the native core: arguments are unpacked, the GIL is dropped, the backend is chosen. Nothing else.
//
// Tensors arrive as addresses. mild_ext/_checks.py has looked at them before; what can still be checked here without
// touching the memory is a null address where there should be data.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cpu_dispatch.h"
#include "status_ops.h"

namespace py = pybind11;

namespace {

constexpr int kCpu = -1;  // `device` of the CPU; CUDA devices are 0, 1, ...

template <class T>
T* pointer(uintptr_t address, int64_t count, const char* name) {
    if (address == 0 && count > 0)
        throw std::invalid_argument(std::string(name) +
                                    " has no memory behind it (was its storage freed or resized?)");
    return reinterpret_cast<T*>(address);
}

// Calls cpu(threads) or cuda(target), whichever `device` names.
template <class Cpu, class Cuda>
void on_device(int device, uintptr_t stream, int threads, const Cpu& cpu, const Cuda& cuda) {
    const py::gil_scoped_release release;
    if (device == kCpu) return cpu(threads);
#ifdef MILD_EXT_WITH_CUDA
    cuda(mild::cuda::Target{device, reinterpret_cast<void*>(stream)});
#else
    (void)stream;
    (void)cuda;
    throw std::runtime_error(
        "this build of mild_ext has no CUDA code: install it again where nvcc is found "
        "(MILD_EXT_CUDA=ON pip install --force-reinstall ...), or keep the status on the CPU");
#endif
}

#ifdef MILD_EXT_WITH_CUDA
#define MILD_CUDA(call) [&](mild::cuda::Target target) { mild::cuda::call; }
#else
#define MILD_CUDA(call) 0
#endif

void update(uintptr_t words, int64_t num_samples, int64_t num_words, uintptr_t index,
            bool index_is_int64, uintptr_t logits, int logit_type, int64_t rows, int64_t classes,
            int64_t row_stride, uintptr_t labels, bool labels_are_int64, uintptr_t epoch,
            int64_t num_epochs, uintptr_t faults, int device, uintptr_t stream, int threads) {
    const mild::Update args{
        {pointer<mild::WordPair>(words, num_samples, "words"), num_samples, num_words},
        {pointer<const void>(index, rows, "index"), index_is_int64},
        pointer<const void>(logits, rows, "logits"),
        static_cast<mild::LogitType>(logit_type),
        rows,
        classes,
        row_stride,
        {pointer<const void>(labels, rows, "labels"), labels_are_int64},
        pointer<const int64_t>(epoch, 1, "epoch"),
        num_epochs,
        pointer<unsigned long long>(faults, 1, "faults")};
    on_device(
        device, stream, threads, [&](int most) { mild::cpu::update(args, most); },
        MILD_CUDA(update(args, target)));
}

mild::ConstStatusBuffer status_of(uintptr_t words, int64_t num_samples, int64_t num_words) {
    return {pointer<const mild::WordPair>(words, num_samples, "words"), num_samples, num_words};
}

void transition_times(uintptr_t words, int64_t num_samples, int64_t num_words, int64_t start,
                      int64_t stop, uintptr_t out, int device, uintptr_t stream, int threads) {
    const auto status = status_of(words, num_samples, num_words);
    const mild::Window window{start, stop};
    auto* const to = pointer<int32_t>(out, num_samples, "out");
    on_device(
        device, stream, threads,
        [&](int most) { mild::cpu::transition_times(status, window, to, most); },
        MILD_CUDA(transition_times(status, window, to, target)));
}

void histogram(uintptr_t words, int64_t num_samples, int64_t num_words, int64_t start, int64_t stop,
               uintptr_t counts, int device, uintptr_t stream, int threads) {
    const auto status = status_of(words, num_samples, num_words);
    const mild::Window window{start, stop};
    auto* const to = pointer<int64_t>(counts, 1, "counts");
    on_device(
        device, stream, threads,
        [&](int most) { mild::cpu::histogram(status, window, to, most); },
        MILD_CUDA(histogram(status, window, to, target)));
}

void lookup(uintptr_t words, int64_t num_samples, int64_t num_words, int64_t start, int64_t stop,
            uintptr_t table, uintptr_t out, int element_size, int device, uintptr_t stream,
            int threads) {
    const auto status = status_of(words, num_samples, num_words);
    const mild::Window window{start, stop};
    const mild::Lookup args{pointer<const void>(table, 1, "table"),
                            pointer<void>(out, num_samples, "out"), element_size};
    on_device(
        device, stream, threads, [&](int most) { mild::cpu::lookup(status, window, args, most); },
        MILD_CUDA(lookup(status, window, args, target)));
}

constexpr const char* kIsaNames[] = {"plain", "avx2", "avx512"};

void use_isa(const std::string& name) {
    for (int isa = 0; isa < 3; ++isa)
        if (name == kIsaNames[isa]) return mild::cpu::use_isa(static_cast<mild::cpu::Isa>(isa));
    throw std::invalid_argument("isa must be plain, avx2 or avx512, got " + name);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Native core of mild_ext; called through mild_ext.ops, which checks its arguments.";
    m.attr("__version__") = MILD_EXT_VERSION;
#ifdef MILD_EXT_WITH_CUDA
    m.attr("cuda_architectures") = MILD_EXT_CUDA_ARCHITECTURES;
    m.attr("cuda_version") = MILD_EXT_CUDA_VERSION;
#else
    m.attr("cuda_architectures") = "";
    m.attr("cuda_version") = "";
#endif
    m.attr("max_epochs") = mild::kMaxEpochs;
    m.attr("num_faults") = static_cast<int>(mild::kNumFaults);

    m.def("update", &update);
    m.def("transition_times", &transition_times);
    m.def("histogram", &histogram);
    m.def("lookup", &lookup);
    m.def("isa", [] { return kIsaNames[static_cast<int>(mild::cpu::current_isa())]; });
    m.def("best_isa", [] { return kIsaNames[static_cast<int>(mild::cpu::best_isa())]; });
    m.def("use_isa", &use_isa);
}
