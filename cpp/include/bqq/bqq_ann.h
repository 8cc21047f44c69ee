// C interface of vector codes: N vectors of d numbers as N codes of a few bytes that are searched as they are; the form
// is in bqq/codec.hpp. Everything that bqq.h says about errors, threads, memory, numbers and growing structures holds
// here too; texts are in bqq_last_error.
//
// Vectors are float32 rows, x: count x d, ldx >= d elements apart, finite and at most 1e15 in size; an array of count 0
// may be NULL. Counts are 0 to 2^39. A code is code_size bytes. Files are safetensors containers: cpp/FORMAT.md, "A
// codec".
#ifndef BQQ_BQQ_ANN_H
#define BQQ_BQQ_ANN_H

#include "bqq/bqq.h"

#ifdef __cplusplus
extern "C" {
#endif

/// What search ranks by. L2: squared Euclidean distance, smallest first. IP: inner product, largest first. COSINE:
/// largest first, vectors and queries are divided by their norm.
typedef enum bqq_metric { BQQ_METRIC_L2 = 0, BQQ_METRIC_IP = 1, BQQ_METRIC_COSINE = 2 } bqq_metric;

// ---- a codec ----

/// Owner of a trained codebook. Made by the functions below, freed by bqq_codec_free. Never changes.
typedef struct bqq_codec bqq_codec;

typedef struct bqq_train_options {
    size_t struct_size;
    uint64_t seed;
    int32_t metric; ///< a bqq_metric
    /// A bqq_effort. FAST, STANDARD, BEST: 16,384, 32,768, 131,072 training vectors at most (a random choice), 15, 25,
    /// 50 rounds.
    int32_t effort;
    int32_t threads;       ///< see bqq.h
    int32_t reserved;      ///< zero
    bqq_progress progress; ///< NULL: none
    void* user;            ///< handed to progress
} bqq_train_options;

/// Fills the first struct_size bytes of *options with the defaults (all zero); struct_size: sizeof *options.
BQQ_API bqq_status bqq_train_options_init(bqq_train_options* options, size_t struct_size);

/// *out: a codec for vectors like these. count: 1 or more, though fewer than about 1,000 make a codec that fits no
/// others; d: 1 to 65536; code_size: 2 to 512 bytes, one of which is the norm, but for IP. options NULL: defaults. The
/// result depends on (x, code_size, metric, effort, seed) and the instruction set only. Memory besides the codec is
/// about two copies of the training vectors and 8 (32 code_size)^2 bytes for a stage. BQQ_INVALID_ARGUMENT,
/// BQQ_OUT_OF_MEMORY, BQQ_CANCELLED, BQQ_UNSUPPORTED.
BQQ_API bqq_status bqq_codec_train(const float* x, int64_t count, int64_t d, int64_t ldx, int64_t code_size,
                                   const bqq_train_options* options, bqq_codec** out);

/// *out: the codec of a file of bqq_codec_save or bqq_index_save, read into memory. O(bytes). BQQ_FORMAT if it is
/// malformed, truncated or corrupt, BQQ_IO if it is unreadable.
BQQ_API bqq_status bqq_codec_load(const char* path, bqq_codec** out);

/// Writes the codec to `path` as bqq_save does: a reader or a crash sees the old file or the new one. BQQ_IO.
BQQ_API bqq_status bqq_codec_save(const bqq_codec* codec, const char* path);

/// NULL is allowed. Indexes of the codec and its prefixes do not need it any more.
BQQ_API void bqq_codec_free(bqq_codec* codec);

/// What a codec is like. Codes are nested: the bytes of the first stages alone are a coarser code. Where code_size is
/// more than the sum of stage_bytes, by one, the last byte is the norm.
typedef struct bqq_code_layout {
    size_t struct_size;         ///< sizeof(bqq_code_layout), set by the caller, for outputs too
    int64_t d;                  ///< numbers of a vector
    int64_t code_size;          ///< bytes of a code
    int64_t stages;             ///< 1 or more
    const int64_t* stage_bytes; ///< bytes of a code that each of the stages takes; valid until the codec is freed
    int32_t metric;             ///< a bqq_metric
    int32_t reserved;           ///< zero
} bqq_code_layout;

/// bqq_code_layout a = BQQ_CODE_LAYOUT_INIT;
#define BQQ_CODE_LAYOUT_INIT {sizeof(bqq_code_layout), 0, 0, 0, NULL, 0, 0}

/// *layout: of `codec`. Set layout->struct_size before. O(1).
BQQ_API bqq_status bqq_codec_info(const bqq_codec* codec, bqq_code_layout* layout);

/// *out: the codec of the first k stages, 1 <= k <= stages. Its codes are the first bytes of those of `codec` and a
/// norm byte of their own. O(bytes of the codebook).
BQQ_API bqq_status bqq_codec_prefix(const bqq_codec* codec, int64_t k, bqq_codec** out);

typedef struct bqq_code_options {
    size_t struct_size;
    int32_t effort;        ///< a bqq_effort. FAST, STANDARD, BEST: 10, 30, 100 sweeps
    int32_t threads;       ///< see bqq.h
    bqq_progress progress; ///< counts vectors; NULL: none
    void* user;            ///< handed to progress
} bqq_code_options;

/// Fills the first struct_size bytes of *options with the defaults (all zero); struct_size: sizeof *options.
BQQ_API bqq_status bqq_code_options_init(bqq_code_options* options, size_t struct_size);

/// codes: count x code_size bytes. Group g, four bits, is bits 4 (g % 2) to 4 (g % 2) + 3 of byte g/2 of a code. A code
/// depends on its vector, the codec, the effort and the instruction set: not on the vectors beside it. options NULL:
/// defaults. BQQ_INVALID_ARGUMENT, BQQ_OUT_OF_MEMORY, BQQ_CANCELLED, BQQ_UNSUPPORTED.
BQQ_API bqq_status bqq_codec_encode(const bqq_codec* codec, const float* x, int64_t count, int64_t ldx,
                                    const bqq_code_options* options, uint8_t* codes);

/// out: count x d, ldo >= d elements apart: the vectors that codes stand for, of norm about 1 for COSINE.
/// O(2 count code_size d).
BQQ_API bqq_status bqq_codec_decode(const bqq_codec* codec, const uint8_t* codes, int64_t count, float* out,
                                    int64_t ldo, int threads);

// ---- search ----

typedef struct bqq_search_options {
    size_t struct_size;
    /// Stages of the codec that are scanned first, 1 to all of them; 0: all. The best by those are ranked by the whole
    /// code.
    int64_t coarse;
    /// How many of the best of the scan, which adds in 8 and 16 bits, are ranked again by float32 sums over their
    /// codes, at least k; 0: 2k + 4 (stages + 1), after a coarse scan 3k + 35; more where needed.
    int64_t rescore;
    /// Search among these id_count ids alone; unknown ones are ignored. NULL: all. Only read.
    const int64_t* ids;
    int64_t id_count; ///< 0 if ids is NULL
    int32_t threads;  ///< see bqq.h
    int32_t reserved; ///< zero
} bqq_search_options;

/// Fills the first struct_size bytes of *options with the defaults (all zero); struct_size: sizeof *options.
BQQ_API bqq_status bqq_search_options_init(bqq_search_options* options, size_t struct_size);

/// The k >= 1 best of codes, count x code_size bytes, whose ids are 0 to count - 1, for each row of q: queries x d,
/// ldq >= d elements apart. distances, ids: queries x k, best first, of the query and what the code stands for: squared
/// distances, inner products or cosines, as the codec's metric says. Ties: smallest id first. Where there are fewer
/// than k, ids are -1 and distances FLT_MAX (IP, COSINE: -FLT_MAX). options NULL: defaults. The codes are packed for
/// the call: for many calls make an index. O(queries count code_size / 64) vector instructions. BQQ_INVALID_ARGUMENT,
/// BQQ_OUT_OF_MEMORY, BQQ_UNSUPPORTED.
BQQ_API bqq_status bqq_codec_search(const bqq_codec* codec, const uint8_t* codes, int64_t count, const float* q,
                                    int64_t queries, int64_t ldq, int64_t k, const bqq_search_options* options,
                                    float* distances, int64_t* ids);

// ---- an index ----

/// Owner of codes with ids, packed for the scan. Made by the functions below, freed by bqq_index_free. Unlike other
/// objects it changes: one thread at a time may call bqq_index_add, _add_codes and _remove while others call the
/// functions that take a const bqq_index*, each of which sees it before or after a change.
typedef struct bqq_index bqq_index;

/// *out: an index without codes.
BQQ_API bqq_status bqq_index_create(const bqq_codec* codec, bqq_index** out);

/// *out: the index of a file of bqq_index_save, mapped, its checksum checked. O(bytes). Changes stay in memory. As with
/// bqq_file_open, replacing the file meanwhile is harmless, truncating it in place is not. BQQ_FORMAT, BQQ_IO.
BQQ_API bqq_status bqq_index_open(const char* path, bqq_index** out);

/// Writes the codec, the codes and their ids to `path` as bqq_save does. BQQ_IO.
BQQ_API bqq_status bqq_index_save(const bqq_index* index, const char* path);

/// NULL is allowed.
BQQ_API void bqq_index_free(bqq_index* index);

/// *out: the codec of the index, to be freed with bqq_codec_free; it shares the codebook.
BQQ_API bqq_status bqq_index_codec(const bqq_index* index, bqq_codec** out);

/// Number of codes. 0, with a text in bqq_last_error, if index is NULL. O(1).
BQQ_API int64_t bqq_index_size(const bqq_index* index);

/// Encodes vectors and adds the codes. ids: count numbers from 0 to 2^63 - 2, distinct and new; NULL: the next ones,
/// from one more than the largest there ever was. All or nothing. options NULL: defaults. As bqq_codec_encode.
BQQ_API bqq_status bqq_index_add(bqq_index* index, const float* x, int64_t count, int64_t ldx, const int64_t* ids,
                                 const bqq_code_options* options);

/// The same for codes of the index's codec, count x code_size bytes.
BQQ_API bqq_status bqq_index_add_codes(bqq_index* index, const uint8_t* codes, int64_t count, const int64_t* ids);

/// Takes out the codes of `count` ids; those that are not there are ignored. *removed: how many were; NULL is allowed.
BQQ_API bqq_status bqq_index_remove(bqq_index* index, const int64_t* ids, int64_t count, int64_t* removed);

/// As bqq_codec_search, of the codes of the index by their ids.
BQQ_API bqq_status bqq_index_search(const bqq_index* index, const float* q, int64_t queries, int64_t ldq, int64_t k,
                                    const bqq_search_options* options, float* distances, int64_t* ids);

/// Owner of the results of a range search, freed by bqq_range_free.
typedef struct bqq_range bqq_range;

/// *out: all with a distance less than radius (IP, COSINE: more), for each row of q as of bqq_codec_search. Of the
/// options, ids, id_count and threads count. BQQ_INVALID_ARGUMENT, BQQ_OUT_OF_MEMORY, BQQ_UNSUPPORTED.
BQQ_API bqq_status bqq_index_range_search(const bqq_index* index, const float* q, int64_t queries, int64_t ldq,
                                          float radius, const bqq_search_options* options, bqq_range** out);

/// Those of query i, best first, are (*distances)[j] and (*ids)[j] with (*limits)[i] <= j < (*limits)[i + 1];
/// *limits: *queries + 1 numbers from 0 on. Any but range may be NULL. The arrays live until the range is freed;
/// *distances and *ids may be NULL if there is nothing in them. O(1).
BQQ_API bqq_status bqq_range_results(const bqq_range* range, int64_t* queries, const int64_t** limits,
                                     const float** distances, const int64_t** ids);

/// NULL is allowed.
BQQ_API void bqq_range_free(bqq_range* range);

/// out: count x d, ldo >= d elements apart: what the codes of these ids stand for. An id that is not there is
/// BQQ_INVALID_ARGUMENT. O(2 count code_size d).
BQQ_API bqq_status bqq_index_reconstruct(const bqq_index* index, const int64_t* ids, int64_t count, float* out,
                                         int64_t ldo);

/// codes: the codes themselves, count x code_size bytes.
BQQ_API bqq_status bqq_index_codes(const bqq_index* index, const int64_t* ids, int64_t count, uint8_t* codes);

/// All ids, in the order they lie in: writes at most `capacity` of them and sets *count to how many there are. ids may
/// be NULL if capacity is 0; count may be NULL. O(bqq_index_size).
BQQ_API bqq_status bqq_index_ids(const bqq_index* index, int64_t* ids, int64_t capacity, int64_t* count);

#ifdef __cplusplus
}
#endif

#endif
