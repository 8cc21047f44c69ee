// Every allocation of every kind of call fails in turn: an error, nothing lost, nothing half done.
#include "capi_ann.hpp"

#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>

namespace {

std::atomic<long> countdown{-1}, live{0}; // allocations until one fails, and how many are there

void* allocate(std::size_t size) {
    if (countdown.load() >= 0 && countdown.fetch_sub(1) == 0) throw std::bad_alloc();
    void* at = std::malloc(size ? size : 1);
    if (!at) throw std::bad_alloc();
    ++live;
    return at;
}
void release(void* at) noexcept {
    if (at) --live;
    std::free(at);
}

} // namespace

void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
void operator delete(void* at) noexcept { release(at); }
void operator delete[](void* at) noexcept { release(at); }
void operator delete(void* at, std::size_t) noexcept { release(at); }
void operator delete[](void* at, std::size_t) noexcept { release(at); }

using namespace capi;

namespace {

/// The n-th allocation of the call fails, n = 0, 1, ... until it needs no more. `undo` lets go of what it made.
void exhaust(const char* name, const std::function<bqq_status()>& call, const std::function<void()>& undo = [] {}) {
    CHECK_EQ(call(), BQQ_OK); // what is made once is there
    undo();
    const long before = live;
    bool done = false;
    for (long n = 0; !done && n < 100000; n += n < 300 ? 1 : n / 50) {
        countdown = n;
        const bqq_status status = call();
        done = countdown >= 0;
        countdown = -1;
        if (status != BQQ_OK && status != BQQ_OUT_OF_MEMORY) check::fail(name, int(n), bqq_last_error());
        if (done) CHECK_EQ(status, BQQ_OK);
        if (status == BQQ_OK) undo();
        if (live != before) check::fail(name, int(n), "lost " + std::to_string(live - before) + " blocks");
    }
    CHECK(done);
}

struct Made {
    Owner q;
    std::vector<float> W = numbers(30 * 26, 3), X = numbers(26 * 9, 4), Y = std::vector<float>(30 * 9);
    bqq_decompose_options options{};

    explicit Made(int threads) {
        bqq_decompose_options_init(&options, sizeof options);
        options.steps = 3, options.refine = 2, options.patch = 13, options.threads = threads;
        CHECK_EQ(bqq_decompose(W.data(), 30, 26, 26, 2, &options, &q.p), BQQ_OK);
    }
};

} // namespace

TEST(searches) {
    for (const int threads : {1, 3}) {
        Made a(threads);
        const bqq_view v = a.q.view();
        bqq_matrix* out = nullptr;
        const auto undo = [&] { bqq_matrix_free(out); };
        exhaust("decompose", [&] { return bqq_decompose(a.W.data(), 30, 26, 26, 2, &a.options, &out); }, undo);
        exhaust("extend", [&] { return bqq_extend(&v, a.W.data(), 26, 3, &a.options, &out); }, undo);
        Owner codebook; // of one block row
        a.options.patch = 30;
        CHECK_EQ(bqq_decompose(a.W.data(), 30, 26, 26, 1, &a.options, &codebook.p), BQQ_OK);
        const bqq_view c = codebook.view();
        exhaust("encode", [&] { return bqq_encode(&c, a.W.data(), 30, 26, &a.options, &out); }, undo);
        std::vector<float> H(26 * 26);
        for (std::size_t i = 0; i < 26; ++i) H[27 * i] = float(i + 1);
        a.options.weight = H.data(), a.options.order = BQQ_ORDER_WEIGHT, a.options.outliers = 0.02;
        exhaust("weight", [&] { return bqq_decompose(a.W.data(), 30, 26, 26, 1, &a.options, &out); }, undo);
    }
}

TEST(forms_and_products) {
    for (const int threads : {1, 3}) {
        Made a(threads);
        const bqq_view v = a.q.view();
        bqq_matrix* out = nullptr;
        const auto undo = [&] { bqq_matrix_free(out); };
        exhaust("copy", [&] { return bqq_copy(&v, &out); }, undo);
        exhaust("transpose", [&] { return bqq_transpose(&v, &out); }, undo);
        exhaust("prefix", [&] { return bqq_prefix(&v, 1, &out); }, undo);
        std::vector<float> W(30 * 26);
        double error = 0;
        exhaust("reconstruct", [&] { return bqq_reconstruct(&v, W.data(), 26, threads); });
        exhaust("error", [&] { return bqq_squared_error(&v, a.W.data(), 26, threads, &error); });
        exhaust("validate", [&] { return bqq_validate(&v); });
        std::size_t size = 0;
        CHECK_EQ(bqq_prepared_size(&v, &size), BQQ_OK);
        const Buffer prepared(size);
        exhaust("prepare", [&] { return bqq_prepare(&v, prepared.data, size); });
        bqq_matmul_options options{};
        bqq_matmul_options_init(&options, sizeof options);
        options.threads = threads;
        const bqq_array x = {a.X.data(), BQQ_F32, 26, 9, 9, 1}, y = {a.Y.data(), BQQ_F32, 30, 9, 9, 1};
        for (options.precision = 0; options.precision < 2; ++options.precision)
            exhaust("matmul", [&] { return bqq_matmul(prepared.data, &x, &y, &options); });
    }
}

