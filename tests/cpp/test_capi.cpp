#include "bqq/bqq.h"
#include "check.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using Status = bqq_status;

struct Buffer {
    std::vector<unsigned char> storage;
    void* data;
    explicit Buffer(std::size_t size) : storage(size + 64) {
        const auto address = reinterpret_cast<std::uintptr_t>(storage.data());
        data = storage.data() + (64 - address % 64) % 64;
    }
};

struct Owner {
    bqq_matrix* p = nullptr;
    Owner() = default;
    Owner(const Owner&) = delete;
    Owner& operator=(const Owner&) = delete;
    ~Owner() { bqq_matrix_free(p); }
    bqq_view view() const {
        bqq_view v = BQQ_VIEW_INIT;
        CHECK_EQ(bqq_matrix_view(p, &v), BQQ_OK);
        return v;
    }
};

struct TemporaryFile {
    std::string path;
    TemporaryFile() {
        char name[64];
        std::snprintf(name, sizeof name, "bqq_capi_%p.safetensors", static_cast<void*>(this));
        path = (std::filesystem::temp_directory_path() / name).string();
    }
    ~TemporaryFile() { std::remove(path.c_str()); }
};

std::vector<float> numbers(std::size_t count, std::uint64_t state) {
    std::vector<float> out(count);
    for (auto& x : out) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x = float(std::int32_t(state >> 32)) / 2147483648.0f;
    }
    return out;
}

bqq_decompose_options defaults() {
    bqq_decompose_options o;
    CHECK_EQ(bqq_decompose_options_init(&o, sizeof o), BQQ_OK);
    o.steps = 100;
    o.patch = 16;
    return o;
}

constexpr std::int64_t M = 37, N = 29, P = 2;
const std::vector<float>& weights() {
    static const std::vector<float> W = numbers(M * N, 1);
    return W;
}
void decompose(Owner& q, std::int64_t p = P) {
    const auto o = defaults();
    CHECK_EQ(bqq_decompose(weights().data(), M, N, N, p, &o, &q.p), BQQ_OK);
}

bqq_array array(float* data, std::int64_t rows, std::int64_t cols) { return {data, BQQ_F32, rows, cols, cols, 1}; }

bool error_has(const char* part) { return std::strstr(bqq_last_error(), part) != nullptr; }

#define CHECK_FAILS(call, status, part)                                                                                \
    do {                                                                                                               \
        CHECK_EQ((call), status);                                                                                      \
        if (!error_has(part))                                                                                          \
            check::fail(__FILE__, __LINE__, std::string("text lacks '") + part + "': " + bqq_last_error());            \
    } while (0)

bool same(const bqq_view& a, const bqq_view& b) {
    const auto bytes = [](std::int64_t n) { return std::size_t(n); };
    const std::int64_t blocks = a.J * a.K;
    return a.m == b.m && a.n == b.n && a.J == b.J && a.K == b.K && a.rows == b.rows && a.cols == b.cols && a.p == b.p &&
           a.l == b.l && !std::memcmp(a.y, b.y, bytes(blocks * a.p * a.rows * ((a.l + 7) / 8))) &&
           !std::memcmp(a.z, b.z, bytes(blocks * a.p * a.l * ((a.cols + 7) / 8))) &&
           !std::memcmp(a.scales, b.scales, bytes(blocks * (3 * a.p + 1) * 4));
}

} // namespace

TEST(structure_sizes_are_pinned) {
    if (sizeof(void*) != 8) return;
    CHECK_EQ(sizeof(bqq_view), std::size_t(96));
    CHECK_EQ(sizeof(bqq_decompose_options), std::size_t(104));
    CHECK_EQ(sizeof(bqq_save_options), std::size_t(16));
    CHECK_EQ(sizeof(bqq_matmul_options), std::size_t(24));
    CHECK_EQ(sizeof(bqq_array), std::size_t(48));
    CHECK_EQ(offsetof(bqq_view, m), std::size_t(8));
    CHECK_EQ(offsetof(bqq_view, y), std::size_t(72));
    CHECK_EQ(offsetof(bqq_view, scales), std::size_t(88));
    CHECK_EQ(offsetof(bqq_decompose_options, l), std::size_t(8));
    CHECK_EQ(offsetof(bqq_decompose_options, seed), std::size_t(40));
    CHECK_EQ(offsetof(bqq_decompose_options, threads), std::size_t(56));
    CHECK_EQ(offsetof(bqq_decompose_options, progress), std::size_t(64));
    CHECK_EQ(offsetof(bqq_array, rows), std::size_t(16));
}

