// How a compressed matrix lies in a container: its tensors, one metadata entry, a checksum (cpp/FORMAT.md).
#pragma once

#include "bqq/array.hpp"
#include "bqq/matrix.hpp"
#include "bqq/tensor.hpp"

namespace bqq::detail {

/// Endings of the tensors' names.
constexpr char kY[] = ".bqq_y", kZ[] = ".bqq_z", kScales[] = ".bqq_scales", kRowOrder[] = ".bqq_row_order",
               kColOrder[] = ".bqq_col_order", kPositions[] = ".bqq_positions", kValues[] = ".bqq_values";

bool is_part_name(const std::string& name);
std::string part_names(); ///< the endings, for error texts
std::vector<Index> y_shape(const Layout& a);
std::vector<Index> z_shape(const Layout& a);
std::vector<Index> scales_shape(const Layout& a);

/// The metadata entry: a JSON object of six keys, and one for each of the other parts that there are.
struct Record {
    Layout layout;
    std::uint32_t crc = 0;
    Index row_order = 0, col_order = 0; ///< 1: it has one
    Index entries = 0;
    bool is_plain() const { return !row_order && !col_order && !entries; }
};
std::string write_record(const Record& r);
/// Throws Error(format) that begins with `where`. Sums and products of two numbers of the layout fit 64 bits.
Record read_record(const std::string& record, const std::string& where);

/// `parts`: the data of all tensors of the matrix, in the order of part_tensors().
std::uint32_t checksum(const std::string& name, const Record& r, const std::vector<Tensor>& parts);

/// The tensors of a matrix without their data: names, dtypes, shapes, sizes, in the order of the checksum. `scales`:
/// dtype of scales and values; of those a file may have either, so empty where one is read.
std::vector<Tensor> part_tensors(const std::string& name, const Record& r, const std::string& scales);

/// Integers of 2, 4 or 8 bytes, little-endian.
std::vector<std::uint8_t> encode_integers(const std::vector<std::uint64_t>& values, Index bytes);
std::vector<std::uint64_t> decode_integers(const Tensor& t);

/// How scales may be stored: everything about one way stands in the table in record.cpp.
struct ScaleType {
    Dtype dtype;
    const char* stored; ///< dtype of the tensor
    const char* name;
    std::size_t size;
    float largest;
    void (*encode)(float value, std::uint8_t* out);
    float (*decode)(const std::uint8_t* in);
};
const ScaleType* scale_type(const std::string& stored); ///< null if it is none
const ScaleType& scale_type(Dtype dtype);               ///< Error(invalid_argument) names those there are
std::string scale_types(const char* ScaleType::* what); ///< "F32 or F16"

/// `what`: the matrix and what the numbers are, for Error(invalid_argument) about one that the type cannot hold.
std::vector<std::uint8_t> encode_scales(const std::vector<float>& scales, const ScaleType& type,
                                        const std::string& what);
std::vector<float> decode_scales(const Tensor& t, const ScaleType& type);
/// The scales where they lie, if they are float32 of this machine; else null.
const float* scales_in_place(const Tensor& t, const ScaleType& type);

} // namespace bqq::detail
