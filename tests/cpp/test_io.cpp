#include "bqq/file.hpp"

#include "check.hpp"
#include "files.hpp"

#include "file/crc32.hpp"
#include "half.hpp"

#include <algorithm>
#include <limits>
#include <string_view>
#include <thread>

#ifndef _WIN32
#include <cerrno>
#include <csignal>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#ifdef __linux__
#include <sys/syscall.h>

// What a new file could be read by before it got the permissions of the one it replaces.
static mode_t mode_before = 0;
extern "C" int fchmod(int fd, mode_t mode) {
    struct stat info;
    if (::fstat(fd, &info) == 0) mode_before = info.st_mode & 0777;
    return int(::syscall(SYS_fchmod, fd, mode));
}
#endif

using namespace bqq;
using files::TemporaryDirectory;

namespace {

Tensor tensor(const std::string& name, const std::string& dtype, std::vector<bqq::Index> shape,
              std::string_view bytes) {
    return {name, dtype, std::move(shape), reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()};
}

std::string bytes_of(const Tensor& t) { return {reinterpret_cast<const char*>(t.data), t.nbytes}; }

void save_error(const std::vector<NamedMatrix>& matrices, const std::vector<Tensor>& tensors, const char* part,
                const SaveOptions& options = {}) {
    const TemporaryDirectory dir;
    CHECK_THROWS(save(dir.file("x"), matrices, tensors, options), Error, part);
    CHECK_EQ(dir.entries(), std::size_t(0));
}

struct Lcg { // as in tests/golden/make_v1_small.py
    std::uint32_t state;
    unsigned next() {
        state = (state * 1103515245u + 12345u) & 0x7FFFFFFFu;
        return state >> 16;
    }
};

Matrix golden_matrix(std::uint32_t seed, const Layout& a) {
    Lcg draw{seed};
    return files::fill(
        a, [&] { return (draw.next() & 1) != 0; }, [&] { return float(int(draw.next() % 129) - 64) / 64; });
}

// The reconstructions in units of 1/64, from make_v1_small.py --table.
const int kGoldenBlocks[] = {-128, -230, -202, -256, -553, -566, -582, -582, 561,  612,  -33,  -173, -145, -171,
                             -548, -507, -550, -550, 592,  605,  -224, -326, -206, -278, -521, -625, -641, -582,
                             267,  387,  -155, -109, -155, -237, -762, -807, -769, -710, 507,  589,  -211, 19,
                             -102, -293, 247,  152,  242,  112,  509,  671,  12,   115,  67,   -51,  199,  104,
                             189,  39,   477,  615,  -7,   169,  148,  -43,  151,  51,   151,  16,   470,  596};
const int kGoldenTiny[] = {-79, -24, -79, -42, -24, -24, -79, -24, -42, -79, -134, -134, -134, -152, -134};

template <std::size_t N> void check_values(const View& q, const int (&expected)[N]) {
    const std::vector<double> w = files::reconstruct(q);
    CHECK_EQ(w.size(), N);
    for (std::size_t i = 0; i < N; ++i) CHECK_EQ(64 * w[i], double(expected[i]));
}

} // namespace

TEST(crc32_known_values) {
    const auto crc = [](const std::string& s, std::uint32_t start = 0) {
        return detail::crc32(reinterpret_cast<const std::uint8_t*>(s.data()), s.size(), start);
    };
    CHECK_EQ(crc(""), 0u);
    CHECK_EQ(crc("123456789"), 0xCBF43926u);
    CHECK_EQ(crc("The quick brown fox jumps over the lazy dog"), 0x414FA339u);
    const std::string text = "several bytes, then several more bytes, to cross the table width";
    for (std::size_t i = 0; i <= text.size(); ++i) CHECK_EQ(crc(text.substr(i), crc(text.substr(0, i))), crc(text));
}

