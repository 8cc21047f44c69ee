// Runs a net on one blob: run_net NET.param NET.bin THREADS DIMS... < float32 > float32
// The blob "x", DIMS from the outermost to the row length, goes in, "out" comes out.
#include "bqq_ncnn.hpp"

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
    if (argc < 5 || argc > 7) {
        std::fprintf(stderr, "usage: run_net NET.param NET.bin THREADS [C [H]] W < x > out\n");
        return 2;
    }
    int dims[3] = {1, 1, 1};
    const int rank = argc - 4;
    for (int i = 0; i < rank; ++i) dims[3 - rank + i] = std::atoi(argv[4 + i]);

    ncnn::Net net;
    net.opt.num_threads = std::atoi(argv[3]);
    if (bqq_ncnn::register_layer(net) || net.load_param(argv[1]) || net.load_model(argv[2])) return 1;
    ncnn::Mat x = rank == 1   ? ncnn::Mat(dims[2])
                  : rank == 2 ? ncnn::Mat(dims[2], dims[1])
                              : ncnn::Mat(dims[2], dims[1], dims[0]);
    const auto length = std::size_t(dims[1]) * std::size_t(dims[2]);
    for (int c = 0; c < dims[0]; ++c)
        if (std::fread(x.channel(c), sizeof(float), length, stdin) != length) return 2;

    for (int i = 0; i < 2; ++i) { // the second time nothing is new
        ncnn::Extractor run = net.create_extractor();
        ncnn::Mat out;
        if (run.input("x", x) || run.extract("out", out)) return 1;
        if (i)
            for (int c = 0; c < out.c; ++c)
                std::fwrite(out.channel(c), sizeof(float), std::size_t(out.w) * std::size_t(out.h), stdout);
    }
    return 0;
}
