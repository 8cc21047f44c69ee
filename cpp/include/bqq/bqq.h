// C interface of bqq: real matrices as sums of products of binary matrices. C99; includes no other header of bqq.
//
//   W_hat = sum_{i<p} ( r_i Y_i Z_i + s_i (Y_i 1) + t_i (1 Z_i) ) + u        letters: see bqq/matrix.hpp
//
// Errors. A function that can fail returns bqq_status; BQQ_OK is 0. After a failure bqq_last_error() has the text. A
// NULL where the contract asks for a pointer is BQQ_INVALID_ARGUMENT. A failed call leaves its outputs untouched,
// except that the pointer to a new owner (a `bqq_matrix** out`) becomes NULL and an array of results may be partly
// written. No C++ exception leaves the library, and it never ends the process.
//
// Threads. Every function may be called from any thread at any time. Objects never change after they were made and may
// be shared; freeing one while another thread uses it is an error of the caller. A parameter `threads` of 0 takes
// BQQ_NUM_THREADS, else OMP_NUM_THREADS, else the cores of this process. Results do not depend on it.
//
// Memory. What the library allocates is opaque and has a free function of its own; everything else is the caller's. No
// pointer that was passed in is kept after the call.
//
// Numbers. Strides and leading dimensions count elements. Matrices are row-major unless they carry strides. Strings are
// zero-terminated UTF-8.
//
// Growth. Enumerators keep their numbers. A structure that starts with struct_size grows at its end: the caller sets
// struct_size to its own sizeof, fields that it does not reach take their defaults, and bytes that this version does
// not know must be zero (else BQQ_UNSUPPORTED). A struct_size of 0 is BQQ_INVALID_ARGUMENT.
#ifndef BQQ_BQQ_H
#define BQQ_BQQ_H

#include <stddef.h>
#include <stdint.h>

#ifndef BQQ_API
#if defined(BQQ_STATIC)
#define BQQ_API
#elif defined(_WIN32)
#if defined(BQQ_BUILDING)
#define BQQ_API __declspec(dllexport)
#else
#define BQQ_API __declspec(dllimport)
#endif
#else
#define BQQ_API __attribute__((visibility("default")))
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/// Version of this binary interface (the SOVERSION of the shared library), apart from the version of the library.
#define BQQ_ABI_VERSION 1

typedef enum bqq_status {
    BQQ_OK = 0,
    BQQ_INVALID_ARGUMENT = 1, ///< an argument is NULL or out of range; the text names it, its value, what was expected
    BQQ_OUT_OF_MEMORY = 2,
    BQQ_IO = 3,          ///< the operating system refused to read or write a file
    BQQ_FORMAT = 4,      ///< a file or a view is malformed, truncated or corrupt
    BQQ_CANCELLED = 5,   ///< the progress callback asked to stop
    BQQ_UNSUPPORTED = 6, ///< an instruction set, a feature or a newer structure that this machine or build lacks
    BQQ_INTERNAL = 7     ///< a bug in the library
} bqq_status;

typedef enum bqq_dtype { BQQ_F32 = 0, BQQ_F16 = 1, BQQ_BF16 = 2, BQQ_F64 = 3 } bqq_dtype;

/// ADAPTIVE: data-driven normaliser, a stack ends once every variable has settled.
/// PAPER: the schedule of arXiv 2510.18650, always all steps, 50,000 by default, no refinement unless asked for.
typedef enum bqq_schedule { BQQ_SCHEDULE_ADAPTIVE = 0, BQQ_SCHEDULE_PAPER = 1 } bqq_schedule;

/// How long to search; descent steps and refinement sweeps per stack: STANDARD 2,000 and 20,000, FAST 1,000 and 1,500,
/// BEST 2,000 and 64,000 from the best of four descents; for l above 64 proportionally fewer sweeps, down to a quarter.
/// Where refinement gains less than 6 %, a second descent of 10,000 (best: 20,000) steps follows, refined gently,
/// unless steps or refine are given; with more than 1.2 times the default l, less than 30 % and three times the steps.
/// With a whole weight: 100 steps; 5,000, 1,000 and 64,000 sweeps; no second descent.
typedef enum bqq_effort { BQQ_EFFORT_STANDARD = 0, BQQ_EFFORT_FAST = 1, BQQ_EFFORT_BEST = 2 } bqq_effort;