TEST(version_and_config) {
    CHECK_EQ(bqq_abi_version(), 1);
    CHECK(std::strlen(bqq_version()) >= 5);
    const char* isa = nullptr;
    CHECK_EQ(bqq_isa(&isa), BQQ_OK);
    CHECK(isa && *isa);

    std::size_t length = 0;
    CHECK_EQ(bqq_config(nullptr, 0, &length), BQQ_OK);
    CHECK(length > 20);
    std::string text(length + 1, '#');
    CHECK_EQ(bqq_config(&text[0], text.size(), nullptr), BQQ_OK);
    CHECK_EQ(std::strlen(text.c_str()), length);
    CHECK(text.find(bqq_version()) != std::string::npos);
    char part[5] = "####";
    std::size_t again = 0;
    CHECK_EQ(bqq_config(part, sizeof part, &again), BQQ_OK);
    CHECK_EQ(again, length);
    CHECK_EQ(std::string(part), text.substr(0, 4));
    CHECK_FAILS(bqq_config(nullptr, 10, nullptr), BQQ_INVALID_ARGUMENT, "buffer is NULL");
}

TEST(null_arguments_are_errors) {
    Owner q;
    decompose(q);
    const bqq_view v = q.view();
    bqq_view out = BQQ_VIEW_INIT;
    bqq_matrix* matrix = nullptr;
    bqq_file* file = nullptr;
    std::size_t size = 0;
    double error = 0;
    float w[4] = {};
    const float* W = weights().data();
    std::vector<float> What(M * N);

    CHECK_FAILS(bqq_isa(nullptr), BQQ_INVALID_ARGUMENT, "name is NULL");
    CHECK_FAILS(bqq_validate(nullptr), BQQ_INVALID_ARGUMENT, "view is NULL");
    CHECK_FAILS(bqq_matrix_view(nullptr, &out), BQQ_INVALID_ARGUMENT, "matrix is NULL");
    CHECK_FAILS(bqq_matrix_view(q.p, nullptr), BQQ_INVALID_ARGUMENT, "view is NULL");
    CHECK_FAILS(bqq_copy(nullptr, &matrix), BQQ_INVALID_ARGUMENT, "view is NULL");
    CHECK_FAILS(bqq_copy(&v, nullptr), BQQ_INVALID_ARGUMENT, "out is NULL");
    CHECK_FAILS(bqq_prefix(nullptr, 1, &matrix), BQQ_INVALID_ARGUMENT, "view is NULL");
    CHECK_FAILS(bqq_prefix(&v, 1, nullptr), BQQ_INVALID_ARGUMENT, "out is NULL");
    CHECK_FAILS(bqq_transpose(nullptr, &matrix), BQQ_INVALID_ARGUMENT, "view is NULL");
    CHECK_FAILS(bqq_transpose(&v, nullptr), BQQ_INVALID_ARGUMENT, "out is NULL");
    CHECK_FAILS(bqq_decompose_options_init(nullptr, 64), BQQ_INVALID_ARGUMENT, "options is NULL");
    CHECK_FAILS(bqq_decompose(nullptr, 2, 2, 2, 1, nullptr, &matrix), BQQ_INVALID_ARGUMENT, "w is NULL");
    CHECK_FAILS(bqq_decompose(w, 2, 2, 2, 1, nullptr, nullptr), BQQ_INVALID_ARGUMENT, "out is NULL");
    CHECK_FAILS(bqq_extend(nullptr, W, N, 3, nullptr, &matrix), BQQ_INVALID_ARGUMENT, "view is NULL");
    CHECK_FAILS(bqq_extend(&v, nullptr, N, 3, nullptr, &matrix), BQQ_INVALID_ARGUMENT, "w is NULL");
    CHECK_FAILS(bqq_extend(&v, W, N, 3, nullptr, nullptr), BQQ_INVALID_ARGUMENT, "out is NULL");
    CHECK_FAILS(bqq_reconstruct(nullptr, What.data(), N, 1), BQQ_INVALID_ARGUMENT, "view is NULL");
    CHECK_FAILS(bqq_reconstruct(&v, nullptr, N, 1), BQQ_INVALID_ARGUMENT, "out is NULL");
    CHECK_FAILS(bqq_squared_error(nullptr, W, N, 1, &error), BQQ_INVALID_ARGUMENT, "view is NULL");
    CHECK_FAILS(bqq_squared_error(&v, nullptr, N, 1, &error), BQQ_INVALID_ARGUMENT, "w is NULL");
    CHECK_FAILS(bqq_squared_error(&v, W, N, 1, nullptr), BQQ_INVALID_ARGUMENT, "out is NULL");
    CHECK_FAILS(bqq_prepared_size(nullptr, &size), BQQ_INVALID_ARGUMENT, "view is NULL");
    CHECK_FAILS(bqq_prepared_size(&v, nullptr), BQQ_INVALID_ARGUMENT, "size is NULL");
    CHECK_EQ(bqq_prepared_size(&v, &size), BQQ_OK);
    Buffer prepared(size);
    CHECK_FAILS(bqq_prepare(nullptr, prepared.data, size), BQQ_INVALID_ARGUMENT, "view is NULL");
    CHECK_FAILS(bqq_prepare(&v, nullptr, size), BQQ_INVALID_ARGUMENT, "buffer is NULL");
    CHECK_FAILS(bqq_prepare(&v, static_cast<char*>(prepared.data) + 4, size), BQQ_INVALID_ARGUMENT, "aligned");
    CHECK_EQ(bqq_prepare(&v, prepared.data, size - 1), BQQ_INVALID_ARGUMENT);
    CHECK_EQ(bqq_prepare(&v, prepared.data, size), BQQ_OK);

    std::vector<float> X(N), Y(M);
    bqq_array x = array(X.data(), N, 1), y = array(Y.data(), M, 1);
    bqq_array empty = x, wrong = x;
    empty.data = nullptr;
    wrong.dtype = 9;
    CHECK_FAILS(bqq_matmul(nullptr, &x, &y, nullptr), BQQ_INVALID_ARGUMENT, "prepared is NULL");
    CHECK_FAILS(bqq_matmul(prepared.data, nullptr, &y, nullptr), BQQ_INVALID_ARGUMENT, "x is NULL");
    CHECK_FAILS(bqq_matmul(prepared.data, &x, nullptr, nullptr), BQQ_INVALID_ARGUMENT, "out is NULL");
    CHECK_FAILS(bqq_matmul(prepared.data, &empty, &y, nullptr), BQQ_INVALID_ARGUMENT, "x.data is NULL");
    CHECK_FAILS(bqq_matmul(prepared.data, &wrong, &y, nullptr), BQQ_INVALID_ARGUMENT, "x.dtype is 9");
    CHECK_EQ(bqq_matmul(prepared.data, &y, &x, nullptr), BQQ_INVALID_ARGUMENT);
    CHECK_FAILS(bqq_workspace_size(nullptr, 1, &size), BQQ_INVALID_ARGUMENT, "prepared is NULL");
    CHECK_FAILS(bqq_workspace_size(prepared.data, 1, nullptr), BQQ_INVALID_ARGUMENT, "size is NULL");
    CHECK_EQ(bqq_workspace_size(prepared.data, 1, &size), BQQ_OK);
    Buffer space(size);
    CHECK_FAILS(bqq_matmul_rows(nullptr, &x, &y, 0, M, space.data, nullptr), BQQ_INVALID_ARGUMENT, "prepared is NULL");
    CHECK_FAILS(bqq_matmul_rows(prepared.data, nullptr, &y, 0, M, space.data, nullptr), BQQ_INVALID_ARGUMENT,
                "x is NULL");
    CHECK_FAILS(bqq_matmul_rows(prepared.data, &x, nullptr, 0, M, space.data, nullptr), BQQ_INVALID_ARGUMENT,
                "out is NULL");
    CHECK_FAILS(bqq_matmul_rows(prepared.data, &x, &y, 0, M, nullptr, nullptr), BQQ_INVALID_ARGUMENT,
                "workspace is NULL");
    CHECK_EQ(bqq_matmul_rows(prepared.data, &x, &y, 0, M + 1, space.data, nullptr), BQQ_INVALID_ARGUMENT);
    CHECK_EQ(bqq_matmul_rows(prepared.data, &x, &y, -1, M, space.data, nullptr), BQQ_INVALID_ARGUMENT);

    const char* name = "w";
    const char* no_name = nullptr;
    CHECK_FAILS(bqq_save(nullptr, &name, &v, 1, nullptr), BQQ_INVALID_ARGUMENT, "path is NULL");
    CHECK_FAILS(bqq_save("x", nullptr, &v, 1, nullptr), BQQ_INVALID_ARGUMENT, "names is NULL");
    CHECK_FAILS(bqq_save("x", &no_name, &v, 1, nullptr), BQQ_INVALID_ARGUMENT, "names[0] is NULL");
    CHECK_FAILS(bqq_save("x", &name, nullptr, 1, nullptr), BQQ_INVALID_ARGUMENT, "views is NULL");
    CHECK_FAILS(bqq_file_open(nullptr, &file), BQQ_INVALID_ARGUMENT, "path is NULL");
    CHECK_FAILS(bqq_file_open("x", nullptr), BQQ_INVALID_ARGUMENT, "out is NULL");
    CHECK_FAILS(bqq_file_view(nullptr, "w", &out), BQQ_INVALID_ARGUMENT, "file is NULL");
    CHECK_EQ(bqq_file_count(nullptr), std::size_t(0));
    CHECK(error_has("file is NULL"));
    CHECK(bqq_file_name(nullptr, 0) == nullptr);

    bqq_view torn = v;
    torn.y = nullptr;
    CHECK_FAILS(bqq_validate(&torn), BQQ_INVALID_ARGUMENT, "view.y is NULL");
    torn = v;
    torn.z = nullptr;
    CHECK_FAILS(bqq_reconstruct(&torn, What.data(), N, 1), BQQ_INVALID_ARGUMENT, "view.z is NULL");
    torn = v;
    torn.scales = nullptr;
    CHECK_FAILS(bqq_prepare(&torn, prepared.data, size), BQQ_INVALID_ARGUMENT, "view.scales is NULL");

    bqq_matrix_free(nullptr);
    bqq_file_close(nullptr);
    CHECK(matrix == nullptr && file == nullptr);
}

