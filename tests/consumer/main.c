// decompose -> save -> open -> prepare -> matmul in strict C99, against reconstruct; train -> add -> search. Prints
// "ok".
#include <bqq/bqq.h>
#include <bqq/bqq_ann.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define M 40
#define N 24
#define BATCH 3

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        const bqq_status status_ = (call);                                                                             \
        if (status_ != BQQ_OK) {                                                                                       \
            fprintf(stderr, "line %d: status %d: %s\n", __LINE__, (int)status_, bqq_last_error());                     \
            return 1;                                                                                                  \
        }                                                                                                              \
    } while (0)
#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                                    \
            return 1;                                                                                                  \
        }                                                                                                              \
    } while (0)

static void* align64(void* block) { return (void*)(((uintptr_t)block + 63) & ~(uintptr_t)63); }

static int on_progress(int64_t done, int64_t total, void* user) {
    *(int*)user = done == total;
    return 0;
}

static int search_codes(void) {
    static float X[400 * 8];
    bqq_train_options options = {0};
    bqq_code_layout layout = BQQ_CODE_LAYOUT_INIT;
    bqq_codec* codec = NULL;
    bqq_index* index = NULL;
    float distances[3];
    int64_t ids[3];
    int i;

    for (i = 0; i < 400 * 8; ++i) X[i] = (float)((7 * i * i + 11 * i) % 101);
    options.struct_size = sizeof options;
    options.effort = BQQ_EFFORT_FAST;
    TRY(bqq_codec_train(X, 400, 8, 8, 8, &options, &codec));
    TRY(bqq_codec_info(codec, &layout));
    EXPECT(layout.d == 8 && layout.code_size == 8 && layout.metric == BQQ_METRIC_L2);
    TRY(bqq_index_create(codec, &index));
    TRY(bqq_index_add(index, X, 400, 8, NULL, NULL));
    TRY(bqq_index_search(index, X, 1, 8, 3, NULL, distances, ids));
    EXPECT(bqq_index_size(index) == 400 && distances[0] <= distances[1] && ids[0] >= 0 && ids[0] < 400);
    bqq_index_free(index);
    bqq_codec_free(codec);
    return 0;
}

int main(int argc, char** argv) {
    const char* path = argc > 1 ? argv[1] : "consumer_c.safetensors";
    static float W[M * N], What[M * N], X[N * BATCH], Y[M * BATCH], Y_rows[M * BATCH];
    bqq_decompose_options options;
    bqq_matrix* matrix = NULL;
    bqq_file* file = NULL;
    bqq_view q = BQQ_VIEW_INIT, from_file = BQQ_VIEW_INIT;
    bqq_array x = {NULL, BQQ_F32, N, BATCH, BATCH, 1}, y = {NULL, BQQ_F32, M, BATCH, BATCH, 1};
    const char *names[1] = {"layer"}, *keys[1] = {"format"}, *values[1] = {"pt"};
    const int64_t shape[2] = {2, 2};
    const float small[4] = {1, 2, 3, 4};
    bqq_tensor tensor = BQQ_TENSOR_INIT;
    bqq_save_options save = {0};
    size_t size = 0;
    void *prepared_block, *prepared, *space_block, *space;
    double error = 0, norm = 0;
    int finished = 0, i, j, k;

    for (i = 0; i < M; ++i)
        for (j = 0; j < N; ++j) {
            W[i * N + j] = (float)((7 * i * i + 3 * i * j + 11 * j) % 17) - 8;
            norm += W[i * N + j] * W[i * N + j];
        }
    for (i = 0; i < N * BATCH; ++i) X[i] = (float)(i % 7) - 3;

    EXPECT(bqq_abi_version() == BQQ_ABI_VERSION);
    EXPECT(strlen(bqq_version()) >= 5);
    TRY(bqq_decompose_options_init(&options, sizeof options));
    options.steps = 300;
    options.progress = on_progress;
    options.user = &finished;
    TRY(bqq_decompose(W, M, N, N, 3, &options, &matrix));
    EXPECT(finished);
    TRY(bqq_matrix_view(matrix, &q));
    EXPECT(q.m == M && q.n == N && q.p == 3);
    TRY(bqq_make_layout(M, N, 3, &options, &from_file));
    EXPECT(from_file.rows == q.rows && from_file.cols == q.cols && from_file.l == q.l && from_file.y == NULL);
    TRY(bqq_squared_error(&q, W, N, 0, &error));
    EXPECT(error < 0.5 * norm);

    tensor.name = "bias";
    tensor.dtype = "F32";
    tensor.shape = shape;
    tensor.ndim = 2;
    tensor.data = small;
    tensor.nbytes = sizeof small;
    save.struct_size = sizeof save;
    save.tensors = &tensor;
    save.tensor_count = 1;
    save.metadata_keys = keys;
    save.metadata_values = values;
    save.metadata_count = 1;
    TRY(bqq_save(path, names, &q, 1, &save));
    bqq_matrix_free(matrix);
    TRY(bqq_file_read(path, &file));
    EXPECT(bqq_file_tensor_count(file) == 1 && bqq_file_metadata_count(file) == 1);
    TRY(bqq_file_tensor(file, 0, &tensor));
    EXPECT(strcmp(tensor.name, "bias") == 0 && tensor.ndim == 2 && tensor.shape[1] == 2);
    EXPECT(memcmp(tensor.data, small, sizeof small) == 0);
    EXPECT(strcmp(bqq_file_metadata_value(file, "format"), "pt") == 0);
    bqq_file_close(file);
    TRY(bqq_file_open(path, &file));
    EXPECT(bqq_file_count(file) == 1 && strcmp(bqq_file_name(file, 0), "layer") == 0);
    TRY(bqq_file_view(file, "layer", &from_file));
    TRY(bqq_validate(&from_file));
    TRY(bqq_reconstruct(&from_file, What, N, 0));
    TRY(bqq_prepared_size(&from_file, &size));
    EXPECT((prepared_block = malloc(size + 63)) != NULL);
    prepared = align64(prepared_block);
    TRY(bqq_prepare(&from_file, prepared, size));
    bqq_file_close(file);
    remove(path);

    x.data = X;
    y.data = Y;
    TRY(bqq_matmul(prepared, &x, &y, NULL));
    for (k = 0; k < BATCH; ++k) {
        double difference = 0, length = 0;
        for (i = 0; i < M; ++i) {
            double sum = 0;
            for (j = 0; j < N; ++j) sum += (double)What[i * N + j] * X[j * BATCH + k];
            difference += (sum - Y[i * BATCH + k]) * (sum - Y[i * BATCH + k]);
            length += sum * sum;
        }
        EXPECT(difference <= 1e-8 * length);
    }

    TRY(bqq_workspace_size(prepared, BATCH, &size));
    EXPECT((space_block = malloc(size + 63)) != NULL);
    space = align64(space_block);
    y.data = Y_rows;
    TRY(bqq_matmul_rows(prepared, &x, &y, 0, 13, space, NULL));
    TRY(bqq_matmul_rows(prepared, &x, &y, 13, M, space, NULL));
    EXPECT(memcmp(Y, Y_rows, sizeof Y) == 0);

    EXPECT(bqq_file_open("no such file", &file) == BQQ_IO && file == NULL);
    EXPECT(strlen(bqq_last_error()) > 0);
    EXPECT(search_codes() == 0);
    free(space_block);
    free(prepared_block);
    printf("ok\n");
    return 0;
}