/// In which order columns go into blocks: as they are, or by falling diagonal of weight.
typedef enum bqq_order { BQQ_ORDER_NONE = 0, BQQ_ORDER_WEIGHT = 1 } bqq_order;

/// How exact a product is. FLOAT32: within 2e-5 of the norm of each column of the result, against double. FAST: mean
/// squared error at most 5e-4 of the result's mean square for inputs without extreme outliers, wherever their mean is;
/// up to twice as fast. Kernels of 8 or 16 bits stand behind it, by instruction set and number of columns.
typedef enum bqq_precision { BQQ_PRECISION_FLOAT32 = 0, BQQ_PRECISION_FAST = 1 } bqq_precision;

// ---- the library ----

/// Text of the last call that failed on this thread, "" if none did. Never NULL. Valid until the next failing call on
/// the same thread or the end of the thread; calls that succeed leave it alone. Long texts are cut at about 1,000
/// bytes.
BQQ_API const char* bqq_last_error(void);

/// "1.2.3"; a constant. Cannot fail.
BQQ_API const char* bqq_version(void);

/// BQQ_ABI_VERSION of the library that is loaded; compare it with the macro after dlopen. Cannot fail.
BQQ_API int bqq_abi_version(void);

/// *name: the instruction set in use, "generic", "avx2", "avx512", ...; a constant. The environment variable BQQ_ISA
/// caps it; an unknown name or one this machine lacks is BQQ_UNSUPPORTED here and in every computing function.
BQQ_API bqq_status bqq_isa(const char** name);

/// One "key: value" line each: version, compiler, instruction sets, threads; for bug reports. As snprintf:
/// writes at most `size` bytes, the terminating zero among them, and sets *length to the length of the whole text
/// without it. buffer may be NULL if size is 0; length may be NULL.
BQQ_API bqq_status bqq_config(char* buffer, size_t size, size_t* length);

// ---- a compressed matrix ----

/// A number that is added to one element of a matrix. This structure never grows.
typedef struct bqq_entry {
    uint32_t row, col;
    float value;
} bqq_entry;

/// Non-owning view of a compressed m x n matrix, cut into J x K blocks of rows x cols (rows = ceil(m/J),
/// cols = ceil(n/K); the last ones may be shorter in W, their missing rows and columns are zero bits). Bits are
/// little-endian within a byte: element k of a row is bit k%8 of byte k/8; pad bits are zero. The arrays may lie in a
/// mapped file; y and z need no alignment, scales that of float.
/// Functions that take a view check its layout in O(1) and trust the bits: run bqq_validate once on a view that was not
/// made by this library.
typedef struct bqq_view {
    size_t struct_size;  ///< sizeof(bqq_view), set by the caller, for outputs too
    int64_t m, n;        ///< shape of W: up to 2^40 each
    int64_t J, K;        ///< block rows, block columns
    int64_t rows, cols;  ///< block size: up to 2^20 each
    int64_t p, l;        ///< stacks: 1 to 64; inner dimension: 1 to 65535
    const uint8_t* y;    ///< [J, K, p, rows, ceil(l/8)]
    const uint8_t* z;    ///< [J, K, p, l, ceil(cols/8)]
    const float* scales; ///< [J, K, 3p+1]: r_0 s_0 t_0 r_1 s_1 t_1 ... u
    /// With A what the blocks stand for plus the entries, W_hat[row_order[a], col_order[b]] = A[a, b]. NULL and 0:
    /// none.
    const uint32_t* row_order; ///< [m], a permutation of 0 .. m-1
    const uint32_t* col_order; ///< [n], of 0 .. n-1
    const bqq_entry* entries;  ///< [entry_count], ascending by (row, col), each pair once
    int64_t entry_count;
} bqq_view;

