// bqq.Linear for ONNX Runtime: x (..., n) -> x W^T, (..., m), W compressed by bqq, on the threads of the session. The
// second input is a constant, the bytes of a file of bqq (cpp/FORMAT.md) with W alone in it, uint8.
#include "ort_table.hpp"
#include "weight.hpp"

#include <cstdio>
#include <thread>

namespace {

using namespace ort;

// Takes over a status of the runtime, whose text stays with it.
struct Refused {
    Status* status;
};
void try_(Status* status) {
    if (status) throw Refused{status};
}

template <class Body> Status* guarded(const Api& api, Body&& body) try {
    body();
    return nullptr;
} catch (const Refused& refused) {
    return refused.status;
} catch (const std::exception& error) {
    return api.error(kInvalidArgument, error.what());
}

// Up to 8 dimensions of a tensor.
struct Dims {
    std::int64_t length[8];
    std::size_t rank = 0;

    Dims(const Api& api, const Value* value) {
        Shape* shape = nullptr;
        try_(api.shape(value, &shape));
        Status* status = api.rank(shape, &rank);
        if (!status && rank <= 8) status = api.dims(shape, length, rank);
        api.release(shape);
        try_(status);
        if (rank < 1 || rank > 8) throw std::runtime_error("bqq: a tensor of " + std::to_string(rank) + " dimensions");
    }
    std::int64_t count() const {
        std::int64_t product = 1;
        for (std::size_t i = 0; i < rank; ++i) product *= length[i];
        return product;
    }
};

class Kernel {
  public:
    Kernel(const Api& api, const KernelInfo* info, bqq_dtype dtype) : api_(api), dtype_(dtype) {
        std::int64_t transposed = 0;
        try_(api.attribute(info, "transposed", &transposed));
        char precision[32] = "";
        std::size_t size = sizeof precision;
        try_(api.attribute(info, "precision", precision, &size));
        fast_ = std::string(precision) == "fast";
        if (!fast_ && std::string(precision) != "float32")
            throw std::runtime_error(std::string("bqq: precision is '") + precision + "', expected float32 or fast");

        int is_constant = 0;
        const Value* file = nullptr;
        try_(api.constant(info, 1, &is_constant, &file));
        if (!is_constant || !file) throw std::runtime_error("bqq: the weight of Linear is not an initializer");
        const auto count = std::size_t(Dims(api, file).count());
        weight_ = bqq_plugin::Weight(bqq_plugin::Source(bytes(file), count, transposed != 0));
    }

    Status* run(KernelContext* context) const {
        return guarded(api_, [&] { compute(context); });
    }

  private:
    void compute(KernelContext* context) const {
        const Value* x = nullptr;
        try_(api_.input(context, 0, &x));
        Dims dims(api_, x);
        const std::int64_t n = dims.length[dims.rank - 1], count = dims.count();
        if (n != weight_.n())
            throw std::runtime_error("bqq: x has " + std::to_string(n) +
                                     " as its last dimension, expected n = " + std::to_string(weight_.n()));
        dims.length[dims.rank - 1] = weight_.m();
        Value* out = nullptr;
        try_(api_.output(context, 0, dims.length, dims.rank, &out));
        bqq_plugin::Product product(weight_.prepared(), bqq_plugin::columns(bytes(x), dtype_, n, count / n),
                                    bqq_plugin::columns(bytes(out), dtype_, weight_.m(), count / n), weight_.block(),
                                    threads_, fast_ ? BQQ_PRECISION_FAST : BQQ_PRECISION_FLOAT32);
        if (product.parts() == 1)
            product.run(0);
        else if (product.parts() > 1)
            try_(api_.parallel_for(
                context,
                [](void* user, std::size_t part) { static_cast<bqq_plugin::Product*>(user)->run(std::int64_t(part)); },
                std::size_t(product.parts()), &product));
        product.finish();
    }

    unsigned char* bytes(const Value* value) const {
        void* data = nullptr;
        try_(api_.data(value, &data));
        return static_cast<unsigned char*>(data);
    }

    Api api_;
    bqq_dtype dtype_;
    bool fast_ = false;
    // The session does not say how many threads it has: as many parts as CPUs, which fewer threads share.
    int threads_ = int(std::max(1u, std::thread::hardware_concurrency()));
    bqq_plugin::Weight weight_;
};

// One operation for each type of x.
template <ElementType type> const CustomOp& operation() {
    static const CustomOp op = [] {
        CustomOp o{};
        o.version = kVersion;
        o.name = [](const CustomOp*) { return "Linear"; };
        o.provider = [](const CustomOp*) -> const char* { return nullptr; }; // the CPU
        o.input_type = [](const CustomOp*, std::size_t i) { return i == 0 ? type : kUint8; };
        o.input_count = [](const CustomOp*) -> std::size_t { return 2; };
        o.output_type = [](const CustomOp*, std::size_t) { return type; };
        o.output_count = [](const CustomOp*) -> std::size_t { return 1; };
        o.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
        o.input_characteristic = o.output_characteristic = o.input_memory = [](const CustomOp*, std::size_t) {
            return 0; // required; memory of the provider
        };
        for (auto& f : o.variadic) f = [](const CustomOp*) { return 1; };
        o.create_v2 = [](const CustomOp*, const Function* table, const KernelInfo* info, void** out) {
            const Api api(table);
            return guarded(api, [&] { *out = new Kernel(api, info, type == kFloat ? BQQ_F32 : BQQ_F16); });
        };
        o.compute_v2 = [](void* kernel, KernelContext* context) {
            return static_cast<const Kernel*>(kernel)->run(context);
        };
        o.start_version = [](const CustomOp*) { return 1; };
        o.end_version = [](const CustomOp*) { return 1; };
        return o;
    }();
    return op;
}

} // namespace

/// What SessionOptions.register_custom_ops_library calls.
extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(SessionOptions* options,
                                                                            const ApiBase* base) {
    const Function* table = base->get(kVersion);
    if (!table) {
        const Function* old = base->get(1);
        char text[100];
        std::snprintf(text, sizeof text, "bqq: ONNX Runtime %.40s, expected 1.17 or newer", base->version());
        return old ? Api(old).error(kFail, text) : nullptr;
    }
    const Api api(table);
    if (!api.self_test()) return api.error(kFail, "bqq: the interface of this ONNX Runtime is not the expected one");
    return guarded(api, [&] {
        OpDomain* domain = nullptr; // lives as long as the sessions: never released
        try_(api.make_domain("bqq", &domain));
        try_(api.add(domain, &operation<kFloat>()));
        try_(api.add(domain, &operation<kFloat16>()));
        try_(api.add(options, domain));
    });
}
