// The module _C: argument unpacking, the GIL, nothing else. mild_ext/_C.pyi documents the Python
// side.
#include <pybind11/pybind11.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>

#include "cpu_dispatch.h"
#include "status_ops.h"
#include "tensor_view.h"

namespace py = pybind11;

namespace mild::bindings {
namespace {

constexpr int kCpu = -1;  // the device number that stands for the CPU

#ifdef MILD_EXT_WITH_CUDA
constexpr bool kCudaBuilt = true;
constexpr const char* kCudaArchitectures = MILD_EXT_CUDA_ARCHITECTURES;
constexpr const char* kCudaVersion = MILD_EXT_CUDA_VERSION;
#else
constexpr bool kCudaBuilt = false;
constexpr const char* kCudaArchitectures = "";
constexpr const char* kCudaVersion = "";
[[noreturn]] void no_cuda() {
    throw std::runtime_error(
        "this build of mild_ext has no CUDA backend; reinstall it where nvcc is on PATH "
        "(MILD_EXT_CUDA=ON pip install --force-reinstall --no-deps .), or keep the status on the "
        "CPU");
}
#endif

// A null address where there should be data is the one thing about memory that can be checked here.
template <class Pointer>
Pointer pointer(uintptr_t address, int64_t count, const char* name) {
    if (address == 0 && count > 0)
        throw std::invalid_argument(std::string(name) +
                                    " has no memory behind it (was its storage freed or resized?)");
    return reinterpret_cast<Pointer>(address);
}

void run_update(const Update& args, int device, [[maybe_unused]] uintptr_t stream, int threads) {
    if (device == kCpu) return cpu::update(args, threads);
#ifdef MILD_EXT_WITH_CUDA
    cuda::update(args, {device, reinterpret_cast<void*>(stream)});
#else
    no_cuda();
#endif
}

// ---- by address ----

void update(uintptr_t words, int64_t num_samples, int64_t num_words, uintptr_t index,
            bool index_is_int64, uintptr_t logits, int logit_type, int64_t rows, int64_t classes,
            int64_t row_stride, uintptr_t labels, bool labels_are_int64, uintptr_t epoch,
            int64_t num_epochs, uintptr_t faults, int device, uintptr_t stream, int threads) {
    if (logit_type < 0 || logit_type > static_cast<int>(LogitType::kBFloat16))
        throw std::invalid_argument("unknown logit type code " + std::to_string(logit_type));
    const Update args{{pointer<WordPair*>(words, num_samples, "words"), num_samples, num_words},
                      {pointer<const void*>(index, rows, "index"), index_is_int64},
                      pointer<const void*>(logits, rows, "logits"),
                      static_cast<LogitType>(logit_type),
                      rows,
                      classes,
                      row_stride,
                      {pointer<const void*>(labels, rows, "labels"), labels_are_int64},
                      pointer<const int64_t*>(epoch, 1, "epoch"),
                      num_epochs,
                      pointer<unsigned long long*>(faults, 1, "faults")};
    const py::gil_scoped_release released;
    run_update(args, device, stream, threads);
}

ConstStatusBuffer status_at(uintptr_t words, int64_t num_samples, int64_t num_words) {
    return {pointer<const WordPair*>(words, num_samples, "words"), num_samples, num_words};
}

void transition_times(uintptr_t words, int64_t num_samples, int64_t num_words, int64_t start,
                      int64_t stop, uintptr_t out, int device, [[maybe_unused]] uintptr_t stream,
                      int threads) {
    const ConstStatusBuffer status = status_at(words, num_samples, num_words);
    auto* const to = pointer<int32_t*>(out, num_samples, "out");
    const py::gil_scoped_release released;
    if (device == kCpu) return cpu::transition_times(status, {start, stop}, to, threads);
#ifdef MILD_EXT_WITH_CUDA
    cuda::transition_times(status, {start, stop}, to, {device, reinterpret_cast<void*>(stream)});
#else
    no_cuda();
#endif
}

void histogram(uintptr_t words, int64_t num_samples, int64_t num_words, int64_t start, int64_t stop,
               uintptr_t counts, int device, [[maybe_unused]] uintptr_t stream, int threads) {
    const ConstStatusBuffer status = status_at(words, num_samples, num_words);
    auto* const to = pointer<int64_t*>(counts, 1, "counts");
    const py::gil_scoped_release released;
    if (device == kCpu) return cpu::histogram(status, {start, stop}, to, threads);
#ifdef MILD_EXT_WITH_CUDA
    cuda::histogram(status, {start, stop}, to, {device, reinterpret_cast<void*>(stream)});
#else
    no_cuda();
#endif
}

void lookup(uintptr_t words, int64_t num_samples, int64_t num_words, int64_t start, int64_t stop,
            uintptr_t table, uintptr_t out, int element_size, int device,
            [[maybe_unused]] uintptr_t stream, int threads) {
    const ConstStatusBuffer status = status_at(words, num_samples, num_words);
    const Lookup args{pointer<const void*>(table, 1, "table"),
                      pointer<void*>(out, num_samples, "out"), element_size};
    const py::gil_scoped_release released;
    if (device == kCpu) return cpu::lookup(status, {start, stop}, args, threads);
#ifdef MILD_EXT_WITH_CUDA
    cuda::lookup(status, {start, stop}, args, {device, reinterpret_cast<void*>(stream)});
#else
    no_cuda();
#endif
}

// ---- by tensor: the fast lane of update ----

// torch.Tensor and its exchange table; set once, at import, and kept for the life of the process.
PyObject* tensor_type = nullptr;
const TensorExchange* exchange = nullptr;

bool use_tensor_type(const py::object& type) {
    const TensorExchange* const found = find_exchange(type.ptr());
    if (found == nullptr) return false;
    Py_INCREF(type.ptr());
    Py_XDECREF(tensor_type);
    tensor_type = type.ptr();
    exchange = found;
    return true;
}

std::optional<LogitType> logit_type_of(const TensorView& logits) {
    if (logits.is(kTypeFloat, 32)) return LogitType::kFloat32;
    if (logits.is(kTypeFloat, 64)) return LogitType::kFloat64;
    if (logits.is(kTypeFloat, 16)) return LogitType::kFloat16;
    if (logits.is(kTypeBFloat, 16)) return LogitType::kBFloat16;
    return std::nullopt;
}

bool is_int_vector(const TensorView& x, int64_t length) {
    return (x.is(kTypeInt, 64) || x.is(kTypeInt, 32)) && x.ndim == 1 && x.shape[0] == length &&
           (length <= 1 || x.strides[0] == 1) && x.aligned(x.type_bits / 8);
}

bool is_status(const TensorView& x) {
    return x.is(kTypeInt, 64) && x.ndim == 3 && x.shape[2] == 2 && x.strides[2] == 1 &&
           (x.shape[1] <= 1 || x.strides[1] == 2) &&
           (x.shape[0] <= 1 || x.strides[0] == 2 * x.shape[1]) && x.aligned(sizeof(WordPair));
}

// The arguments as an Update where they are the plain case; anything else, wrong input included, is
// left to the Python side, which handles it or says what is wrong with it.
std::optional<Update> plain_update(const std::array<TensorView, 6>& views, int64_t num_epochs) {
    const auto& [words, faults, epoch, index, logits, labels] = views;
    for (const TensorView& x : views)
        if (x.device_type != words.device_type || x.device_id != words.device_id ||
            (x.ndim > 0 && (x.shape == nullptr || x.strides == nullptr)))
            return std::nullopt;
    const std::optional<LogitType> logit_type = logit_type_of(logits);
    if (!logit_type || logits.ndim != 2 || logits.shape[1] < 1 || logits.strides[0] < 0 ||
        (logits.shape[1] > 1 && logits.strides[1] != 1) || !logits.aligned(logits.type_bits / 8))
        return std::nullopt;
    // A tensor whose storage was freed (as FSDP does) has its offset from null for an address. Real
    // memory may lie as low in some processes, so the Python side decides, which can ask the
    // storage.
    constexpr uintptr_t kSuspicious = uintptr_t{1} << 32;
    for (const TensorView& x : views)
        if (reinterpret_cast<uintptr_t>(x.address()) < kSuspicious) return std::nullopt;
    const int64_t rows = logits.shape[0];
    if (rows == 0) return std::nullopt;
    if (!is_int_vector(index, rows) || !is_int_vector(labels, rows) || !is_status(words))
        return std::nullopt;
    if (!epoch.is(kTypeInt, 64) || epoch.ndim != 0 || !faults.is(kTypeInt, 64) ||
        faults.ndim != 1 || faults.shape[0] != kNumFaults || num_epochs < 0 ||
        words.shape[1] != words_for(num_epochs))
        return std::nullopt;
    const auto writable = [](const TensorView& x) { return const_cast<char*>(x.address()); };
    return Update{{reinterpret_cast<WordPair*>(writable(words)), words.shape[0], words.shape[1]},
                  {index.address(), index.type_bits == 64},
                  logits.address(),
                  *logit_type,
                  rows,
                  logits.shape[1],
                  logits.strides[0],
                  {labels.address(), labels.type_bits == 64},
                  reinterpret_cast<const int64_t*>(epoch.address()),
                  num_epochs,
                  reinterpret_cast<unsigned long long*>(writable(faults))};
}

// try_update(words, faults, epoch, index, logits, labels, num_epochs, threads) -> whether it was
// the plain case. A bare C function: it is called once per training step, and pybind11's call would
// cost as much as the work.
PyObject* try_update(PyObject*, PyObject* const* args, Py_ssize_t count) {
    std::array<TensorView, 6> views;
    if (count != 8) {
        PyErr_SetString(PyExc_TypeError, "try_update takes six tensors, num_epochs and threads");
        return nullptr;
    }
    for (size_t i = 0; i < views.size(); ++i) {
        if (reinterpret_cast<PyObject*>(Py_TYPE(args[i])) != tensor_type) Py_RETURN_FALSE;
        if (exchange->view(args[i], &views[i]) != 0) {
            PyErr_Clear();  // no plain memory (a tensor of a function transform, sparse, ...)
            Py_RETURN_FALSE;
        }
    }
    const long long num_epochs = PyLong_AsLongLong(args[6]);
    const long threads = PyLong_AsLong(args[7]);
    if (PyErr_Occurred()) return nullptr;
    const std::optional<Update> update = plain_update(views, num_epochs);
    if (!update) Py_RETURN_FALSE;

    const TensorView& words = views[0];
    int device = kCpu;
    void* stream = nullptr;
    if (words.device_type == kDeviceCuda && kCudaBuilt) {
        device = words.device_id;
        if (exchange->current_stream(kDeviceCuda, device, &stream) != 0) return nullptr;
    } else if (words.device_type != kDeviceCpu) {
        Py_RETURN_FALSE;
    }
    try {
        // Giving the GIL up and waiting for it again can take longer than a small batch.
        constexpr int64_t kWorthReleasing = 1 << 16;
        std::optional<py::gil_scoped_release> released;
        if (update->rows * update->classes >= kWorthReleasing) released.emplace();
        run_update(*update, device, reinterpret_cast<uintptr_t>(stream), static_cast<int>(threads));
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
        return nullptr;
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
        return nullptr;
    }
    Py_RETURN_TRUE;
}

PyMethodDef fast_functions[] = {
    {"try_update", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(try_update)),
     METH_FASTCALL,
     "Records a batch where the arguments are the plain case; says whether they were."},
    {nullptr, nullptr, 0, nullptr}};

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
    m.def("use_tensor_type", &bound::use_tensor_type, "tensor_type"_a);
    m.def(
        "advise_large_pages",
        [](uintptr_t memory, int64_t bytes) {
            mild::cpu::advise_large_pages(reinterpret_cast<void*>(memory), bytes);
        },
        "memory"_a, "bytes"_a);
    m.def("isa", [] { return bound::isa_name(mild::cpu::current_isa()); });
    m.def("best_isa", [] { return bound::isa_name(mild::cpu::best_isa()); });
    m.def("use_isa", &bound::use_isa, "name"_a);
    if (PyModule_AddFunctions(m.ptr(), bound::fast_functions) != 0) throw py::error_already_set();
}
