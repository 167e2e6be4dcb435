// Reading a torch tensor's address, sizes and dtype without linking libtorch: torch (2.10 and
// newer) publishes a C table on its tensor type, the DLPack C exchange API (type attribute
// __dlpack_c_exchange_api__). Filling in a view takes some 40 ns, where asking the same from Python
// takes about a microsecond per tensor.
//
// Only the parts of the public DLPack 1.x ABI (github.com/dmlc/dlpack) that are used are written
// out here.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>

namespace mild {

struct TensorView {  // DLTensor
    void* data;
    int32_t device_type;
    int32_t device_id;
    int32_t ndim;
    uint8_t type_code;
    uint8_t type_bits;
    uint16_t type_lanes;
    const int64_t* shape;
    const int64_t* strides;  // in elements
    uint64_t byte_offset;

    const char* address() const { return static_cast<const char*>(data) + byte_offset; }
    bool is(uint8_t code, uint8_t bits) const {
        return type_code == code && type_bits == bits && type_lanes == 1;
    }
    bool aligned(unsigned bytes) const {
        return reinterpret_cast<uintptr_t>(address()) % bytes == 0;
    }
};
static_assert(sizeof(void*) != 8 || (offsetof(TensorView, type_code) == 20 &&
                                     offsetof(TensorView, shape) == 24 && sizeof(TensorView) == 48),
              "the layout of DLTensor");

constexpr int32_t kDeviceCpu = 1;
constexpr int32_t kDeviceCuda = 2;
constexpr uint8_t kTypeInt = 0;
constexpr uint8_t kTypeFloat = 2;
constexpr uint8_t kTypeBFloat = 4;

struct TensorExchange {  // DLPackExchangeAPI
    uint32_t major;
    uint32_t minor;
    void* previous;
    void* unused[3];
    int (*view)(void* tensor, TensorView* out);  // 0, or -1 with a Python exception set
    int (*current_stream)(int device_type, int32_t device_id, void** out);
};

// Two functions of torch's C interface for compiled models (aoti_torch_get_storage_size, in bytes,
// and aoti_torch_get_storage_offset, in elements). Their handle is the address of an at::Tensor,
// which is a pointer to its implementation and nothing else; Python's _cdata is that pointer.
struct StorageQuestions {
    using Ask = int32_t (*)(void** tensor, int64_t* out);  // 0, or an error
    Ask size = nullptr;
    Ask offset = nullptr;

    bool ask(void* implementation, int64_t* bytes, int64_t* offset_out) const {
        return size(&implementation, bytes) == 0 && offset(&implementation, offset_out) == 0;
    }
};

// The table of `tensor_type`, or null (no exception set) where this torch has none that we can
// read.
inline const TensorExchange* find_exchange(PyObject* tensor_type) {
    PyObject* const capsule = PyObject_GetAttrString(tensor_type, "__dlpack_c_exchange_api__");
    const void* table = nullptr;
    if (capsule != nullptr && PyCapsule_CheckExact(capsule))
        table = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    Py_XDECREF(capsule);  // the table lives as long as torch
    PyErr_Clear();
    const auto* const exchange = static_cast<const TensorExchange*>(table);
    if (exchange == nullptr || exchange->major != 1 || exchange->view == nullptr ||
        exchange->current_stream == nullptr)
        return nullptr;
    return exchange;
}

}  // namespace mild