TEST(round_trip_of_many_layouts) {
    const TemporaryDirectory dir;
    const std::string path = dir.file("one.safetensors");
    unsigned seed = 0;
    for (const Layout& a :
         {files::layout(1, 1, 1, 1, 1, 1), files::layout(3, 5, 1, 1, 1, 2), files::layout(8, 16, 1, 1, 2, 8),
          files::layout(7, 10, 2, 3, 3, 9), files::layout(9, 9, 5, 5, 2, 17), files::layout(33, 65, 3, 2, 4, 31),
          files::layout(130, 70, 2, 1, 1, 64), files::layout(2, 2, 1, 1, 64, 3)})
        for (const char* name : {"w", "a/b.c \"quoted\" \\ \xC3\xA4\xF0\x9F\x98\x80\n\x01", "x.bqq_y"}) {
            const Matrix q = files::random_matrix(a, ++seed);
            save(path, {{name, q.view()}});
            const File file = File::open(path);
            CHECK_EQ(file.matrices().size(), std::size_t(1));
            CHECK_EQ(file.matrices()[0].name, std::string(name));
            CHECK(files::same(file.matrix(name), q.view()));
            CHECK(file.tensors().empty());
            CHECK(file.metadata().empty());
        }
    CHECK_EQ(dir.entries(), std::size_t(1));
}

TEST(round_trip_of_many_matrices_and_tensors) {
    const TemporaryDirectory dir;
    const std::string path = dir.file("many.safetensors");
    std::vector<Matrix> matrices;
    for (unsigned i = 0; i < 12; ++i)
        matrices.push_back(files::random_matrix(files::layout(5 + i, 20 - i, 2, 3, 2, 5), i));
    std::vector<NamedMatrix> named;
    for (unsigned i = 12; i-- > 0;) named.push_back({"m" + std::to_string(i), matrices[i].view()});
    const std::string_view raw("\x00\xFF\x80 123456789abcdef nan \xFF\xC0", 24);
    const std::vector<Tensor> tensors = {tensor("bool", "BOOL", {3}, raw.substr(0, 3)),
                                         tensor("f64", "F64", {1, 3}, raw),
                                         tensor("bf16", "BF16", {2, 3, 2}, raw),
                                         tensor("scalar", "I64", {}, raw.substr(0, 8)),
                                         tensor("empty", "F32", {0}, ""),
                                         tensor("empty2", "F16", {4, 0, 1 << 20}, ""),
                                         tensor("fp8", "F8_E4M3", {24}, raw),
                                         tensor("u16", "U16", {12}, raw),
                                         tensor("\xC3\xA9t\xC3\xA9 \"", "U8", {5}, raw.substr(7, 5)),
                                         tensor("f32", "F32", {6, 1}, raw)};
    SaveOptions options;
    options.metadata = {{"format", "pt"}, {"quote \" \\ \n", "value \t \xE2\x82\xAC"}, {"bqqx", ""}, {"", "empty key"}};
    save(path, named, tensors, options);

    File moved = File::open(path);
    const View first = moved.matrix("m0");
    const File file = std::move(moved);
    CHECK(files::same(first, matrices[0].view()));
    CHECK_EQ(file.matrices().size(), std::size_t(12));
    for (unsigned i = 0; i < 12; ++i) CHECK(files::same(file.matrix("m" + std::to_string(i)), matrices[i].view()));
    CHECK(std::is_sorted(file.matrices().begin(), file.matrices().end(),
                         [](const StoredMatrix& a, const StoredMatrix& b) { return a.name < b.name; }));
    CHECK(file.metadata() == options.metadata);
    CHECK_EQ(file.tensors().size(), tensors.size());
    for (const Tensor& t : file.tensors()) {
        const auto it = std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& x) { return x.name == t.name; });
        CHECK(it != tensors.end() && it->dtype == t.dtype && it->shape == t.shape && bytes_of(*it) == bytes_of(t));
        const auto address = reinterpret_cast<std::uintptr_t>(t.data);
        CHECK(t.nbytes == 0 || t.dtype != "F64" || address % 8 == 0);
        CHECK(t.nbytes == 0 || t.dtype != "F32" || address % 4 == 0);
    }
    CHECK_THROWS(file.matrix("m99"), Error, "\"m99\" in ");
    CHECK_THROWS(file.matrix("m99"), Error, "\"m0\", \"m1\"");

    // What was read saves again to the same bytes, over the file it was read from.
    const std::string before = files::read(path);
    save(path, files::matrices(file), file.tensors(), options);
    CHECK(files::read(path) == before);
    CHECK(files::same(first, matrices[0].view())); // the old mapping still holds the old file
    save(path, {}, {}, {});
    CHECK(File::open(path).matrices().empty());
    CHECK_THROWS(File::open(path).matrix("w"), Error, "none");
}

