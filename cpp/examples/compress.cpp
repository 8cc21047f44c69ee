// Compresses a matrix, stack by stack, until its relative error is small enough, and saves it.
//
//   compress out.safetensors [relative error, 0.25]
#include <bqq/bqq.hpp>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

int main(int argc, char** argv) try {
    if (argc < 2) {
        std::fprintf(stderr, "usage: compress out.safetensors [relative error]\n");
        return 2;
    }
    const double goal = argc > 2 ? std::atof(argv[2]) : 0.25;

    // Something to compress: a matrix of low rank and some noise.
    const bqq::Index m = 96, n = 64, rank = 8;
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    std::vector<float> A(m * rank), B(rank * n), W(m * n);
    for (auto& a : A) a = normal(engine);
    for (auto& b : B) b = normal(engine);
    for (bqq::Index i = 0; i < m; ++i)
        for (bqq::Index j = 0; j < n; ++j) {
            float sum = 0.3f * normal(engine);
            for (bqq::Index r = 0; r < rank; ++r) sum += A[i * rank + r] * B[r * n + j];
            W[i * n + j] = sum;
        }
    double norm = 0;
    for (const float w : W) norm += double(w) * w;

    bqq::DecomposeOptions options;
    options.steps = 500; // fewer than by default: this is an example
    bqq::Matrix q = bqq::decompose(W.data(), m, n, n, 1, options);
    for (;;) {
        const double error = std::sqrt(bqq::squared_error(q.view(), W.data(), n) / norm);
        std::printf("p = %d: relative error %.3f at %.2f bits per weight\n", int(q.layout.p), error,
                    q.layout.bits_per_weight());
        if (error <= goal || q.layout.p == 8) break;
        // The stacks there are stay; only the scales are solved again.
        q = bqq::extend(q.view(), W.data(), n, q.layout.p + 1, options);
    }

    bqq::SaveOptions save;
    save.metadata = {{"made by", "compress"}};
    bqq::save(argv[1], {{"weight", q.view()}}, {}, save);
    std::printf("%s: %.1f kB instead of %.1f kB\n", argv[1], double(q.layout.nbytes()) / 1e3, double(4 * m * n) / 1e3);
} catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