TEST(failed_calls_null_their_owner) {
    auto* junk = reinterpret_cast<bqq_matrix*>(std::uintptr_t(16));
    CHECK_EQ(bqq_decompose(nullptr, 1, 1, 1, 1, nullptr, &junk), BQQ_INVALID_ARGUMENT);
    CHECK(junk == nullptr);
    auto* file = reinterpret_cast<bqq_file*>(std::uintptr_t(16));
    CHECK_EQ(bqq_file_open("/no such folder/no such file", &file), BQQ_IO);
    CHECK(file == nullptr);
    CHECK(std::strlen(bqq_last_error()) > 0);
}

TEST(bad_numbers_are_errors_with_a_text) {
    const float w[4] = {1, 2, 3, 4};
    const float nan[4] = {1, 2, std::nanf(""), 4};
    bqq_matrix* out = nullptr;
    const auto fails = [&](Status status) {
        CHECK_EQ(status, BQQ_INVALID_ARGUMENT);
        CHECK(*bqq_last_error());
        CHECK(out == nullptr);
    };
    fails(bqq_decompose(w, 0, 2, 2, 1, nullptr, &out));
    fails(bqq_decompose(w, 2, -1, 2, 1, nullptr, &out));
    fails(bqq_decompose(w, 2, 2, 1, 1, nullptr, &out));
    fails(bqq_decompose(w, 2, 2, 2, 0, nullptr, &out));
    fails(bqq_decompose(w, 2, 2, 2, 65, nullptr, &out));
    fails(bqq_decompose(nan, 2, 2, 2, 1, nullptr, &out));
    bqq_decompose_options o = defaults();
    o.schedule = 7;
    fails(bqq_decompose(w, 2, 2, 2, 1, &o, &out));
    CHECK(error_has("schedule is 7"));
    o = defaults();
    o.l = -3;
    fails(bqq_decompose(w, 2, 2, 2, 1, &o, &out));

    Owner q;
    decompose(q);
    bqq_view v = q.view();
    fails(bqq_prefix(&v, 0, &out));
    fails(bqq_prefix(&v, P + 1, &out));
    bqq_view broken = v;
    broken.p = 1000;
    CHECK_EQ(bqq_copy(&broken, &out), BQQ_FORMAT);
    broken = v;
    broken.rows += 1;
    CHECK_EQ(bqq_validate(&broken), BQQ_FORMAT);
    std::vector<float> scales(v.scales, v.scales + v.J * v.K * (3 * v.p + 1));
    scales[3] = std::nanf("");
    broken = v;
    broken.scales = scales.data();
    CHECK_EQ(bqq_validate(&broken), BQQ_FORMAT);
    CHECK_EQ(bqq_validate(&v), BQQ_OK);
}

