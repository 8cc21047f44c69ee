// Compiled where ONNX Runtime's headers are: they and ort_table.hpp agree.
#include "ort_table.hpp"

#include <onnxruntime_c_api.h>

static_assert(ORT_API_VERSION >= ort::kVersion, "ONNX Runtime 1.17 or newer is needed");

#define SAME_PLACE(name) static_assert(offsetof(OrtApi, name) == ort::k##name * sizeof(void*), #name " has moved")
SAME_PLACE(CreateStatus);
SAME_PLACE(CreateCustomOpDomain);
SAME_PLACE(CustomOpDomain_Add);
SAME_PLACE(AddCustomOpDomain);
SAME_PLACE(GetTensorMutableData);
SAME_PLACE(CreateTensorTypeAndShapeInfo);
SAME_PLACE(SetDimensions);
SAME_PLACE(GetDimensionsCount);
SAME_PLACE(GetDimensions);
SAME_PLACE(GetTensorTypeAndShape);
SAME_PLACE(KernelInfoGetAttribute_int64);
SAME_PLACE(KernelInfoGetAttribute_string);
SAME_PLACE(KernelContext_GetInput);
SAME_PLACE(KernelContext_GetOutput);
SAME_PLACE(ReleaseStatus);
SAME_PLACE(ReleaseTensorTypeAndShapeInfo);
SAME_PLACE(KernelInfoGetConstantInput_tensor);
SAME_PLACE(KernelContext_ParallelFor);

#define SAME_FIELD(theirs, ours) static_assert(offsetof(OrtCustomOp, theirs) == offsetof(ort::CustomOp, ours), #theirs)
SAME_FIELD(GetName, name);
SAME_FIELD(KernelDestroy, destroy);
SAME_FIELD(GetVariadicInputMinArity, variadic);
SAME_FIELD(CreateKernelV2, create_v2);
SAME_FIELD(KernelComputeV2, compute_v2);
SAME_FIELD(GetEndVersion, end_version);

static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT == int(ort::kFloat) &&
              ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 == int(ort::kUint8) &&
              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 == int(ort::kFloat16));
static_assert(ORT_FAIL == int(ort::kFail) && ORT_INVALID_ARGUMENT == int(ort::kInvalidArgument) &&
              ORT_RUNTIME_EXCEPTION == int(ort::kRuntimeException));
