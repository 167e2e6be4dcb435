// The fast lane of recording: native code reads torch's tensors by itself. Called once per training
// step, where the dispatcher, or asking every tensor for its sizes from Python, would cost more
// than the work of a small batch.
#include <array>
#include <optional>

#include "bindings.h"
#include "tensor_view.h"

namespace py = pybind11;

namespace mild::bindings {
namespace {

// torch.Tensor, its exchange table, and what tells a tensor's storage; set once, at import, and
// kept for the life of the process.
PyObject* tensor_type = nullptr;
const TensorExchange* exchange = nullptr;
StorageQuestions storage;
PyObject *is_neg = nullptr, *cdata = nullptr;  // names, made once

bool use_tensor_type(const py::object& type, uintptr_t storage_size, uintptr_t storage_offset) {
    const TensorExchange* const found = find_exchange(type.ptr());
    if (found == nullptr || storage_size == 0 || storage_offset == 0) return false;
    is_neg = PyUnicode_InternFromString("is_neg");
    cdata = PyUnicode_InternFromString("_cdata");
    if (is_neg == nullptr || cdata == nullptr) throw py::error_already_set();
    Py_INCREF(type.ptr());
    Py_XDECREF(tensor_type);
    tensor_type = type.ptr();
    exchange = found;
    storage = {reinterpret_cast<StorageQuestions::Ask>(storage_size),
               reinterpret_cast<StorageQuestions::Ask>(storage_offset)};
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

bool is_record(const TensorView& x) {
    return x.is(kTypeInt, 64) && x.ndim == 1 && (x.shape[0] <= 1 || x.strides[0] == 1) &&
           x.aligned(sizeof(int64_t));
}

char* writable(const TensorView& x) { return const_cast<char*>(x.address()); }

// What is recorded into, and the five tensors of the batch.
using Views = std::array<TensorView, 6>;

// The arguments as a Batch where they are the plain case; anything else, wrong input included, is
// left to the Python side, which handles it or says what is wrong with it.
std::optional<Batch> plain_batch(const Views& views, int64_t num_epochs) {
    const auto& [target, faults, epoch, index, logits, labels] = views;
    for (const TensorView& x : views)
        if (x.device_type != target.device_type || x.device_id != target.device_id ||
            (x.ndim > 0 && (x.shape == nullptr || x.strides == nullptr)))
            return std::nullopt;
    const std::optional<LogitType> logit_type = logit_type_of(logits);
    // A single column stands for two classes: Python adds the other.
    if (!logit_type || logits.ndim != 2 || logits.shape[1] < 2 || logits.strides[0] < 0 ||
        logits.strides[1] != 1 || !logits.aligned(logits.type_bits / 8))
        return std::nullopt;
    // No memory at all: empty, or freed. A freed one of the batch may start at an offset from null;
    // batch_holds_its_values finds that.
    for (const TensorView& x : views)
        if (x.address() == nullptr) return std::nullopt;
    const int64_t rows = logits.shape[0];
    if (rows == 0) return std::nullopt;
    if (!is_int_vector(index, rows) || !is_int_vector(labels, rows)) return std::nullopt;
    if (!epoch.is(kTypeInt, 64) || epoch.ndim != 0 || !faults.is(kTypeInt, 64) ||
        faults.ndim != 1 || faults.shape[0] != kNumFaults || num_epochs < 0)
        return std::nullopt;
    return Batch{{index.address(), index.type_bits == 64},
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

// From the first element of a tensor, none of whose sizes is 0, to behind its last.
int64_t extent(const TensorView& x) {
    int64_t elements = 1;
    for (int32_t d = 0; d < x.ndim; ++d) elements += (x.shape[d] - 1) * x.strides[d];
    return elements;
}

// Whether the storage still reaches as far as the view does: it may have been freed or shrunk under
// the tensor.
bool in_storage(PyObject* tensor, const TensorView& view) {
    const auto address = py::reinterpret_steal<py::object>(PyObject_GetAttr(tensor, cdata));
    void* const implementation = address ? PyLong_AsVoidPtr(address.ptr()) : nullptr;
    int64_t bytes = 0, offset = 0;
    if (implementation == nullptr || !storage.ask(implementation, &bytes, &offset)) return false;
    return (offset + extent(view)) * (view.type_bits / 8) <= bytes;
}

// What the views do not tell of a batch. False, no exception set, also where a question fails.
bool batch_holds_its_values(PyObject* const* args, const Views& views) {
    constexpr size_t kIndex = 3, kLogits = 4, kLabels = 5;  // the others are the status' own
    bool holds = true;
    for (const size_t i : {kIndex, kLogits, kLabels})
        holds = holds && in_storage(args[i], views[i]);
    // A tensor may stand for the negative of its memory, as z.conj().imag does.
    const auto negative = py::reinterpret_steal<py::object>(
        holds ? PyObject_CallMethodNoArgs(args[kLogits], is_neg) : nullptr);
    PyErr_Clear();
    return holds && negative.ptr() == Py_False;
}

// The views of the first six arguments, if all are plain tensors.
bool view_all(PyObject* const* args, Views& views) {
    for (size_t i = 0; i < views.size(); ++i) {
        if (reinterpret_cast<PyObject*>(Py_TYPE(args[i])) != tensor_type) return false;
        if (exchange->view(args[i], &views[i]) != 0) {
            PyErr_Clear();  // no plain memory (a tensor of a function transform, sparse, ...)
            return false;
        }
    }
    return true;
}

// run(place) where the tensors are; None where a Python exception is set, otherwise whether it ran.
template <class Run>
PyObject* run_there(const TensorView& target, const Batch& batch, long threads, const Run& run) {
    Place place{kCpu, 0, static_cast<int>(threads)};
    if (target.device_type == kDeviceCuda && kCudaBuilt) {
        void* stream = nullptr;
        place.device = target.device_id;
        if (exchange->current_stream(kDeviceCuda, place.device, &stream) != 0) return nullptr;
        place.stream = reinterpret_cast<uintptr_t>(stream);
        if (!is_current(place)) Py_RETURN_FALSE;  // torch makes it so, on the other way
    } else if (target.device_type != kDeviceCpu) {
        Py_RETURN_FALSE;
    }
    try {
        // Giving the GIL up and waiting for it again can take longer than a small batch.
        constexpr int64_t kWorthReleasing = 1 << 16;
        std::optional<py::gil_scoped_release> released;
        if (batch.rows * batch.classes >= kWorthReleasing) released.emplace();
        run(place);
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
        return nullptr;
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
        return nullptr;
    }
    Py_RETURN_TRUE;
}

// try_update(words, faults, epoch, index, logits, labels, num_epochs, threads) -> whether it was
// the plain case. A bare C function: pybind11's call would cost as much as the work.
PyObject* try_update(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 8) {
        PyErr_SetString(PyExc_TypeError, "try_update takes six tensors, num_epochs and threads");
        return nullptr;
    }
    Views views;
    if (!view_all(args, views)) Py_RETURN_FALSE;
    const long long num_epochs = PyLong_AsLongLong(args[6]);
    const long threads = PyLong_AsLong(args[7]);
    if (PyErr_Occurred()) return nullptr;
    const std::optional<Batch> batch = plain_batch(views, num_epochs);
    const TensorView& words = views[0];
    if (!batch || !is_status(words) || words.shape[1] != words_for(num_epochs) ||
        !batch_holds_its_values(args, views))
        Py_RETURN_FALSE;
    const Update update{
        {reinterpret_cast<WordPair*>(writable(words)), words.shape[0], words.shape[1]}, *batch};
    return run_there(words, *batch, threads,
                     [&](const Place& place) { MILD_RUN(place, update, update); });
}

// try_record(record, faults, epoch, index, logits, labels, num_epochs, num_classes, statistics,
// threads) -> whether it was the plain case.
PyObject* try_record(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 10) {
        PyErr_SetString(PyExc_TypeError,
                        "try_record takes six tensors, num_epochs, num_classes, statistics and "
                        "threads");
        return nullptr;
    }
    Views views;
    if (!view_all(args, views)) Py_RETURN_FALSE;
    const long long num_epochs = PyLong_AsLongLong(args[6]);
    const long long num_classes = PyLong_AsLongLong(args[7]);
    const int statistics = PyObject_IsTrue(args[8]);
    const long threads = PyLong_AsLong(args[9]);
    if (PyErr_Occurred()) return nullptr;
    const std::optional<Batch> batch = plain_batch(views, num_epochs);
    const TensorView& record = views[0];
    if (!batch || !is_record(record) || batch->classes != num_classes ||
        num_classes > kMaxClasses || !batch_holds_its_values(args, views))
        Py_RETURN_FALSE;
    const RecordVisits visits{reinterpret_cast<int64_t*>(writable(record)), record.shape[0], *batch,
                              statistics != 0};
    return run_there(record, *batch, threads,
                     [&](const Place& place) { MILD_RUN(place, record_visits, visits); });
}

using Fast = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);
PyCFunction as_method(Fast function) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef fast_functions[] = {
    {"try_update", as_method(try_update), METH_FASTCALL,
     "Records a batch where the arguments are the plain case; says whether they were."},
    {"try_record", as_method(try_record), METH_FASTCALL,
     "Records the visits of a batch where the arguments are the plain case; says whether they "
     "were."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

void add_fast_lane(py::module_& m) {
    using namespace pybind11::literals;
    m.def("use_tensor_type", &use_tensor_type, "tensor_type"_a, "storage_size"_a,
          "storage_offset"_a);
    if (PyModule_AddFunctions(m.ptr(), fast_functions) != 0) throw py::error_already_set();
}

}  // namespace mild::bindings
