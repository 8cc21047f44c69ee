// The part of ONNX Runtime's C interface that the operation needs, for machines without its headers: the packages on
// PyPI have none. The interface is a table of functions that only grows at its end, asked for by version
// (onnxruntime_c_api.h, "OrtApi"); the places below are those of version 17, of January 2024, and of every later one.
// Where the headers are, ort_headers.cpp compares; self_test() tries the functions before the first is relied on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

constexpr std::uint32_t kVersion = 17;

struct Status;
struct Value;
struct Shape; // OrtTensorTypeAndShapeInfo
struct SessionOptions;
struct OpDomain;
struct KernelInfo;
struct KernelContext;

enum ElementType : int { kFloat = 1, kUint8 = 2, kFloat16 = 10 };
enum Code : int { kFail = 1, kInvalidArgument = 2, kRuntimeException = 6 };

/// Where a function stands in the table.
enum Place : std::size_t {
    kCreateStatus = 0,
    kCreateCustomOpDomain = 26,
    kCustomOpDomain_Add = 27,
    kAddCustomOpDomain = 28,
    kGetTensorMutableData = 51,
    kCreateTensorTypeAndShapeInfo = 57,
    kSetDimensions = 59,
    kGetDimensionsCount = 61,
    kGetDimensions = 62,
    kGetTensorTypeAndShape = 65,
    kKernelInfoGetAttribute_int64 = 86,
    kKernelInfoGetAttribute_string = 87,
    kKernelContext_GetInput = 90,
    kKernelContext_GetOutput = 91,
    kReleaseStatus = 93,
    kReleaseTensorTypeAndShapeInfo = 99,
    kKernelInfoGetConstantInput_tensor = 249,
    kKernelContext_ParallelFor = 274
};

using Function = void (*)();

/// What a session gives to a library of operations.
struct ApiBase {
    const Function* (*get)(std::uint32_t version); ///< nullptr if the runtime is older
    const char* (*version)();
};

/// An operation; OrtCustomOp up to what version 17 knows.
struct CustomOp {
    std::uint32_t version;
    void* (*create)(const CustomOp*, const Function*, const KernelInfo*);
    const char* (*name)(const CustomOp*);
    const char* (*provider)(const CustomOp*);
    ElementType (*input_type)(const CustomOp*, std::size_t);
    std::size_t (*input_count)(const CustomOp*);
    ElementType (*output_type)(const CustomOp*, std::size_t);
    std::size_t (*output_count)(const CustomOp*);
    void (*compute)(void*, KernelContext*);
    void (*destroy)(void*);
    int (*input_characteristic)(const CustomOp*, std::size_t);
    int (*output_characteristic)(const CustomOp*, std::size_t);
    int (*input_memory)(const CustomOp*, std::size_t);
    int (*variadic[4])(const CustomOp*);
    Status* (*create_v2)(const CustomOp*, const Function*, const KernelInfo*, void**);
    Status* (*compute_v2)(void*, KernelContext*);
    Function infer_shape;
    int (*start_version)(const CustomOp*);
    int (*end_version)(const CustomOp*);
};

/// The functions, typed. A Status of nullptr is success.
class Api {
  public:
    explicit Api(const Function* table) : table_(table) {}

    Status* error(Code code, const char* text) const {
        return at<Status*(Code, const char*)>(kCreateStatus)(code, text);
    }
    void release(Status* a) const { at<void(Status*)>(kReleaseStatus)(a); }
    void release(Shape* a) const { at<void(Shape*)>(kReleaseTensorTypeAndShapeInfo)(a); }
    Status* make_domain(const char* name, OpDomain** out) const {
        return at<Status*(const char*, OpDomain**)>(kCreateCustomOpDomain)(name, out);
    }
    Status* add(OpDomain* domain, const CustomOp* op) const {
        return at<Status*(OpDomain*, const CustomOp*)>(kCustomOpDomain_Add)(domain, op);
    }
    Status* add(SessionOptions* options, OpDomain* domain) const {
        return at<Status*(SessionOptions*, OpDomain*)>(kAddCustomOpDomain)(options, domain);
    }
    Status* data(const Value* value, void** out) const {
        return at<Status*(Value*, void**)>(kGetTensorMutableData)(const_cast<Value*>(value), out);
    }
    Status* make_shape(Shape** out) const { return at<Status*(Shape**)>(kCreateTensorTypeAndShapeInfo)(out); }
    Status* set(Shape* shape, const std::int64_t* dims, std::size_t count) const {
        return at<Status*(Shape*, const std::int64_t*, std::size_t)>(kSetDimensions)(shape, dims, count);
    }
    Status* shape(const Value* value, Shape** out) const {
        return at<Status*(const Value*, Shape**)>(kGetTensorTypeAndShape)(value, out);
    }
    Status* rank(const Shape* shape, std::size_t* out) const {
        return at<Status*(const Shape*, std::size_t*)>(kGetDimensionsCount)(shape, out);
    }
    Status* dims(const Shape* shape, std::int64_t* out, std::size_t count) const {
        return at<Status*(const Shape*, std::int64_t*, std::size_t)>(kGetDimensions)(shape, out, count);
    }
    Status* attribute(const KernelInfo* info, const char* name, std::int64_t* out) const {
        return at<Status*(const KernelInfo*, const char*, std::int64_t*)>(kKernelInfoGetAttribute_int64)(info, name,
                                                                                                         out);
    }
    Status* attribute(const KernelInfo* info, const char* name, char* out, std::size_t* size) const {
        using Type = Status*(const KernelInfo*, const char*, char*, std::size_t*);
        return at<Type>(kKernelInfoGetAttribute_string)(info, name, out, size);
    }
    Status* constant(const KernelInfo* info, std::size_t input, int* is_constant, const Value** out) const {
        using Type = Status*(const KernelInfo*, std::size_t, int*, const Value**);
        return at<Type>(kKernelInfoGetConstantInput_tensor)(info, input, is_constant, out);
    }
    Status* input(const KernelContext* context, std::size_t i, const Value** out) const {
        return at<Status*(const KernelContext*, std::size_t, const Value**)>(kKernelContext_GetInput)(context, i, out);
    }
    Status* output(KernelContext* context, std::size_t i, const std::int64_t* dims, std::size_t rank,
                   Value** out) const {
        using Type = Status*(KernelContext*, std::size_t, const std::int64_t*, std::size_t, Value**);
        return at<Type>(kKernelContext_GetOutput)(context, i, dims, rank, out);
    }
    /// body(user, i) for i < count on the threads of the session.
    Status* parallel_for(const KernelContext* context, void (*body)(void*, std::size_t), std::size_t count,
                         void* user) const {
        using Type = Status*(const KernelContext*, void (*)(void*, std::size_t), std::size_t, std::size_t, void*);
        return at<Type>(kKernelContext_ParallelFor)(context, body, count, count, user);
    }

    /// Whether shapes keep what they are given: the table is as expected.
    bool self_test() const {
        const std::int64_t given[2] = {3, 5};
        std::int64_t got[2] = {0, 0};
        std::size_t count = 0;
        Shape* shape = nullptr;
        if (make_shape(&shape) || !shape) return false;
        const bool well = !set(shape, given, 2) && !rank(shape, &count) && count == 2 && !dims(shape, got, 2);
        release(shape);
        return well && got[0] == 3 && got[1] == 5;
    }

  private:
    template <class Type> Type* at(Place place) const { return reinterpret_cast<Type*>(table_[place]); }

    const Function* table_;
};

} // namespace ort