TEST(matrices_are_checked_when_they_are_first_asked_for) {
    const TemporaryDirectory dir;
    const std::string path = dir.file("two.safetensors");
    const Matrix a = files::random_matrix(files::layout(7, 10, 2, 3, 2, 9), 1), b = files::random_matrix(a.layout, 2);
    save(path, {{"a", a.view()}, {"b", b.view()}});
    std::string bytes = files::read(path);
    bytes[bytes.size() - std::size_t(b.layout.z_bytes())] ^= 1; // of b: Z planes come last, in the order of their names
    files::write(path, bytes);
    for (const File& file : {File::open(path), File::read(path)}) {
        CHECK_EQ(file.matrices().size(), std::size_t(2));
        CHECK(files::same(file.matrix("a"), a.view()));
        for (int i = 0; i < 2; ++i) CHECK_THROWS(file.matrix("b"), Error, "\"b\": the checksum does not match");
        CHECK(files::same(file.matrix("a"), a.view()));
    }
}

TEST(what_a_file_says_of_its_matrices) {
    const TemporaryDirectory dir;
    const std::string path = dir.file("w.safetensors");
    const Matrix q = files::random_matrix(files::layout(7, 10, 2, 3, 2, 9), 1);
    for (const Dtype scales : {Dtype::f32, Dtype::f16}) {
        SaveOptions options;
        options.scales = scales;
        save(path, {{"w", q.view()}}, {}, options);
        const File file = File::open(path);
        const StoredMatrix& w = file.matrices().at(0);
        CHECK(w.name == "w" && w.layout == q.layout && w.scales == scales);
        const Index width = scales == Dtype::f16 ? 2 : 4;
        CHECK_EQ(Index(w.nbytes), q.layout.y_bytes() + q.layout.z_bytes() + width * q.layout.scales_count());
        CHECK(file.mapped() && !File::read(path).mapped());
    }
    SaveOptions options;
    options.scales = Dtype::bf16;
    save_error({{"w", q.view()}}, {}, "scales is 2, expected the dtype float32 or float16", options);
}

TEST(planes_and_aligned_scales_stay_in_the_mapping) {
    const TemporaryDirectory dir;
    const std::string path = dir.file("w.safetensors");
    const Matrix q = files::random_matrix(files::layout(7, 10, 2, 3, 2, 9), 1);
    const std::string eight(8, 'x');
    save(path, {{"w", q.view()}}, {tensor("a", "F64", {1}, eight)});
    const auto distance = [](const File& file, const void* at) {
        return static_cast<const std::uint8_t*>(at) - file.tensors().at(0).data; // the file's first tensor
    };
    const auto size = std::ptrdiff_t(std::filesystem::file_size(path));
    for (const File& file : {File::open(path), File::read(path)}) {
        const View v = file.matrix("w");
        CHECK_EQ(distance(file, v.scales), std::ptrdiff_t(8));
        CHECK(distance(file, v.Y) > 8 && distance(file, v.Y) < size);
        CHECK(distance(file, v.Z) > 8 && distance(file, v.Z) < size);
    }
    // Scales that are not aligned are decoded: a header of another length, which other writers may choose.
    std::string bytes = files::read(path);
    bytes[0] = char(bytes[0] + 1);
    bytes.insert(9, " ");
    files::write(path, bytes);
    for (const File& file : {File::open(path), File::read(path)}) {
        const View v = file.matrix("w");
        CHECK(files::same(v, q.view()));
        CHECK_EQ(reinterpret_cast<std::uintptr_t>(v.scales) % alignof(float), std::uintptr_t(0));
    }
}