/// bqq_view v = BQQ_VIEW_INIT;
#define BQQ_VIEW_INIT {sizeof(bqq_view), 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, 0}

/// Checks everything: sizes consistent and within limits, scales finite, pad bits and pad rows zero, orders
/// permutations, entries finite, in range and in order; else BQQ_FORMAT with what is wrong. O(bytes). Reads nothing
/// beyond the arrays that the layout describes.
BQQ_API bqq_status bqq_validate(const bqq_view* view);

/// Owner of a compressed matrix. Made by the functions below, freed by bqq_matrix_free.
typedef struct bqq_matrix bqq_matrix;

/// *view: the arrays of `matrix`, valid until it is freed. Set view->struct_size before. O(1). BQQ_UNSUPPORTED if the
/// matrix has an order or entries and the structure of the caller ends before them.
BQQ_API bqq_status bqq_matrix_view(const bqq_matrix* matrix, bqq_view* view);

/// NULL is allowed.
BQQ_API void bqq_matrix_free(bqq_matrix* matrix);

/// *out: a matrix of its own with the planes and scales of `view`. O(bytes). Does not validate the bits.
BQQ_API bqq_status bqq_copy(const bqq_view* view, bqq_matrix** out);

/// *out: the first k stacks, 1 <= k <= p: same bits, same r, s, t, orders and entries; u keeps each block's mean.
BQQ_API bqq_status bqq_prefix(const bqq_view* view, int64_t k, bqq_matrix** out);

/// *out: the transpose, exactly: Y' = Z^T, Z' = Y^T, s and t exchanged, the orders too.
BQQ_API bqq_status bqq_transpose(const bqq_view* view, bqq_matrix** out);

// ---- from a real matrix to a compressed one ----

/// Called on the thread that called the library, a few times a second and once at the end, with the steps done so far
/// and in all. Nonzero stops the work within one step; the call then returns BQQ_CANCELLED.
typedef int (*bqq_progress)(int64_t done, int64_t total, void* user);

typedef struct bqq_decompose_options {
    size_t struct_size;
    int64_t l;      ///< inner dimension; 0: round(rows*cols/(rows+cols)) of a block. Ignored by bqq_extend
    int64_t patch;  ///< largest block side; 0: the library's choice. Ignored by bqq_extend
    int64_t steps;  ///< descent steps per stack; 0: the schedule's or the effort's
    int64_t refine; ///< refinement sweeps per stack; 0: the effort's (none under BQQ_SCHEDULE_PAPER); -1: none.
                    ///< Not done for l > 4096
    uint64_t seed;
    int32_t schedule;      ///< a bqq_schedule
    int32_t effort;        ///< a bqq_effort
    int32_t threads;       ///< see "threads" above
    int32_t reserved;      ///< zero
    bqq_progress progress; ///< NULL: none
    void* user;            ///< handed to progress
    /// NULL: the error is the sum of squares of W - W_hat. Else it is tr(E H E^T) with H the n x n second moment of a
    /// layer's inputs (ldweight >= n floats between rows), or its diagonal of n numbers (ldweight 0). Only read.
    const float* weight;
    int64_t ldweight;
    double damping; ///< share of the mean of weight's diagonal added to the diagonal; 0: 0.1; negative: none
    /// Elements further than this many standard deviations from the mean of their block become entries; 0: none.
    double outliers;
    int32_t order;     ///< a bqq_order; ignored by bqq_extend and bqq_encode, as outliers
    int32_t reserved2; ///< zero
} bqq_decompose_options;

/// Fills the first struct_size bytes of *options with the defaults; struct_size: sizeof *options. All defaults are
/// zero, so `bqq_decompose_options o = {.struct_size = sizeof o};` does the same and stays right in later versions.
BQQ_API bqq_status bqq_decompose_options_init(bqq_decompose_options* options, size_t struct_size);