TEST(struct_size_rules) {
    const float w[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13};
    bqq_decompose_options o;
    bqq_decompose_options_init(&o, sizeof o);
    CHECK_EQ(o.struct_size, sizeof o);
    CHECK(o.l == 0 && o.patch == 0 && o.steps == 0 && o.seed == 0 && o.schedule == BQQ_SCHEDULE_ADAPTIVE);
    CHECK(o.threads == 0 && o.progress == nullptr && o.user == nullptr);

    Owner q;
    o.struct_size = 0;
    CHECK_FAILS(bqq_decompose(w, 3, 4, 4, 1, &o, &q.p), BQQ_INVALID_ARGUMENT, "struct_size is 0");
    o.struct_size = std::size_t(-1);
    CHECK_FAILS(bqq_decompose(w, 3, 4, 4, 1, &o, &q.p), BQQ_INVALID_ARGUMENT, "struct_size");

    // An older caller knows only the first fields; what lies behind them is not read.
    bqq_decompose_options older;
    std::memset(static_cast<void*>(&older), 0xAB, sizeof older);
    older.struct_size = offsetof(bqq_decompose_options, patch);
    older.l = 3;
    CHECK_EQ(bqq_decompose(w, 3, 4, 4, 1, &older, &q.p), BQQ_OK);
    if (q.p) CHECK_EQ(q.view().l, 3);

    // A newer caller's unknown fields must be zero.
    struct {
        bqq_decompose_options known;
        std::int64_t unknown;
    } newer;
    CHECK_EQ(bqq_decompose_options_init(&newer.known, sizeof newer), BQQ_OK);
    CHECK_EQ(newer.unknown, 0);
    Owner r, s;
    CHECK_EQ(bqq_decompose(w, 3, 4, 4, 1, &newer.known, &r.p), BQQ_OK);
    newer.unknown = 1;
    CHECK_FAILS(bqq_decompose(w, 3, 4, 4, 1, &newer.known, &s.p), BQQ_UNSUPPORTED, "bqq_decompose_options");

    if (!r.p) return;
    bqq_view v = r.view();
    v.struct_size = 0;
    CHECK_FAILS(bqq_validate(&v), BQQ_INVALID_ARGUMENT, "bqq_view.struct_size is 0");
    CHECK_FAILS(bqq_matrix_view(r.p, &v), BQQ_INVALID_ARGUMENT, "bqq_view.struct_size is 0");
    v.struct_size = 48;
    CHECK_FAILS(bqq_validate(&v), BQQ_INVALID_ARGUMENT, "bqq_view.struct_size is 48");
    struct {
        bqq_view known;
        std::int64_t unknown;
    } wide = {BQQ_VIEW_INIT, 5};
    wide.known.struct_size = sizeof wide;
    CHECK_EQ(bqq_matrix_view(r.p, &wide.known), BQQ_OK);
    CHECK_EQ(wide.unknown, 0);
    CHECK_EQ(wide.known.struct_size, sizeof wide);
    CHECK_EQ(bqq_validate(&wide.known), BQQ_OK);

    bqq_save_options save = {sizeof save, 0, 1};
    const char* name = "w";
    v = r.view();
    CHECK_FAILS(bqq_save("x", &name, &v, 1, &save), BQQ_INVALID_ARGUMENT, "reserved is 1");
    save = {0, 0, 0};
    CHECK_FAILS(bqq_save("x", &name, &v, 1, &save), BQQ_INVALID_ARGUMENT, "bqq_save_options.struct_size is 0");
}