TEST(threads_that_ask_first) {
    const TemporaryDirectory dir;
    const std::string path = dir.file("w.safetensors");
    std::vector<Matrix> matrices;
    std::vector<NamedMatrix> named;
    for (unsigned i = 0; i < 5; ++i) matrices.push_back(files::random_matrix(files::layout(70, 100, 2, 3, 2, 9), i));
    for (unsigned i = 0; i < 5; ++i) named.push_back({"m" + std::to_string(i), matrices[i].view()});
    SaveOptions options;
    options.scales = Dtype::f16;
    save(path, named, {}, options);
    for (int round = 0; round < 20; ++round) {
        const File file = File::open(path);
        std::vector<const float*> seen(8);
        std::vector<std::thread> threads;
        for (std::size_t t = 0; t < seen.size(); ++t)
            threads.emplace_back([&, t] {
                for (const NamedMatrix& q : named) seen[t] = file.matrix(q.name).scales;
            });
        for (std::thread& t : threads) t.join();
        for (const float* scales : seen) CHECK(scales == seen[0]);
    }
}

#ifndef _WIN32
TEST(a_file_that_was_read_may_be_cut_short) {
    const TemporaryDirectory dir;
    const std::string path = dir.file("w");
    const Matrix q = files::random_matrix(files::layout(70, 100, 2, 3, 2, 9), 1);
    save(path, {{"w", q.view()}});
    const File file = File::read(path);
    std::filesystem::resize_file(path, 0);
    CHECK(files::same(file.matrix("w"), q.view()));
    // The kernel's own files end before the size they have: as if somebody were cutting them short.
    const std::string shorter = "/sys/kernel/mm/transparent_hugepage/enabled";
    if (std::filesystem::is_regular_file(shorter) && std::filesystem::file_size(shorter) > files::read(shorter).size())
        CHECK_THROWS(File::read(shorter), Error, "cut short while it was read");
}
#endif

TEST(views_outlive_all_but_the_last_copy) {
    const TemporaryDirectory dir;
    const Matrix q = files::random_matrix(files::layout(7, 10, 2, 3, 2, 9), 1);
    save(dir.file("w"), {{"w", q.view()}});
    auto file = std::make_unique<File>(File::open(dir.file("w")));
    const View v = file->matrix("w");
    const File copy = *file;
    file.reset();
    CHECK(files::same(v, q.view()));
}

TEST(scales_in_float16) {
    const TemporaryDirectory dir;
    const std::string path = dir.file("f16.safetensors");
    Matrix q = files::random_matrix(files::layout(7, 10, 2, 3, 2, 9), 5);
    q.scales[0] = 65519.996f;
    q.scales[1] = 1e-7f;
    q.scales[2] = 1.0f / 3;
    SaveOptions options;
    options.scales = Dtype::f16;
    save(path, {{"w", q.view()}}, {}, options);
    const std::uintmax_t small = std::filesystem::file_size(path);
    const File file = File::open(path);
    const View v = file.matrix("w");
    CHECK(std::equal(q.Y.begin(), q.Y.end(), v.Y) && std::equal(q.Z.begin(), q.Z.end(), v.Z));
    for (std::size_t i = 0; i < q.scales.size(); ++i)
        CHECK_EQ(v.scales[i], detail::f16_to_f32(detail::f32_to_f16(q.scales[i])));
    CHECK_EQ(v.scales[0], 65504.0f);
    save(path, {{"w", q.view()}});
    CHECK(std::filesystem::file_size(path) > small);
    q.scales[4] = -65520.0f;
    save_error({{"big", q.view()}}, {}, "matrix \"big\": scale 4 is -65520", options);
}