/// *view: the sizes of what bqq_decompose makes of an m x n matrix with p stacks under `options` (of which l, patch and
/// whether weight is a whole matrix count; NULL: defaults); its pointers NULL. Set view->struct_size before. O(1).
BQQ_API bqq_status bqq_make_layout(int64_t m, int64_t n, int64_t p, const bqq_decompose_options* options,
                                   bqq_view* view);

/// Finds p stacks for W, m x n, row-major with ldw >= n elements between rows, all finite. *out owns the result, which
/// depends on (W, p, l, patch, schedule, effort, steps, refine, weight, damping, order, outliers, seed) and the
/// instruction set only. options NULL: defaults. About 8 rows*cols*l flop per step, stack and block; W is read in
/// place, memory besides the result is about 8 block-sized float arrays per thread. BQQ_INVALID_ARGUMENT,
/// BQQ_OUT_OF_MEMORY, BQQ_CANCELLED, BQQ_UNSUPPORTED.
BQQ_API bqq_status bqq_decompose(const float* w, int64_t m, int64_t n, int64_t ldw, int64_t p,
                                 const bqq_decompose_options* options, bqq_matrix** out);

/// *out: `view` with stacks added until it has p (at least what it has now): the bits of the old stacks, the orders and
/// the places of entries stay, all scales and entries are solved again. w: the m x n matrix that was compressed.
/// bqq_decompose to p1 and bqq_extend to p2 gives bit for bit what bqq_decompose to p2 gives under equal options,
/// unless weight is a whole matrix and there are several column patches.
BQQ_API bqq_status bqq_extend(const bqq_view* view, const float* w, int64_t ldw, int64_t p,
                              const bqq_decompose_options* options, bqq_matrix** out);

/// *out: m new rows for `view`, which has one block row: rows, m x view->n, row-major with ldrows >= n elements between
/// rows, all finite; Z, scales and col_order are those of view, entries there are none, the bits of all stacks of a row
/// are found together. A row's bits do not depend on the rows beside it. Of the options, effort, steps (flips of each
/// search; 0: the effort's), seed, threads, progress, weight, ldweight and damping count. BQQ_INVALID_ARGUMENT,
/// BQQ_OUT_OF_MEMORY, BQQ_CANCELLED.
BQQ_API bqq_status bqq_encode(const bqq_view* view, const float* rows, int64_t m, int64_t ldrows,
                              const bqq_decompose_options* options, bqq_matrix** out);

/// Writes W_hat into out: m x n, row-major, ldo >= n elements between rows. O(p l m n / 2) integer additions.
BQQ_API bqq_status bqq_reconstruct(const bqq_view* view, float* out, int64_t ldo, int threads);

/// *out: the sum of squared differences between w (m x n, ldw >= n) and W_hat, accumulated in double; W_hat is formed a
/// row at a time. Cost of bqq_reconstruct.
BQQ_API bqq_status bqq_squared_error(const bqq_view* view, const float* w, int64_t ldw, int threads, double* out);

// ---- products ----

/// A strided 2-D array; strides in elements, may be negative or zero. Inputs are only read. This structure never grows.
typedef struct bqq_array {
    void* data;
    int32_t dtype; ///< a bqq_dtype
    int64_t rows, cols;
    int64_t row_stride, col_stride;
} bqq_array;

/// *size: bytes that bqq_prepare needs for `view`. O(1).
BQQ_API bqq_status bqq_prepared_size(const bqq_view* view, size_t* size);

/// Re-orders the planes of `view` for the kernels into buffer: at least bqq_prepared_size bytes, 64-byte aligned, the
/// caller's. The result does not refer to `view`, may be moved in memory (at 64-byte alignment) and used by any number
/// of threads. It is not a file format: another version or instruction set (bqq_isa) may want another order, and
/// refuses this one. O(bytes).
BQQ_API bqq_status bqq_prepare(const bqq_view* view, void* buffer, size_t size);