TEST(files_in_little_memory) {
    Made a(1);
    const bqq_view v = a.q.view();
    const TemporaryFile file;
    const char* const name = "weight";
    bqq_file* opened = nullptr;
    bqq_view again = BQQ_VIEW_INIT;
    const auto undo = [&] { bqq_file_close(opened); };
    exhaust("save", [&] { return bqq_save(file.path.c_str(), &name, &v, 1, nullptr); });
    exhaust("open", [&] { return bqq_file_open(file.path.c_str(), &opened); }, undo);
    const std::string bytes = read(file.path);
    exhaust("memory", [&] { return bqq_file_open_memory(bytes.data(), bytes.size(), &opened); }, undo);
    exhaust("read", [&] { return bqq_file_read(file.path.c_str(), &opened); }, undo);
    exhaust(
        "view",
        [&] {
            const bqq_status status = bqq_file_open(file.path.c_str(), &opened);
            if (status != BQQ_OK) return status;
            const bqq_status seen = bqq_file_view(opened, name, &again);
            if (seen != BQQ_OK) bqq_file_close(opened);
            return seen;
        },
        undo);
}

TEST(codecs) {
    for (const int threads : {1, 3}) {
        CodecOwner codec;
        train(codec);
        bqq_train_options training = fast();
        training.threads = threads;
        bqq_code_options coding{};
        bqq_code_options_init(&coding, sizeof coding);
        coding.effort = BQQ_EFFORT_FAST, coding.threads = threads;
        const TemporaryFile file;
        std::vector<std::uint8_t> codes(z(N_ROWS * SIZE));
        std::vector<float> W(z(N_ROWS * D));
        bqq_codec* out = nullptr;
        const auto undo = [&] { bqq_codec_free(out); };
        const float* X = rows().data();
        exhaust("train", [&] { return bqq_codec_train(X, 40, D, D, 13, &training, &out); }, undo);
        exhaust("prefix", [&] { return bqq_codec_prefix(codec.p, 1, &out); }, undo);
        exhaust("encode", [&] { return bqq_codec_encode(codec.p, X, 70, D, &coding, codes.data()); });
        exhaust("decode", [&] { return bqq_codec_decode(codec.p, codes.data(), 70, W.data(), D, threads); });
        exhaust("save", [&] { return bqq_codec_save(codec.p, file.path.c_str()); });
        exhaust("load", [&] { return bqq_codec_load(file.path.c_str(), &out); }, undo);
    }
}

TEST(indexes_change_wholly_or_not_at_all) {
    CodecOwner codec;
    train(codec);
    const float* X = rows().data();
    std::vector<std::uint8_t> codes(z(N_ROWS * SIZE)), seen(codes.size());
    CHECK_EQ(bqq_codec_encode(codec.p, X, N_ROWS, D, nullptr, codes.data()), BQQ_OK);
    const TemporaryFile file;
    IndexOwner whole;
    CHECK_EQ(bqq_index_create(codec.p, &whole.p), BQQ_OK);
    CHECK_EQ(bqq_index_add_codes(whole.p, codes.data(), 100, nullptr), BQQ_OK);
    CHECK_EQ(bqq_index_save(whole.p, file.path.c_str()), BQQ_OK);
    bqq_search_options options = sized<bqq_search_options>();
    options.coarse = 1;
    std::vector<float> distances(50);
    std::vector<std::int64_t> ids(50), all(100);
    const std::int64_t few[] = {3, 99, 50}, more[] = {200, 300};
    for (const int kind : {0, 1, 2}) {
        bqq_index* index = nullptr;
        const auto change = [&] {
            bqq_status status = bqq_index_open(file.path.c_str(), &index);
            if (status == BQQ_OK) // so that there are norms of the first stage to be kept in step
                status = bqq_index_search(index, X, 5, D, 10, &options, distances.data(), ids.data());
            if (status != BQQ_OK) return bqq_index_free(index), index = nullptr, status;
            status = kind == 0   ? bqq_index_add_codes(index, codes.data() + 100 * SIZE, 2, nullptr)
                     : kind == 1 ? bqq_index_add_codes(index, codes.data() + 100 * SIZE, 2, more)
                                 : bqq_index_remove(index, few, 1, nullptr);
            if (status == BQQ_OK) return status;
            const long left = countdown;
            countdown = -1;
            for (std::int64_t i = 0; i < 100; ++i) all[z(i)] = i;
            CHECK_EQ(bqq_index_size(index), std::int64_t(100));
            CHECK_EQ(bqq_index_codes(index, all.data(), 100, seen.data()), BQQ_OK);
            CHECK(std::equal(seen.begin(), seen.begin() + 100 * SIZE, codes.begin()));
            CHECK_EQ(bqq_index_search(index, X, 5, D, 10, nullptr, distances.data(), ids.data()), BQQ_OK);
            CHECK(ids[0] >= 0 && ids[0] < 100);
            countdown = left;
            return bqq_index_free(index), index = nullptr, status;
        };
        exhaust("change", change, [&] { bqq_index_free(index); });
    }
    bqq_range* range = nullptr;
    exhaust("search", [&] { return bqq_index_search(whole.p, X, 5, D, 10, &options, distances.data(), ids.data()); });
    exhaust(
        "range", [&] { return bqq_index_range_search(whole.p, X, 5, D, 1.0f, nullptr, &range); },
        [&] { bqq_range_free(range); });
    exhaust("save", [&] { return bqq_index_save(whole.p, file.path.c_str()); });
}
