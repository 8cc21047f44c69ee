#include "capi.hpp"

#include "bqq/decompose.hpp"

#include <cmath>
#include <thread>

using namespace capi;

TEST(structure_sizes_are_pinned) {
    if (sizeof(void*) != 8) return;
    CHECK_EQ(sizeof(bqq_view), std::size_t(128));
    CHECK_EQ(offsetof(bqq_view, row_order), std::size_t(96)); // the size of the first version
    CHECK_EQ(sizeof(bqq_entry), std::size_t(12));
    CHECK_EQ(sizeof(bqq_decompose_options), std::size_t(120));
    CHECK_EQ(offsetof(bqq_decompose_options, outliers), std::size_t(104));
    CHECK_EQ(sizeof(bqq_save_options), std::size_t(56));
    CHECK_EQ(sizeof(bqq_tensor), std::size_t(56));
    CHECK_EQ(offsetof(bqq_save_options, scales), std::size_t(8));
    CHECK_EQ(offsetof(bqq_save_options, tensors), std::size_t(16));
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
    CHECK_FAILS(bqq_file_read(nullptr, &file), BQQ_INVALID_ARGUMENT, "path is NULL");
    CHECK_FAILS(bqq_file_open_memory(nullptr, 8, &file), BQQ_INVALID_ARGUMENT, "data is NULL");
    CHECK_FAILS(bqq_file_open_memory(name, 1, nullptr), BQQ_INVALID_ARGUMENT, "out is NULL");
    CHECK_FAILS(bqq_file_open_memory(name, 1, &file), BQQ_FORMAT, "bytes in memory: ");
    CHECK_FAILS(bqq_file_view(nullptr, "w", &out), BQQ_INVALID_ARGUMENT, "file is NULL");
    CHECK_FAILS(bqq_file_tensor(nullptr, 0, nullptr), BQQ_INVALID_ARGUMENT, "file is NULL");
    CHECK_FAILS(bqq_file_metadata(nullptr, 0, nullptr, nullptr), BQQ_INVALID_ARGUMENT, "file is NULL");
    CHECK_EQ(bqq_file_tensor_count(nullptr) + bqq_file_metadata_count(nullptr), std::size_t(0));
    CHECK(bqq_file_metadata_value(nullptr, "k") == nullptr);
    CHECK_FAILS(bqq_make_layout(2, 2, 1, nullptr, nullptr), BQQ_INVALID_ARGUMENT, "view is NULL");
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

    // The structure as it was before there were orders and entries: read, and filled with what has neither.
    std::uint8_t old[offsetof(bqq_view, row_order)];
    auto* narrow = reinterpret_cast<bqq_view*>(old);
    narrow->struct_size = sizeof old;
    CHECK_EQ(bqq_matrix_view(r.p, narrow), BQQ_OK);
    CHECK_EQ(narrow->struct_size, sizeof old);
    CHECK_EQ(bqq_validate(narrow), BQQ_OK);
    bqq_view ordered = r.view();
    const std::uint32_t order[] = {3, 1, 0, 2};
    const bqq_entry entry = {0, 3, 0.5f};
    ordered.col_order = order, ordered.entries = &entry, ordered.entry_count = 1;
    Owner copy;
    CHECK_EQ(bqq_copy(&ordered, &copy.p), BQQ_OK);
    CHECK_FAILS(bqq_matrix_view(copy.p, narrow), BQQ_UNSUPPORTED, "bqq_view of 96 bytes");
    v = copy.view();
    CHECK(v.col_order && std::equal(order, order + 4, v.col_order));
    CHECK(v.entry_count == 1 && v.entries[0].col == 3 && !v.row_order);
    ordered.entry_count = -1;
    CHECK_FAILS(bqq_validate(&ordered), BQQ_INVALID_ARGUMENT, "entry_count is -1");
    ordered.entry_count = 1, ordered.entries = nullptr;
    CHECK_FAILS(bqq_validate(&ordered), BQQ_INVALID_ARGUMENT, "view.entries is NULL");

    bqq_save_options save{};
    save.struct_size = sizeof save;
    save.reserved = 1;
    const char* name = "w";
    v = r.view();
    CHECK_FAILS(bqq_save("x", &name, &v, 1, &save), BQQ_INVALID_ARGUMENT, "reserved is 1");
    save = {};
    CHECK_FAILS(bqq_save("x", &name, &v, 1, &save), BQQ_INVALID_ARGUMENT, "bqq_save_options.struct_size is 0");
}