/// The same for products with W_hat^T (n x m), straight from the planes of `view`: byte for byte what bqq_prepare makes
/// of bqq_transpose's result, for one plane of working memory. Where m and n stand in what follows, they are exchanged.
/// BQQ_INVALID_ARGUMENT, BQQ_FORMAT, BQQ_OUT_OF_MEMORY.
BQQ_API bqq_status bqq_prepared_size_transposed(const bqq_view* view, size_t* size);
BQQ_API bqq_status bqq_prepare_transposed(const bqq_view* view, void* buffer, size_t size);

typedef struct bqq_matmul_options {
    size_t struct_size;
    int32_t threads;    ///< see "threads" above; bqq_matmul_rows ignores it
    int32_t precision;  ///< a bqq_precision
    int32_t accumulate; ///< nonzero: out += W_hat * x, rounded once to the dtype of out
    int32_t reserved;   ///< zero
} bqq_matmul_options;

/// Fills the first struct_size bytes of *options with the defaults (all zero); struct_size: sizeof *options.
BQQ_API bqq_status bqq_matmul_options_init(bqq_matmul_options* options, size_t struct_size);

/// out (m x batch) = W_hat * x (n x batch), any dtypes, summed in float32 or integers. out must not overlap x. A column
/// of the result depends on its column of x alone, bit for bit, and on the batch in that another number of columns
/// may be computed another way. `prepared`: filled by bqq_prepare or bqq_prepare_transposed. options NULL: defaults.
/// Small products stay on the calling thread. O(p l (m K + n J) batch) bit operations. BQQ_INVALID_ARGUMENT names the
/// shapes that do not fit; BQQ_OUT_OF_MEMORY.
BQQ_API bqq_status bqq_matmul(const void* prepared, const bqq_array* x, const bqq_array* out,
                              const bqq_matmul_options* options);

/// *size: bytes of workspace that bqq_matmul_rows needs for `batch` >= 0 columns or fewer, under any options. O(1).
BQQ_API bqq_status bqq_workspace_size(const void* prepared, int64_t batch, size_t* size);

/// Rows [row_begin, row_end) of bqq_matmul, on the calling thread, without allocation: for engines with a pool of their
/// own. x and out describe the whole arrays; other rows of out are untouched, so ranges that do not meet may run at the
/// same time. The first stage is computed for every block row that the range touches: cheapest when both ends are
/// multiples of the block rows (bqq_view.rows). With an order of the rows, every block row that holds a wanted row is
/// computed whole.
/// workspace: bqq_workspace_size bytes, 64-byte aligned, one for each call that runs at the same time.
BQQ_API bqq_status bqq_matmul_rows(const void* prepared, const bqq_array* x, const bqq_array* out, int64_t row_begin,
                                   int64_t row_end, void* workspace, const bqq_matmul_options* options);

// ---- files: safetensors containers, cpp/FORMAT.md ----

/// An ordinary tensor of a file, whose bytes pass through untouched.
typedef struct bqq_tensor {
    size_t struct_size;   ///< sizeof(bqq_tensor), set by the caller, for outputs too
    const char* name;     ///< distinct from the names of all matrices and tensors of the file
    const char* dtype;    ///< safetensors name: "F64", "F32", "F16", "BF16", "I64", ..., "BOOL"
    const int64_t* shape; ///< ndim numbers; NULL is allowed if ndim is 0
    size_t ndim;
    const void* data; ///< row-major, little-endian, at any alignment; NULL is allowed if nbytes is 0
    size_t nbytes;
} bqq_tensor;

/// bqq_tensor t = BQQ_TENSOR_INIT;
#define BQQ_TENSOR_INIT {sizeof(bqq_tensor), NULL, NULL, NULL, 0, NULL, 0}

typedef struct bqq_save_options {
    size_t struct_size;
    int32_t scales;   ///< a bqq_dtype, how scales are stored: BQQ_F32, or BQQ_F16, which halves and rounds them
    int32_t reserved; ///< zero
    const bqq_tensor* tensors; ///< tensor_count ordinary tensors, all with the same struct_size; NULL if none
    size_t tensor_count;
    /// metadata_count keys and values, key i with value i; keys are distinct, "bqq" and "bqq.*" are reserved.
    const char* const* metadata_keys;
    const char* const* metadata_values;
    size_t metadata_count;
} bqq_save_options;

