// The structures of DLPack (https://dmlc.github.io/dlpack/latest/c_api.html), by which array libraries hand each other
// memory in capsules.
#pragma once

#include <cstdint>

namespace dlpack {

constexpr std::int32_t cuda = 2, cuda_managed = 13; ///< device types
constexpr std::uint64_t read_only = 1;              ///< a flag of Versioned

struct Device {
    std::int32_t type, id;
};
struct Type {
    std::uint8_t code, bits; ///< code 0 int, 1 unsigned, 2 float, 4 bfloat, 6 bool
    std::uint16_t lanes;
};
struct Tensor {
    void* data;
    Device device;
    std::int32_t ndim;
    Type type;
    std::int64_t *shape, *strides; ///< in elements; strides may be null: row-major, without gaps
    std::uint64_t byte_offset;
};
/// In a capsule "dltensor". Whoever takes it renames the capsule "used_dltensor" and calls the deleter in the end.
struct Managed {
    Tensor tensor;
    void* context;
    void (*deleter)(Managed*);
};
/// In a capsule "dltensor_versioned".
struct Versioned {
    std::uint32_t major, minor;
    void* context;
    void (*deleter)(Versioned*);
    std::uint64_t flags;
    Tensor tensor;
};

} // namespace dlpack