TEST(arguments_are_checked) {
    const Matrix q = files::random_matrix(files::layout(3, 5, 1, 1, 1, 2), 1);
    const View v = q.view();
    const std::string raw = "12345678";
    const Tensor good = tensor("t", "U8", {8}, raw);
    save_error({{"", v}}, {}, "matrix has an empty name");
    save_error({{"__metadata__", v}}, {}, "reserved");
    save_error({{std::string("a\0b", 3), v}}, {}, "NUL");
    save_error({{"\xC3", v}}, {}, "not valid UTF-8");
    save_error({{"w", v}, {"w", v}}, {}, "\"w\" occurs twice");
    save_error({{"t", v}}, {good}, "\"t\" occurs twice");
    save_error({}, {good, good}, "\"t\" occurs twice");
    save_error({}, {tensor("", "U8", {8}, raw)}, "tensor has an empty name");
    save_error({}, {tensor("__metadata__", "U8", {8}, raw)}, "reserved");
    save_error({{"w", v}}, {tensor("w.bqq_y", "U8", {8}, raw)}, "\"w.bqq_y\": the endings");
    save_error({}, {tensor("other.bqq_scales", "F32", {2}, raw)}, "the endings");
    save_error({}, {tensor("t", "U7", {8}, raw)}, "unknown dtype \"U7\"");
    save_error({}, {tensor("t", "F32", {8}, raw)}, "nbytes is 8, expected 32 for F32 [8]");
    save_error({}, {tensor("t", "U8", {-8}, raw)}, "negative");
    save_error({}, {tensor("t", "U8", {bqq::Index(1) << 40, bqq::Index(1) << 40}, raw)}, "overflows");
    save_error({}, {Tensor{"t", "U8", {8}, nullptr, 8}}, "data is null");
    SaveOptions options;
    options.metadata = {{"bqq", "2"}};
    save_error({}, {}, "metadata key \"bqq\" is reserved", options);
    options.metadata = {{"bqq.w", "{}"}};
    save_error({}, {}, "reserved", options);
    options.metadata = {{"k", "\xED\xA0\x80"}};
    save_error({}, {}, "not valid UTF-8", options);
    View bad = v;
    bad.Y = nullptr;
    save_error({{"w", bad}}, {}, "null");
    bad = v;
    bad.layout.p = 0;
    save_error({{"w", bad}}, {}, "matrix \"w\": ");
    Matrix nan = q;
    nan.scales[1] = std::numeric_limits<float>::quiet_NaN();
    save_error({{"w", nan.view()}}, {}, "matrix \"w\": ");
    Matrix dirty = q;
    dirty.Y[0] |= 0x80;
    save_error({{"w", dirty.view()}}, {}, "matrix \"w\": ");
    CHECK_THROWS(save("", {}), Error, "empty");
    CHECK_THROWS(save(std::string("a\0b", 3), {}), Error, "NUL");
}