/// Writes `count` matrices, views[i] under names[i], and the tensors and metadata of `options` to `path`: to a
/// temporary file beside it, synced, then renamed; a reader or a crash sees the old file or the new one, never a part.
/// What is at `path` and no regular file stays as it is (BQQ_IO). All views have the same struct_size. names and views
/// may be NULL if count is 0. options NULL: defaults. BQQ_INVALID_ARGUMENT (empty, doubled or reserved names, a size
/// that does not fit the dtype and shape of a tensor), BQQ_FORMAT (a view that is not valid), BQQ_IO.
BQQ_API bqq_status bqq_save(const char* path, const char* const* names, const bqq_view* views, size_t count,
                            const bqq_save_options* options);

/// A container opened for reading. What the functions below return points into it and lives until bqq_file_close.
typedef struct bqq_file bqq_file;

/// Maps the file, parses its header bounds-safely and checks the structure (names, shapes, dtypes, sizes); O(header).
/// *out is closed with bqq_file_close. Replacing the file meanwhile (as bqq_save does) is harmless; truncating or
/// overwriting it in place is not: touching what is gone ends the process. BQQ_FORMAT if malformed or truncated, BQQ_IO
/// if unreadable. A file without compressed matrices is legal.
BQQ_API bqq_status bqq_file_open(const char* path, bqq_file** out);

/// As bqq_file_open, but reads the whole file into memory first: nothing that happens to the file later matters.
BQQ_API bqq_status bqq_file_read(const char* path, bqq_file** out);

/// As bqq_file_open, of the `size` bytes of a file that lie at `data`, at any alignment: part of a model, say. They
/// belong to the caller and stay as they are until bqq_file_close.
BQQ_API bqq_status bqq_file_open_memory(const void* data, size_t size, bqq_file** out);

/// Number of compressed matrices. 0, with a text in bqq_last_error, if file is NULL. O(1).
BQQ_API size_t bqq_file_count(const bqq_file* file);

/// Name of matrix i, in sorted order. NULL, with a text in bqq_last_error, if file is NULL or
/// i >= bqq_file_count(file). O(1).
BQQ_API const char* bqq_file_name(const bqq_file* file, size_t i);

/// *view: the matrix called `name`. Set view->struct_size before. The first call for a matrix checks its checksum and
/// bits, O(bytes): BQQ_FORMAT if it is corrupt. An unknown name is BQQ_INVALID_ARGUMENT with the names there are.
/// BQQ_UNSUPPORTED as for bqq_matrix_view.
BQQ_API bqq_status bqq_file_view(const bqq_file* file, const char* name, bqq_view* view);

/// Number of ordinary tensors. 0, with a text in bqq_last_error, if file is NULL. O(1).
BQQ_API size_t bqq_file_tensor_count(const bqq_file* file);

/// *tensor: tensor i, in the order of the names. Set tensor->struct_size before. O(1), its data are not touched.
BQQ_API bqq_status bqq_file_tensor(const bqq_file* file, size_t i, bqq_tensor* tensor);

/// Number of metadata entries besides the library's own. 0, with a text in bqq_last_error, if file is NULL. O(1).
BQQ_API size_t bqq_file_metadata_count(const bqq_file* file);

/// *key, *value: entry i, in the order of the keys. key or value may be NULL. A text with a zero byte in it, which JSON
/// allows, ends there. O(i).
BQQ_API bqq_status bqq_file_metadata(const bqq_file* file, size_t i, const char** key, const char** value);

/// The value of a metadata key. NULL, with a text in bqq_last_error, if there is none or an argument is NULL.
BQQ_API const char* bqq_file_metadata_value(const bqq_file* file, const char* key);

/// Ends the mapping and all that points into it. NULL is allowed.
BQQ_API void bqq_file_close(bqq_file* file);

#ifdef __cplusplus
}
#endif

#endif