TEST(round_trip_through_a_file) {
    Owner a, b;
    decompose(a);
    decompose(b, 1);
    const bqq_view views[2] = {a.view(), b.view()};
    const char* names[2] = {"layer.1", "layer.0"};
    TemporaryFile temporary;
    CHECK_EQ(bqq_save(temporary.path.c_str(), names, views, 2, nullptr), BQQ_OK);

    bqq_file* file = nullptr;
    CHECK_EQ(bqq_file_open(temporary.path.c_str(), &file), BQQ_OK);
    if (!file) return;
    CHECK_EQ(bqq_file_count(file), std::size_t(2));
    CHECK_EQ(std::string(bqq_file_name(file, 0)), "layer.0");
    CHECK_EQ(std::string(bqq_file_name(file, 1)), "layer.1");
    CHECK(bqq_file_name(file, 2) == nullptr);
    CHECK(error_has("less than 2"));
    bqq_view q = BQQ_VIEW_INIT;
    CHECK_FAILS(bqq_file_view(file, "layer.2", &q), BQQ_INVALID_ARGUMENT, "layer.0");
    CHECK_EQ(bqq_file_view(file, "layer.1", &q), BQQ_OK);
    CHECK(same(q, views[0]));
    CHECK_EQ(bqq_validate(&q), BQQ_OK);

    std::size_t size = 0;
    CHECK_EQ(bqq_prepared_size(&q, &size), BQQ_OK);
    Buffer prepared(size);
    CHECK_EQ(bqq_prepare(&q, prepared.data, size), BQQ_OK);

    constexpr std::int64_t batch = 5;
    std::vector<float> What(M * N), X = numbers(N * batch, 2), Y(M * batch, -1.0f);
    CHECK_EQ(bqq_reconstruct(&q, What.data(), N, 0), BQQ_OK);
    bqq_file_close(file); // `prepared` does not refer to the mapping

    const bqq_array x = array(X.data(), N, batch), y = array(Y.data(), M, batch);
    CHECK_EQ(bqq_matmul(prepared.data, &x, &y, nullptr), BQQ_OK);
    for (std::int64_t c = 0; c < batch; ++c) {
        double difference = 0, norm = 0;
        for (std::int64_t r = 0; r < M; ++r) {
            double sum = 0;
            for (std::int64_t k = 0; k < N; ++k) sum += double(What[r * N + k]) * X[k * batch + c];
            difference += (sum - Y[r * batch + c]) * (sum - Y[r * batch + c]);
            norm += sum * sum;
        }
        CHECK_NEAR(std::sqrt(difference), 0.0, 4e-5 * std::sqrt(norm));
    }

    double error = -1, expected = 0;
    const bqq_view v = a.view();
    CHECK_EQ(bqq_squared_error(&v, weights().data(), N, 1, &error), BQQ_OK);
    for (std::size_t i = 0; i < What.size(); ++i)
        expected += (double(What[i]) - weights()[i]) * (double(What[i]) - weights()[i]);
    CHECK_NEAR(error, expected, 1e-4 * expected);
}

