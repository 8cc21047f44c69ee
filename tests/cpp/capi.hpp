// What the tests of the C interface share: owners, a small matrix, checks of statuses and texts.
#pragma once

#include "bqq/bqq.h"

#include "check.hpp"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

namespace capi {

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
        static int count = 0; // the random number tells processes apart that run at once
        const std::string name = "bqq-capi-" + std::to_string(std::random_device{}()) + "-" + std::to_string(count++);
        path = (std::filesystem::temp_directory_path() / (name + ".safetensors")).string();
    }
    ~TemporaryFile() { std::remove(path.c_str()); }
};

inline std::string read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

inline std::vector<float> numbers(std::size_t count, std::uint64_t state) {
    std::vector<float> out(count);
    for (auto& x : out) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x = float(std::int32_t(state >> 32)) / 2147483648.0f;
    }
    return out;
}

inline bqq_decompose_options defaults() {
    bqq_decompose_options o;
    CHECK_EQ(bqq_decompose_options_init(&o, sizeof o), BQQ_OK);
    o.steps = 100;
    o.patch = 16;
    return o;
}

constexpr std::int64_t M = 37, N = 29, P = 2;
inline const std::vector<float>& weights() {
    static const std::vector<float> W = numbers(M * N, 1);
    return W;
}
inline void decompose(Owner& q, std::int64_t p = P) {
    const auto o = defaults();
    CHECK_EQ(bqq_decompose(weights().data(), M, N, N, p, &o, &q.p), BQQ_OK);
}

inline bqq_array array(float* data, std::int64_t rows, std::int64_t cols) {
    return {data, BQQ_F32, rows, cols, cols, 1};
}

inline bool error_has(const char* part) { return std::strstr(bqq_last_error(), part) != nullptr; }

#define CHECK_FAILS(call, status, part)                                                                                \
    do {                                                                                                               \
        CHECK_EQ((call), status);                                                                                      \
        if (!error_has(part))                                                                                          \
            check::fail(__FILE__, __LINE__, std::string("text lacks '") + part + "': " + bqq_last_error());            \
    } while (0)

inline bool same(const bqq_view& a, const bqq_view& b) {
    const auto bytes = [](std::int64_t n) { return std::size_t(n); };
    const std::int64_t blocks = a.J * a.K;
    return a.m == b.m && a.n == b.n && a.J == b.J && a.K == b.K && a.rows == b.rows && a.cols == b.cols && a.p == b.p &&
           a.l == b.l && !std::memcmp(a.y, b.y, bytes(blocks * a.p * a.rows * ((a.l + 7) / 8))) &&
           !std::memcmp(a.z, b.z, bytes(blocks * a.p * a.l * ((a.cols + 7) / 8))) &&
           !std::memcmp(a.scales, b.scales, bytes(blocks * (3 * a.p + 1) * 4));
}

} // namespace capi
