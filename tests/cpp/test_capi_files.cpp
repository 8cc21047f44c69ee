// Files through the C interface.
#include "capi.hpp"

#include <cmath>
#include <fstream>

using namespace capi;

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

TEST(tensors_and_metadata_of_a_file) {
    Owner q;
    decompose(q);
    const bqq_view v = q.view();
    const char* name = "w";
    const float bias[2] = {1, -2};
    const std::int64_t shape[1] = {2};
    struct Newer {
        bqq_tensor known;
        std::int64_t unknown;
    } tensors[2] = {{{sizeof(Newer), "z", "F32", shape, 1, bias, sizeof bias}, 0},
                    {{sizeof(Newer), "a", "I64", nullptr, 0, "12345678", 8}, 0}};
    const char* keys[2] = {"format", "a"};
    const char* values[2] = {"pt", "\xc3\xa9"};
    bqq_save_options o{};
    o.struct_size = sizeof o;
    o.tensors = &tensors[0].known, o.tensor_count = 2;
    o.metadata_keys = keys, o.metadata_values = values, o.metadata_count = 2;
    TemporaryFile temporary;
    const char* path = temporary.path.c_str();
    CHECK_EQ(bqq_save(path, &name, &v, 1, &o), BQQ_OK);
    const std::string bytes = "x" + read(path); // at an odd address: scales are decoded
    for (const int way : {0, 1, 2}) {
        bqq_file* file = nullptr;
        CHECK_EQ(way == 0   ? bqq_file_open(path, &file)
                 : way == 1 ? bqq_file_read(path, &file)
                            : bqq_file_open_memory(bytes.data() + 1, bytes.size() - 1, &file),
                 BQQ_OK);
        if (!file) return;
        CHECK_EQ(bqq_file_count(file), std::size_t(1));
        bqq_view w = BQQ_VIEW_INIT;
        CHECK_EQ(bqq_file_view(file, "w", &w), BQQ_OK);
        CHECK(same(w, v));
        CHECK_EQ(bqq_file_tensor_count(file), std::size_t(2));
        bqq_tensor t = BQQ_TENSOR_INIT;
        CHECK_EQ(bqq_file_tensor(file, 0, &t), BQQ_OK);
        CHECK(!std::strcmp(t.name, "a") && !std::strcmp(t.dtype, "I64") && t.ndim == 0 && t.nbytes == 8);
        CHECK(!std::memcmp(t.data, "12345678", 8) && t.struct_size == sizeof t);
        CHECK_EQ(bqq_file_tensor(file, 1, &t), BQQ_OK);
        CHECK(!std::strcmp(t.name, "z") && !std::strcmp(t.dtype, "F32") && t.ndim == 1 && t.shape[0] == 2);
        CHECK(t.nbytes == sizeof bias && !std::memcmp(t.data, bias, sizeof bias));
        CHECK_FAILS(bqq_file_tensor(file, 2, &t), BQQ_INVALID_ARGUMENT, "less than 2");
        t.struct_size = 8;
        CHECK_FAILS(bqq_file_tensor(file, 1, &t), BQQ_INVALID_ARGUMENT, "bqq_tensor.struct_size is 8");
        CHECK_EQ(bqq_file_metadata_count(file), std::size_t(2));
        const char *key = nullptr, *value = nullptr;
        CHECK_EQ(bqq_file_metadata(file, 0, &key, &value), BQQ_OK);
        CHECK(!std::strcmp(key, "a") && !std::strcmp(value, values[1]));
        CHECK_EQ(bqq_file_metadata(file, 1, &key, nullptr), BQQ_OK);
        CHECK(!std::strcmp(key, "format"));
        CHECK_FAILS(bqq_file_metadata(file, 2, &key, &value), BQQ_INVALID_ARGUMENT, "less than 2");
        CHECK(!std::strcmp(bqq_file_metadata_value(file, "format"), "pt"));
        CHECK(bqq_file_metadata_value(file, "bqq") == nullptr);
        CHECK(error_has("no metadata key bqq"));
        bqq_file_close(file);
    }
    // What cannot be written.
    const auto fails = [&](const bqq_save_options& options, const char* part) {
        CHECK_FAILS(bqq_save(path, &name, &v, 1, &options), BQQ_INVALID_ARGUMENT, part);
    };
    bqq_save_options bad = o;
    bad.scales = 7;
    fails(bad, "scales is 7");
    bad = o, bad.tensors = nullptr;
    fails(bad, "tensors is NULL");
    bad = o, bad.metadata_values = nullptr;
    fails(bad, "metadata_values is NULL");
    keys[1] = "format";
    fails(o, "format occurs twice");
    keys[1] = nullptr;
    fails(o, "metadata_keys[1] is NULL");
    keys[1] = "bqq.w";
    fails(o, "\"bqq.w\" is reserved");
    keys[1] = "a";
    tensors[1].known.nbytes = 7;
    fails(o, "nbytes is 7, expected 8");
    tensors[1].known.nbytes = 8, tensors[1].known.name = "w";
    fails(o, "\"w\" occurs twice");
    tensors[1].known.name = nullptr;
    fails(o, "tensor.name is NULL");
    tensors[1].known.name = "a", tensors[1].unknown = 1;
    CHECK_FAILS(bqq_save(path, &name, &v, 1, &o), BQQ_UNSUPPORTED, "bqq_tensor");
    tensors[1].unknown = 0, tensors[1].known.struct_size = sizeof(bqq_tensor);
    fails(o, "tensors[1].struct_size differs");
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
    bqq_save_options o{};
    o.struct_size = 16; // of a caller that knows no tensors
    o.scales = BQQ_F16;
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

TEST(long_error_texts_are_cut_between_characters) {
    std::string path = "/no such folder/";
    while (path.size() < 5000) path += "\xc3\xa9";
    bqq_file* file = nullptr;
    CHECK(bqq_file_open(path.c_str(), &file) != BQQ_OK);
    const std::string text = bqq_last_error();
    CHECK(text.size() < 1024);
    if (text.size() > 1000) CHECK((text.back() & 0xFF) != 0xC3);
}