TEST(files_that_are_not_ours) {
    TemporaryFile temporary;
    std::ofstream(temporary.path) << "not a container";
    bqq_file* file = nullptr;
    CHECK_EQ(bqq_file_open(temporary.path.c_str(), &file), BQQ_FORMAT);
    CHECK(file == nullptr);
    CHECK_EQ(bqq_file_open((temporary.path + ".missing").c_str(), &file), BQQ_IO);
    Owner q;
    decompose(q);
    const bqq_view v = q.view();
    const char* name = "w";
    CHECK_EQ(bqq_save("/no such folder/file", &name, &v, 1, nullptr), BQQ_IO);
}

TEST(save_options_and_newer_views) {
    Owner q;
    decompose(q);
    struct Newer {
        bqq_view known;
        std::int64_t unknown;
    } views[2] = {{q.view(), 0}, {q.view(), 0}};
    views[0].known.struct_size = views[1].known.struct_size = sizeof(Newer);
    const char* names[2] = {"a", "b"};
    const bqq_save_options o = {sizeof o, 1, 0};
    TemporaryFile temporary;
    CHECK_EQ(bqq_save(temporary.path.c_str(), names, &views[0].known, 2, &o), BQQ_OK);
    bqq_file* file = nullptr;
    CHECK_EQ(bqq_file_open(temporary.path.c_str(), &file), BQQ_OK);
    if (!file) return;
    bqq_view b = BQQ_VIEW_INIT;
    CHECK_EQ(bqq_file_view(file, "b", &b), BQQ_OK);
    for (int i = 0; i < 3 * P + 1; ++i)
        CHECK_NEAR(b.scales[i], views[0].known.scales[i], 1e-3 * (std::fabs(views[0].known.scales[i]) + 1e-3));
    bqq_file_close(file);
    views[1].known.struct_size = sizeof(bqq_view);
    CHECK_FAILS(bqq_save(temporary.path.c_str(), names, &views[0].known, 2, &o), BQQ_INVALID_ARGUMENT, "views[1]");
}

