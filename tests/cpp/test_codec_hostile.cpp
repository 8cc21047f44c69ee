// Codecs whose numbers come from strangers, vectors and ids at the edges of their types.
#include "check.hpp"
#include "files.hpp"

#include "bqq/bqq.hpp"
#include "bqq/vector_index.hpp"
#include "codec/cluster.hpp"
#include "file/crc32.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

using namespace bqq;

namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

std::size_t z(Index i) { return std::size_t(i); }

// A file of one stage, as FORMAT.md has it, with one code.
struct CodecFile {
    Index d = 2, bytes = 1;
    std::string metric = "l2";
    float scale = 1, center = 0;
    std::vector<float> stage = {1, 100, 0, 1};
    std::int64_t id = 0;

    void write(const std::string& path) const {
        const Index groups = 2 * bytes;
        std::vector<std::int8_t> entries(z(groups * 16 * d));
        for (std::size_t i = 0; i < entries.size(); ++i) entries[i] = std::int8_t(int(i * 37 % 255) - 127);
        const std::vector<float> scales(z(groups * 16), scale), centers(z(d), center);
        const std::vector<std::uint8_t> codes(z(bytes * 64), 0x21), norms(64);
        const auto tensor = [](std::string name, const char* dtype, std::vector<Index> shape, const auto& data) {
            return Tensor{std::move(name), dtype, std::move(shape), reinterpret_cast<const std::uint8_t*>(data.data()),
                          data.size() * sizeof data[0]};
        };
        const std::vector<std::int64_t> ids = {id};
        std::vector<Tensor> tensors = {
            tensor("codec.entries", "I8", {groups, 16, d}, entries),
            tensor("codec.scales", "F32", {groups, 16}, scales), tensor("codec.center", "F32", {d}, centers),
            tensor("codec.stages", "F32", {1, 4}, stage), tensor("index.stage0", "U8", {1, bytes, 64}, codes)};
        if (metric != "ip") tensors.push_back(tensor("index.norms", "U8", {1, 64}, norms));
        tensors.push_back(tensor("index.ids", "I64", {1}, ids));
        const std::string text = "\"version\":1,\"metric\":\"" + metric + "\",\"d\":" + std::to_string(d) +
                                 ",\"stages\":[" + std::to_string(bytes) + "],\"centered\":0,\"count\":1";
        std::uint32_t crc = detail::crc32(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
        for (const Tensor& t : tensors) crc = detail::crc32(t.data, t.nbytes, crc);
        char digits[9];
        std::snprintf(digits, sizeof digits, "%08x", crc);
        SaveOptions options;
        options.metadata["bqq_codec"] = "{" + text + ",\"crc32\":\"" + digits + "\"}";
        save(path, {}, tensors, options);
    }
};

template <class F> std::string refused(F&& f, ErrorCode code) {
    try {
        f();
    } catch (const Error& e) {
        return e.code() == code ? e.what() : "";
    }
    return "";
}

float nearest(const VectorIndex& index, std::vector<float> q, std::int64_t& id) {
    float distance = 0;
    index.search(q.data(), 1, index.codec().d(), 1, &distance, &id);
    return distance;
}

} // namespace

// What is added up in a search must stay a number, or tables and limits made of it are undefined.
TEST(a_codec_whose_sums_overflow_is_refused) {
    const files::TemporaryDirectory folder;
    const std::string path = folder.file("index");
    CodecFile{}.write(path);
    VectorIndex::open(path);
    const float large = 3e38f;
    std::vector<CodecFile> bad(6);
    bad[0].scale = 1e17f, bad[1].scale = large, bad[2].center = -large;
    bad[3].stage = {large, 1, 0, 1}, bad[4].stage = {1, 1, -large, 1}, bad[5].stage = {1, 1, 0, large};
    for (CodecFile& file : bad)
        for (const char* metric : {"l2", "ip", "cosine"}) {
            file.metric = metric, file.write(path);
            CHECK(refused([&] { VectorIndex::open(path); }, ErrorCode::format).find("float32") != std::string::npos);
            CHECK(refused([&] { Codec::load(path); }, ErrorCode::format).find("float32") != std::string::npos);
        }
}

