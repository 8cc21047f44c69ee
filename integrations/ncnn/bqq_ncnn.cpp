// Parameters of BqqLinear: 0: bytes of the file; 1: m; 2: n; 3: 1 for the fast class; 4: 1 if a bias follows. Weights:
// a file of bqq with one matrix in it, m x n, filled up to a multiple of 4 bytes, then the bias, float32.
#include "bqq_ncnn.hpp"

#include "weight.hpp"

namespace {

class BqqLinear : public ncnn::Layer {
  public:
    BqqLinear() {
        one_blob_only = true;
        support_inplace = false;
    }

    int load_param(const ncnn::ParamDict& pd) override {
        size_ = pd.get(0, 0), m_ = pd.get(1, 0), n_ = pd.get(2, 0);
        fast_ = pd.get(3, 0) != 0, biased_ = pd.get(4, 0) != 0;
        return size_ > 0 && m_ > 0 && n_ > 0 ? 0 : -1;
    }

    int load_model(const ncnn::ModelBin& bin) override try {
        const ncnn::Mat file = bin.load(size_ / 4 + (size_ % 4 != 0), 1);
        if (file.empty()) return -100;
        const bqq_plugin::Source source(file.data, std::size_t(size_), false);
        if (source.m() != m_ || source.n() != n_) {
            std::fprintf(stderr, "bqq: a matrix of %lld x %lld, expected %d x %d\n", static_cast<long long>(source.m()),
                         static_cast<long long>(source.n()), m_, n_);
            return -1;
        }
        weight_ = bqq_plugin::Weight(source);
        if (biased_) bias_ = bin.load(m_, 1);
        return biased_ && bias_.empty() ? -100 : 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return -1;
    }

    int forward(const ncnn::Mat& x, ncnn::Mat& out, const ncnn::Option& opt) const override try {
        if (x.w != n_ || x.dims > 3) {
            std::fprintf(stderr, "bqq: a blob of %d dimensions with rows of %d, expected rows of %d\n", x.dims, x.w,
                         n_);
            return -1;
        }
        if (x.dims == 1) out.create(m_, 4u, opt.blob_allocator);
        if (x.dims == 2) out.create(m_, x.h, 4u, opt.blob_allocator);
        if (x.dims == 3) out.create(m_, x.h, x.c, 4u, opt.blob_allocator);
        if (out.empty()) return -100;
        for (int c = 0; c < x.c; ++c) {
            ncnn::Mat rows = out.channel(c);
            multiply(x.channel(c), rows, x.h, opt.num_threads);
        }
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return -1;
    }

  private:
    void multiply(const float* x, float* out, int rows, int threads) const {
        bqq_plugin::Product product(weight_.prepared(), bqq_plugin::columns(x, BQQ_F32, n_, rows),
                                    bqq_plugin::columns(out, BQQ_F32, m_, rows), weight_.block(), threads,
                                    fast_ ? BQQ_PRECISION_FAST : BQQ_PRECISION_FLOAT32);
        const auto parts = int(product.parts());
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) if (parts > 1)
#endif
        for (int part = 0; part < parts; ++part) product.run(part);
        product.finish();
        if (!biased_) return;
        const float* bias = bias_;
        for (int i = 0; i < rows; ++i)
            for (int j = 0; j < m_; ++j) out[std::int64_t(i) * m_ + j] += bias[j];
    }

    int size_ = 0, m_ = 0, n_ = 0;
    bool fast_ = false, biased_ = false;
    bqq_plugin::Weight weight_;
    ncnn::Mat bias_;
};

DEFINE_LAYER_CREATOR(BqqLinear)
DEFINE_LAYER_DESTROYER(BqqLinear)

} // namespace

int bqq_ncnn::register_layer(ncnn::Net& net) {
    return net.register_custom_layer("BqqLinear", BqqLinear_layer_creator, BqqLinear_layer_destroyer);
}