TEST(row_ranges_equal_the_whole_product) {
    Owner q;
    decompose(q);
    const bqq_view v = q.view();
    std::size_t size = 0;
    CHECK_EQ(bqq_prepared_size(&v, &size), BQQ_OK);
    Buffer prepared(size);
    CHECK_EQ(bqq_prepare(&v, prepared.data, size), BQQ_OK);
    for (const std::int64_t batch : {1, 3, 40}) {
        std::vector<float> X = numbers(std::size_t(N * batch), 3), whole(std::size_t(M * batch));
        const bqq_array x = array(X.data(), N, batch), y = array(whole.data(), M, batch);
        CHECK_EQ(bqq_matmul(prepared.data, &x, &y, nullptr), BQQ_OK);
        CHECK_EQ(bqq_workspace_size(prepared.data, batch, &size), BQQ_OK);
        Buffer space(size);
        const std::vector<std::vector<std::int64_t>> cuts = {{0, M}, {0, v.rows, M}, {0, 1, 5, v.rows + 2, M - 1, M}};
        for (const auto& ends : cuts) {
            std::vector<float> parts(whole.size(), -7.0f);
            const bqq_array out = array(parts.data(), M, batch);
            for (std::size_t i = 0; i + 1 < ends.size(); ++i)
                CHECK_EQ(bqq_matmul_rows(prepared.data, &x, &out, ends[i], ends[i + 1], space.data, nullptr), BQQ_OK);
            CHECK(parts == whole);
        }
        std::vector<float> parts(whole.size(), -7.0f);
        const bqq_array out = array(parts.data(), M, batch);
        CHECK_EQ(bqq_matmul_rows(prepared.data, &x, &out, 3, 6, space.data, nullptr), BQQ_OK);
        for (std::int64_t i = 0; i < M * batch; ++i)
            CHECK_EQ(parts[i], i / batch >= 3 && i / batch < 6 ? whole[i] : -7.0f);
    }
}

TEST(prepared_transposed_is_the_prepared_transpose) {
    Owner q, t;
    decompose(q);
    const bqq_view v = q.view();
    CHECK_EQ(bqq_transpose(&v, &t.p), BQQ_OK);
    const bqq_view vt = t.view();
    std::size_t size = 0, expected = 0;
    CHECK_EQ(bqq_prepared_size(&vt, &expected), BQQ_OK);
    CHECK_EQ(bqq_prepared_size_transposed(&v, &size), BQQ_OK);
    CHECK_EQ(size, expected);
    Buffer straight(size), copied(size);
    CHECK_EQ(bqq_prepare(&vt, copied.data, size), BQQ_OK);
    CHECK_EQ(bqq_prepare_transposed(&v, straight.data, size), BQQ_OK);
    CHECK(!std::memcmp(straight.data, copied.data, size));
    std::vector<float> in = numbers(M, 3), out(N), same(N);
    const bqq_array x = array(in.data(), M, 1), y = array(out.data(), N, 1), z = array(same.data(), N, 1);
    CHECK_EQ(bqq_matmul(straight.data, &x, &y, nullptr), BQQ_OK);
    CHECK_EQ(bqq_matmul(copied.data, &x, &z, nullptr), BQQ_OK);
    CHECK(out == same);
    CHECK_FAILS(bqq_prepare_transposed(&v, straight.data, size - 1), BQQ_INVALID_ARGUMENT, "expected");
    CHECK_FAILS(bqq_prepare_transposed(nullptr, straight.data, size), BQQ_INVALID_ARGUMENT, "view is NULL");
    CHECK_FAILS(bqq_prepare_transposed(&v, nullptr, size), BQQ_INVALID_ARGUMENT, "buffer is NULL");
    CHECK_FAILS(bqq_prepared_size_transposed(&v, nullptr), BQQ_INVALID_ARGUMENT, "size is NULL");
}