TEST(files_that_cannot_be_used) {
    const TemporaryDirectory dir;
    const auto code = [](auto&& run) {
        try {
            run();
        } catch (const Error& e) {
            return e.code();
        }
        return ErrorCode::internal;
    };
    CHECK(code([&] { save(dir.file("missing/x"), {}); }) == ErrorCode::io);
    CHECK(code([&] { File::open(dir.file("missing")); }) == ErrorCode::io);
    CHECK_THROWS(File::open(dir.file("missing")), Error, "missing\": ");
    CHECK(code([&] { save(dir.path.string(), {}); }) == ErrorCode::io); // a directory is in the way
#ifndef _WIN32
    CHECK(code([&] { File::open(dir.path.string()); }) == ErrorCode::io);
    CHECK(code([&] { File::open("/dev/null"); }) == ErrorCode::io);
    CHECK(code([&] { save("/dev/null/x", {}); }) == ErrorCode::io);
    CHECK(code([&] { File::read("/dev/null"); }) == ErrorCode::io);
    try {
        File::open(dir.file("missing"));
    } catch (const Error& e) {
        CHECK_EQ(e.system_error(), ENOENT);
    }
    // What is no file of ours to replace stays what it is.
    const std::string fifo = dir.file("fifo"), link = dir.file("link");
    CHECK_EQ(::mkfifo(fifo.c_str(), 0600), 0);
    std::filesystem::create_symlink(fifo, link);
    for (const std::string& path : {fifo, link, std::string("/dev/null")}) {
        CHECK(code([&] { save(path, {}); }) == ErrorCode::io);
        CHECK_THROWS(save(path, {}), Error, "not a regular file");
        CHECK(!std::filesystem::is_regular_file(path) && std::filesystem::exists(path));
    }
    CHECK_EQ(dir.entries(), std::size_t(2));
    std::filesystem::remove(link);
    std::filesystem::remove(fifo);
    if (::geteuid() != 0) {
        std::filesystem::permissions(dir.path, std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
        CHECK(code([&] { save(dir.file("x"), {}); }) == ErrorCode::io);
        std::filesystem::permissions(dir.path, std::filesystem::perms::owner_all);
    }
#endif
    CHECK_EQ(dir.entries(), std::size_t(0));
}

#ifdef __linux__
TEST(a_private_file_is_private_at_every_moment) {
    const TemporaryDirectory dir;
    const std::string path = dir.file("w.safetensors");
    save(path, {});
    std::filesystem::permissions(path, std::filesystem::perms(0600));
    mode_before = 0777;
    save(path, {});
    CHECK_EQ(mode_before & 0077, mode_t(0));
    std::filesystem::permissions(path, std::filesystem::perms(0664));
    save(path, {});
    CHECK(std::filesystem::status(path).permissions() == std::filesystem::perms(0664));
}
#endif

#ifndef _WIN32
TEST(a_failing_save_leaves_the_old_file) {
    const TemporaryDirectory dir;
    const std::string path = dir.file("w.safetensors");
    const Matrix q = files::random_matrix(files::layout(7, 10, 2, 3, 2, 9), 3);
    save(path, {{"w", q.view()}});
    const std::string before = files::read(path);
    std::filesystem::permissions(path, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);

    const std::string raw(100000, 'x');
    const auto old = std::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{};
    ::getrlimit(RLIMIT_FSIZE, &limit);
    rlimit low = limit;
    low.rlim_cur = 20000; // the disk is full after a first short write
    ::setrlimit(RLIMIT_FSIZE, &low);
    bool io = false;
    try {
        save(path, {{"w", q.view()}}, {tensor("t", "U8", {100000}, raw)});
    } catch (const Error& e) {
        io = e.code() == ErrorCode::io && std::strstr(e.what(), "w.safetensors");
    }
    ::setrlimit(RLIMIT_FSIZE, &limit);
    std::signal(SIGXFSZ, old);
    CHECK(io);
    CHECK(files::read(path) == before);
    CHECK_EQ(dir.entries(), std::size_t(1));

    save(path, {{"w", q.view()}}, {tensor("t", "U8", {100000}, raw)});
    CHECK_EQ(std::filesystem::file_size(path) > raw.size(), true);
    CHECK(std::filesystem::status(path).permissions() == std::filesystem::perms(0600)); // kept
    CHECK_EQ(dir.entries(), std::size_t(1));
}
#endif

TEST(golden_v1_small) {
    const std::string path = std::string(BQQ_GOLDEN_DIR) + "/v1-small.safetensors";
    const Matrix blocks = golden_matrix(1, files::layout(7, 10, 2, 3, 2, 9));
    const Matrix tiny = golden_matrix(2, files::layout(3, 5, 1, 1, 1, 2));
    const float bias[] = {0.5f, -1.25f, 3.0f, 0.0f, 1e-8f};
    const File file = File::open(path);
    CHECK_EQ(file.matrices().size(), std::size_t(2));
    CHECK(files::same(file.matrix("layer.blocks"), blocks.view()));
    CHECK(files::same(file.matrix("tiny"), tiny.view()));
    check_values(file.matrix("layer.blocks"), kGoldenBlocks);
    check_values(file.matrix("tiny"), kGoldenTiny);
    CHECK_EQ(file.tensors().size(), std::size_t(1));
    const Tensor& t = file.tensors()[0];
    CHECK(t.name == "bias" && t.dtype == "F32" && t.shape == std::vector<bqq::Index>{5} && t.nbytes == sizeof bias);
    CHECK(std::memcmp(t.data, bias, sizeof bias) == 0);
    CHECK_EQ(file.metadata().size(), std::size_t(1));
    CHECK_EQ(file.metadata().at("note"), std::string("the \"\xC3\xA4\" of version 1"));

    const TemporaryDirectory dir;
    SaveOptions options;
    options.metadata = {{"note", "the \"\xC3\xA4\" of version 1"}};
    const Tensor again{"bias", "F32", {5}, reinterpret_cast<const std::uint8_t*>(bias), sizeof bias};
    save(dir.file("again"), {{"tiny", tiny.view()}, {"layer.blocks", blocks.view()}}, {again}, options);
    CHECK(files::read(dir.file("again")) == files::read(path));
}

namespace {

// Of tests/golden/make_v2_small.py.
Matrix golden_all() {
    Matrix q = golden_matrix(1, files::layout(7, 10, 2, 3, 2, 9));
    q.row_order = {6, 0, 3, 1, 5, 2, 4};
    q.col_order = {9, 1, 2, 0, 4, 3, 8, 7, 5, 6};
    q.entries = {{0, 3, 100.0f}, {0, 9, -50.0f}, {5, 0, 1.0f / 64}, {6, 9, 777.0f / 64}};
    return q;
}

// The reconstructions in units of 1/64, from make_v2_small.py --table.
const int kGoldenAll[] = {-171, -173, -145, -507, -548, 592,  605,  -550, -550, -33,  -237,  -109, -155, -807,
                          -762, 507,  589,  -710, -769, -155, -51,  115,  67,   104,  199,   477,  615,  39,
                          189,  13,   -278, -326, -206, -625, -521, 267,  387,  -582, -641,  -224, -43,  169,
                          148,  51,   151,  470,  1373, 16,   151,  -7,   -293, 19,   -102,  152,  247,  509,
                          671,  112,  242,  -211, 6144, -230, -202, -566, -553, 561,  -2588, -582, -582, -128};

} // namespace

TEST(golden_v2_small) {
    const std::string path = std::string(BQQ_GOLDEN_DIR) + "/v2-small.safetensors";
    const Matrix all = golden_all(), plain = golden_matrix(2, files::layout(3, 5, 1, 1, 1, 2));
    Matrix columns = plain, entries = plain;
    columns.col_order = {4, 2, 0, 1, 3};
    entries.entries = {{2, 4, -10.0f}};
    const std::vector<NamedMatrix> named = {
        {"all", all.view()}, {"columns", columns.view()}, {"entries", entries.view()}, {"plain", plain.view()}};
    const File file = File::open(path);
    CHECK_EQ(file.matrices().size(), named.size());
    for (const NamedMatrix& q : named) CHECK(files::same(file.matrix(q.name), q.view));
    CHECK_EQ(bqq::Index(file.matrices()[0].nbytes), all.view().nbytes());
    std::vector<float> W(70);
    reconstruct(file.matrix("all"), W.data(), 10);
    for (std::size_t i = 0; i < W.size(); ++i) CHECK_EQ(64 * W[i], float(kGoldenAll[i]));
    const TemporaryDirectory dir;
    save(dir.file("again"), named);
    CHECK(files::read(dir.file("again")) == files::read(path));
}

TEST(orders_and_entries_that_are_wrong) {
    const std::string good = files::read(std::string(BQQ_GOLDEN_DIR) + "/v2-small.safetensors");
    const TemporaryDirectory dir;
    const auto fails = [&](const std::string& from, const std::string& to, const char* part) {
        std::string bytes = good;
        const std::size_t at = bytes.find(from);
        CHECK(at != std::string::npos && from.size() == to.size());
        files::write(dir.file("x"), bytes.replace(at, from.size(), to));
        const auto load_all = [&] {
            for (const auto& q : files::matrices(File::open(dir.file("x")))) CHECK(!q.name.empty());
        };
        CHECK_THROWS(load_all(), Error, part);
    };
    fails("\"bqq\":\"2\"", "\"bqq\":\"1\"", "matrix \"all\" has orders or entries in a file of version 1");
    // A part that has gone, or is called otherwise.
    fails("columns.bqq_col_order", "columns.bqq_row_order", "tensor \"columns.bqq_col_order\" is missing");
    fails("entries.bqq_values\"", "entries.bqq_v_lues\"", "tensor \"entries.bqq_values\" is missing");
    fails("\\\"col_order\\\":1,\\\"crc", "\\\"entries\\\" : 1,\\\"crc", "is missing");
    fails(",\\\"entries\\\":4", ",\\\"entries\\\":3", "its metadata say [3]");
    fails("\"dtype\":\"U16\",\"shape\":[7]", "\"dtype\":\"I16\",\"shape\":[7]", "has dtype I16, expected U16");
    // Every byte of an order and of entries is under the checksum.
    const std::string order("\x06\0\0\0\x03\0", 6);
    fails(order, std::string("\x06\0\0\0\x02\0", 6), "checksum");
}

TEST(orders_and_entries_of_any_size) {
    const TemporaryDirectory dir;
    for (const auto& [m, n, sides] :
         {std::tuple<bqq::Index, bqq::Index, int>{70000, 3, 7}, {2, 65536, 7}, {2, 65537, 2}, {65536, 65537, 4}}) {
        Matrix q(make_layout(m, n, 1, 1, 1 << 20));
        q = Matrix(q.view());
        const auto backwards = [](bqq::Index side) {
            std::vector<std::uint32_t> order;
            for (bqq::Index i = side; i-- > 0;) order.push_back(std::uint32_t(i));
            return order;
        };
        Matrix d = q;
        if (sides & 1) d.row_order = backwards(m);
        if (sides & 2) d.col_order = backwards(n);
        if (sides & 4) d.entries = {{0, 1, 2.0f}, {std::uint32_t(m - 1), std::uint32_t(n - 1), -1.5f}};
        for (const Dtype scales : {Dtype::f32, Dtype::f16}) {
            SaveOptions options;
            options.scales = scales;
            save(dir.file("x"), {{"w", d.view()}}, {}, options);
            const File file = File::read(dir.file("x"));
            CHECK(files::same(file.matrix("w"), d.view()));
            if (scales == Dtype::f32) CHECK_EQ(bqq::Index(file.matrices()[0].nbytes), d.view().nbytes());
        }
    }
    Matrix large(make_layout(3, 4, 1));
    large.entries = {{0, 0, 1e5f}};
    SaveOptions half;
    half.scales = Dtype::f16;
    save_error({{"w", large.view()}}, {}, "the value of entry 0 is 100000.000000, float16 holds at most 65504", half);
    save_error({}, {tensor("a.bqq_values", "U8", {0}, "")}, ".bqq_values are reserved");
}

TEST(the_example_of_the_specification) {
    // cpp/FORMAT.md shows this file as lines "00000000  xx xx ...  |text|" and its values.
    Matrix q(files::layout(3, 5, 1, 1, 1, 2));
    q.Y = {0x01, 0x02, 0x03};
    q.Z = {0x13, 0x16};
    q.scales = {0.5f, -0.25f, 0.125f, 1.0f};
    const double expected[] = {1.375, 1.5, 0.875, 0.75, 1.5,   0.875, 1.5, 1.375,
                               0.75,  1.5, 1.125, 1.75, 1.125, 0.5,   1.75};
    const std::vector<double> w = files::reconstruct(q.view());
    for (std::size_t i = 0; i < w.size(); ++i) CHECK_EQ(w[i], expected[i]);

    const TemporaryDirectory dir;
    save(dir.file("w"), {{"w", q.view()}});
    std::string documented;
    std::ifstream in(std::string(BQQ_GOLDEN_DIR) + "/../../cpp/FORMAT.md");
    for (std::string line; std::getline(in, line);) {
        const std::size_t bar = line.find("  |");
        if (line.size() < 12 || line.compare(0, 4, "0000") != 0 || bar == std::string::npos) continue;
        for (std::size_t at = 10; at + 1 < bar && line[at] != ' '; at += at == 31 ? 4 : 3)
            documented += char(std::stoi(line.substr(at, 2), nullptr, 16));
    }
    CHECK(documented == files::read(dir.file("w")));
}
