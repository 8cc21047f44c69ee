// Matrix times vector from a file, the way an inference engine does it: the weights stay in the mapped file until they
// are prepared, every buffer belongs to the caller, and so do the threads.
//
//   gemv weights.safetensors [name]
#include <bqq/bqq.h>

#include <stdio.h>
#include <stdlib.h>

static void check(bqq_status status) {
    if (status == BQQ_OK) return;
    fprintf(stderr, "bqq error %d: %s\n", (int)status, bqq_last_error());
    exit(1);
}

// `size` bytes at a multiple of 64; *block is what to free.
static void* aligned(size_t size, void** block) {
    uintptr_t address;
    *block = malloc(size + 63);
    if (!*block) exit(1);
    address = ((uintptr_t)*block + 63) & ~(uintptr_t)63;
    return (void*)address;
}

int main(int argc, char** argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: gemv weights.safetensors [name]\n");
        return 2;
    }
    bqq_file* file;
    check(bqq_file_open(argv[1], &file));
    const char* name = argc > 2 ? argv[2] : bqq_file_name(file, 0);
    if (!name) {
        fprintf(stderr, "%s: no compressed matrix\n", argv[1]);
        return 1;
    }
    bqq_view q = BQQ_VIEW_INIT;
    // Opening read the header alone; the planes of a matrix are checked now, when it is first asked for.
    check(bqq_file_view(file, name, &q));

    // Once per matrix. Afterwards the file is not needed.
    size_t size;
    void* prepared_block;
    check(bqq_prepared_size(&q, &size));
    void* prepared = aligned(size, &prepared_block);
    check(bqq_prepare(&q, prepared, size));
    const int64_t m = q.m, n = q.n, rows = q.rows;
    printf("%s: %lld x %lld, %d stacks, %.1f kB prepared\n", name, (long long)m, (long long)n, (int)q.p, size / 1e3);
    bqq_file_close(file);

    float* in = malloc((size_t)n * sizeof *in);
    float* out = malloc((size_t)m * sizeof *out);
    if (!in || !out) return 1;
    for (int64_t i = 0; i < n; ++i) in[i] = 1.0f / (float)(1 + i);
    const bqq_array x = {in, BQQ_F32, n, 1, 1, 1};
    const bqq_array y = {out, BQQ_F32, m, 1, 1, 1};

    // Once per product: ranges of rows, here one after the other. An engine hands them to its own threads, each with a
    // workspace of its own. bqq_matmul does all of it in one call.
    void* space_block;
    check(bqq_workspace_size(prepared, 1, &size));
    void* space = aligned(size, &space_block);
    for (int64_t begin = 0; begin < m; begin += rows) {
        const int64_t end = begin + rows < m ? begin + rows : m;
        check(bqq_matmul_rows(prepared, &x, &y, begin, end, space, NULL));
    }

    for (int64_t i = 0; i < m && i < 5; ++i) printf("y[%d] = %g\n", (int)i, out[i]);
    free(space_block);
    free(prepared_block);
    free(out);
    free(in);
    return 0;
}
