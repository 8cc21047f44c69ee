// decompose -> save -> open -> prepare -> matmul in C++17, against reconstruct. Prints "ok".
#include <bqq/bqq.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

void expect(bool condition, const char* what) {
    if (!condition) throw std::runtime_error(what);
}

struct Buffer {
    std::vector<unsigned char> storage;
    explicit Buffer(std::size_t size) : storage(size + 63) {}
    void* data() {
        return reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(storage.data()) + 63) & ~std::uintptr_t(63));
    }
};

void use(const std::string& path) {
    constexpr int m = 40, n = 24, batch = 3;
    std::vector<float> W(m * n), What(m * n), X(n * batch), Y(m * batch), Y_rows(m * batch);
    double norm = 0;
    for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) {
            W[i * n + j] = float((7 * i * i + 3 * i * j + 11 * j) % 17) - 8;
            norm += double(W[i * n + j]) * W[i * n + j];
        }
    for (int i = 0; i < n * batch; ++i) X[i] = float(i % 7) - 3;

    bool finished = false;
    bqq::DecomposeOptions options;
    options.steps = 300;
    options.progress = [&](bqq::Index done, bqq::Index total) {
        finished = done == total;
        return true;
    };
    const bqq::Matrix q = bqq::decompose(W.data(), m, n, n, 3, options);
    expect(finished, "progress ends with done == total");
    expect(q.layout == bqq::make_layout(m, n, 3), "the layout is make_layout's");
    expect(bqq::squared_error(q.view(), W.data(), n) < 0.5 * norm, "the error is small");

    bqq::SaveOptions save_options;
    save_options.metadata = {{"format", "pt"}};
    bqq::save(path, {{"layer", q.view()}}, {}, save_options);
    expect(bqq::File::read(path).metadata() == save_options.metadata, "metadata come back");
    std::vector<unsigned char> moved;
    {
        const bqq::File file = bqq::File::open(path);
        expect(file.matrices().size() == 1, "one matrix");
        const bqq::View view = file.matrix("layer");
        bqq::validate(view);
        bqq::reconstruct(view, What.data(), n);
        Buffer prepared(bqq::prepared_size(view));
        bqq::prepare(view, prepared.data(), bqq::prepared_size(view));
        const auto* bytes = static_cast<const unsigned char*>(prepared.data());
        moved.assign(bytes, bytes + bqq::prepared_size(view));
    }
    std::remove(path.c_str());
    Buffer prepared(moved.size()); // a prepared matrix is relocatable
    std::copy(moved.begin(), moved.end(), static_cast<unsigned char*>(prepared.data()));

    const bqq::ConstArray x{X.data(), bqq::Dtype::f32, n, batch, batch, 1};
    bqq::matmul(prepared.data(), x, {Y.data(), bqq::Dtype::f32, m, batch, batch, 1});
    for (int k = 0; k < batch; ++k) {
        double difference = 0, length = 0;
        for (int i = 0; i < m; ++i) {
            double sum = 0;
            for (int j = 0; j < n; ++j) sum += double(What[i * n + j]) * X[j * batch + k];
            difference += (sum - Y[i * batch + k]) * (sum - Y[i * batch + k]);
            length += sum * sum;
        }
        expect(std::sqrt(difference) <= 1e-4 * std::sqrt(length), "matmul agrees with reconstruct");
    }
    Buffer space(bqq::workspace_size(prepared.data(), batch));
    const bqq::Array out{Y_rows.data(), bqq::Dtype::f32, m, batch, batch, 1};
    bqq::matmul_rows(prepared.data(), x, out, 0, 13, space.data());
    bqq::matmul_rows(prepared.data(), x, out, 13, m, space.data());
    expect(Y == Y_rows, "row ranges give the whole product");

    // The exception type must be the same on both sides of the library's border.
    try {
        bqq::File::open("no such file");
        expect(false, "a missing file throws");
    } catch (const bqq::Error& e) {
        expect(e.code() == bqq::ErrorCode::io && *e.what(), "a missing file is an io error");
    }
}

} // namespace

int main(int argc, char** argv) try {
    use(argc > 1 ? argv[1] : "consumer_cpp.safetensors");
    std::puts("ok");
} catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