TEST(layout_of_a_decomposition) {
    auto o = defaults();
    bqq_view a = BQQ_VIEW_INIT;
    Owner q;
    decompose(q);
    CHECK_EQ(bqq_make_layout(M, N, P, &o, &a), BQQ_OK);
    const bqq_view v = q.view();
    CHECK(a.m == M && a.n == N && a.J == v.J && a.K == v.K && a.rows == v.rows && a.cols == v.cols);
    CHECK(a.p == P && a.l == v.l && !a.y && !a.z && !a.scales && a.struct_size == sizeof a);
    o.patch = 0, o.l = 3;
    CHECK_EQ(bqq_make_layout(300, 300, 1, &o, &a), BQQ_OK);
    CHECK(a.l == 3 && a.rows == 300);
    const float weight = 1; // only whether it is there counts
    o.weight = &weight, o.ldweight = 300;
    CHECK_EQ(bqq_make_layout(300, 300, 1, &o, &a), BQQ_OK);
    CHECK_EQ(a.rows, 100);
    CHECK_EQ(bqq_make_layout(300, 300, 1, nullptr, &a), BQQ_OK);
    CHECK(a.rows == 300 && a.l == 150);
    CHECK_FAILS(bqq_make_layout(300, 300, 0, nullptr, &a), BQQ_INVALID_ARGUMENT, "p is 0");
    CHECK_EQ(a.l, 150);
}

TEST(layouts_too_large_to_address) {
    const std::int64_t side = std::int64_t(1) << 40;
    bqq_view v = BQQ_VIEW_INIT;
    auto o = defaults();
    o.l = 1, o.patch = 1;
    CHECK_FAILS(bqq_make_layout(side, 1 << 20, 1, &o, &v), BQQ_INVALID_ARGUMENT, "too large to address");
    CHECK_EQ(bqq_make_layout(side, 1 << 10, 1, &o, &v), BQQ_OK); // and what is derived from it fits
    const std::uint8_t bits[1] = {};
    const float scales[1] = {};
    v.y = v.z = bits, v.scales = scales;
    std::size_t size = 0, transposed = 0;
    CHECK_EQ(bqq_prepared_size(&v, &size), BQQ_OK);
    CHECK_EQ(bqq_prepared_size_transposed(&v, &transposed), BQQ_OK);
    CHECK(size > std::size_t(side) << 14 && transposed > std::size_t(side) << 14); // 16 bytes a block and more
    v.n = v.K = 1 << 20;                                                           // wrapped around to a few bytes once
    CHECK_FAILS(bqq_prepared_size(&v, &size), BQQ_FORMAT, "too large to address");
}

TEST(damping_is_the_same_in_both_languages) {
    const auto H = [&] {
        std::vector<float> x = numbers(N * N, 5), h(N * N);
        for (std::int64_t i = 0; i < N; ++i)
            for (std::int64_t j = 0; j < N; ++j)
                for (std::int64_t k = 0; k < N; ++k) h[i * N + j] += x[i * N + k] * x[j * N + k];
        return h;
    }();
    const auto found = [&](double damping, bool in_cpp) {
        Owner q;
        auto o = defaults();
        o.weight = H.data(), o.ldweight = N, o.damping = damping;
        if (!in_cpp) {
            CHECK_EQ(bqq_decompose(weights().data(), M, N, N, 1, &o, &q.p), BQQ_OK);
            const bqq_view v = q.view();
            return std::vector<float>(v.scales, v.scales + v.J * v.K * (3 * v.p + 1));
        }
        bqq::DecomposeOptions options;
        options.steps = o.steps, options.patch = o.patch, options.weight = o.weight, options.ldweight = N;
        options.damping = damping;
        return bqq::decompose(weights().data(), M, N, N, 1, options).scales;
    };
    for (const double damping : {0.0, 0.5, -1.0}) CHECK(found(damping, false) == found(damping, true));
    CHECK(found(0, false) == found(0.1, false));
    CHECK(found(0, false) != found(-1, false));
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