TEST(extend_prefix_transpose_copy) {
    Owner one, two, extended, first, copy, transposed, back;
    decompose(one, 1);
    decompose(two, 2);
    const auto o = defaults();
    const bqq_view v1 = one.view(), v2 = two.view();
    CHECK_EQ(bqq_extend(&v1, weights().data(), N, 2, &o, &extended.p), BQQ_OK);
    CHECK(same(extended.view(), v2));
    CHECK_EQ(bqq_prefix(&v2, 1, &first.p), BQQ_OK);
    CHECK_EQ(first.view().p, 1);
    CHECK_EQ(bqq_copy(&v2, &copy.p), BQQ_OK);
    CHECK(same(copy.view(), v2));
    CHECK(copy.view().y != v2.y);
    CHECK_EQ(bqq_transpose(&v2, &transposed.p), BQQ_OK);
    const bqq_view vt = transposed.view();
    CHECK(vt.m == N && vt.n == M);
    CHECK_EQ(bqq_transpose(&vt, &back.p), BQQ_OK);
    CHECK(same(back.view(), v2));
}

TEST(progress_reports_and_cancels) {
    struct Log {
        int calls = 0;
        int stop_at = 0;
        std::int64_t done = 0, total = 0;
    };
    const auto record = [](std::int64_t done, std::int64_t total, void* user) -> int {
        auto& log = *static_cast<Log*>(user);
        log.done = done;
        log.total = total;
        return ++log.calls == log.stop_at;
    };
    auto o = defaults();
    o.progress = record;
    Log log;
    o.user = &log;
    Owner q;
    CHECK_EQ(bqq_decompose(weights().data(), M, N, N, 1, &o, &q.p), BQQ_OK);
    CHECK(log.calls > 0);
    CHECK(log.total > 0);
    CHECK_EQ(log.done, log.total);

    o.schedule = BQQ_SCHEDULE_PAPER;
    o.steps = 1000000; // hours, unless it is stopped
    for (const int threads : {1, 2}) {
        Log stop;
        stop.stop_at = 1;
        o.user = &stop;
        o.threads = threads;
        Owner none;
        CHECK_EQ(bqq_decompose(weights().data(), M, N, N, 64, &o, &none.p), BQQ_CANCELLED);
        CHECK(none.p == nullptr);
        CHECK(*bqq_last_error());
        CHECK_EQ(stop.calls, 1);
    }
}

TEST(last_error_is_thread_local) {
    CHECK_EQ(bqq_validate(nullptr), BQQ_INVALID_ARGUMENT);
    const std::string here = bqq_last_error();
    std::string before, after;
    std::thread([&] {
        before = bqq_last_error();
        bqq_isa(nullptr);
        after = bqq_last_error();
    }).join();
    CHECK_EQ(before, "");
    CHECK_EQ(after, "name is NULL");
    CHECK_EQ(std::string(bqq_last_error()), here);
    const char* isa = nullptr;
    CHECK_EQ(bqq_isa(&isa), BQQ_OK);
    CHECK_EQ(std::string(bqq_last_error()), here); // success leaves it alone
}

TEST(long_error_texts_are_cut_between_characters) {
    std::string path = "/no such folder/";
    while (path.size() < 5000) path += "\xc3\xa9";
    bqq_file* file = nullptr;
    CHECK(bqq_file_open(path.c_str(), &file) != BQQ_OK);
    const std::string text = bqq_last_error();
    CHECK(text.size() < 1024);
    if (text.size() > 1000) CHECK((text.back() & 0xFF) != 0xC3);
}