TEST(the_largest_codec_and_vectors_give_numbers) {
    const files::TemporaryDirectory folder;
    const std::string path = folder.file("index");
    for (const char* metric : {"l2", "ip", "cosine"})
        for (const float scale : {5e15f, 1e-3f, 1e-20f, 1e-44f, 0.0f}) {
            CodecFile file;
            file.metric = metric, file.scale = scale, file.center = scale > 1 ? -1e15f : 0.0f;
            file.stage = scale > 1 ? std::vector<float>{1e36f, 1e37f, -1e37f, 3e34f}
                                   : std::vector<float>{scale, 1e-40f, 0, scale};
            file.write(path);
            VectorIndex index = VectorIndex::open(path);
            for (const float size : {1e15f, 1.0f, 1e-20f, 1e-40f, 0.0f}) {
                std::int64_t id = -1;
                CHECK(std::isfinite(nearest(index, {size, -size}, id)));
                CHECK(id >= 0 && id < index.size());
                const float x[2] = {-size, size};
                index.add(x, 1, 2);
            }
            const std::vector<std::int64_t> ids = index.ids();
            std::vector<float> W(2 * ids.size());
            index.reconstruct(ids.data(), Index(ids.size()), W.data(), 2);
            CHECK(std::all_of(W.begin(), W.end(), [](float w) { return std::isfinite(w); }));
        }
}

// Tables of a stage grow with the square of its bytes: half a gigabyte for 512 of them, from a file of 80 kB.
TEST(stages_of_many_bytes_are_refused) {
    const files::TemporaryDirectory folder;
    const std::string path = folder.file("index");
    CodecFile file;
    file.d = 1, file.bytes = 64, file.write(path);
    CHECK_EQ(VectorIndex::open(path).codec().code_size(), Index(65));
    file.bytes = 65, file.write(path);
    CHECK(refused([&] { VectorIndex::open(path); }, ErrorCode::format).find("a stage of 65") != std::string::npos);
}

// One over the norm of a denormal vector is no float32.
TEST(cosines_of_tiny_vectors) {
    std::vector<float> X(200);
    for (std::size_t i = 0; i < X.size(); ++i) X[i] = float(int(i * 37 % 23) - 11);
    TrainOptions options;
    options.metric = MetricType::cosine, options.effort = Effort::fast;
    const Codec codec = Codec::train(X.data(), 100, 2, 2, 4, options);
    VectorIndex index(codec);
    for (const float size : {1.0f, 1e-30f, 1e-38f, 1e-41f}) {
        const float x[2] = {3 * size, 4 * size};
        index.add(x, 1, 2);
    }
    std::uint8_t codes[16];
    const std::int64_t ids[] = {0, 1, 2, 3};
    index.codes(ids, 4, codes);
    for (int i = 4; i < 12; ++i) CHECK_EQ(codes[i], codes[i % 4]); // the last has few digits left
    for (const float size : {1.0f, 1e-38f, 1e-41f}) {
        std::int64_t id = -1;
        CHECK_NEAR(double(nearest(index, {3 * size, 4 * size}, id)), 1.0, 0.05);
    }
}

TEST(ids_end_at_the_largest) {
    const files::TemporaryDirectory folder;
    const std::string path = folder.file("index");
    CodecFile file;
    file.id = kLargest - 2, file.write(path);
    VectorIndex index = VectorIndex::open(path);
    const std::uint8_t codes[6] = {};
    CHECK(refused([&] { index.add_codes(codes, 2); }, ErrorCode::invalid_argument).find("used up") !=
          std::string::npos);
    CHECK_EQ(index.size(), Index(1));
    index.add_codes(codes, 1);
    CHECK_EQ(index.ids().back(), kLargest - 1);
    CHECK(!refused([&] { index.add_codes(codes, 1); }, ErrorCode::invalid_argument).empty());
    const std::int64_t free = 5;
    index.add_codes(codes, 1, &free);
    CHECK_EQ(index.size(), Index(3));
}

TEST(clusters_are_made_until_the_callback_says_no) {
    const Index rows = 200000, d = 16, groups = 8;
    std::vector<float> R(z(rows * d));
    for (std::size_t i = 0; i < R.size(); ++i) R[i] = float(i * 7919 % 1009);
    for (const int threads : {1, 2}) {
        const std::function<bool(Index, Index)> no = [](Index, Index) { return false; };
        detail::Progress progress(no, 1);
        CHECK(
            !refused([&] { detail::product_kmeans(R, rows, d, d, groups, 0, threads, progress); }, ErrorCode::cancelled)
                 .empty());
    }
}
