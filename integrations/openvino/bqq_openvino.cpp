// BqqLinear: x (..., n) -> x W^T, (..., m), W compressed by bqq; for ov::Core::add_extension. Its inputs are x and
// three constants, the planes of W as they stand in a file (cpp/FORMAT.md): y, z (u8) and the bytes of the float32
// scales (u8, so that no pass over a model's weights rounds them).
#include "weight.hpp"

#include <openvino/core/parallel.hpp>
#include <openvino/frontend/onnx/extension/op.hpp>
#include <openvino/openvino.hpp>

#include <atomic>

namespace {

class BqqLinear : public ov::op::Op {
  public:
    OPENVINO_OP("BqqLinear", "bqq")

    BqqLinear() = default;
    BqqLinear(const ov::OutputVector& inputs, std::int64_t m, std::int64_t n, std::int64_t transposed,
              std::string precision)
        : Op(inputs), m_(m), n_(n), transposed_(transposed), precision_(std::move(precision)) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        NODE_VALIDATION_CHECK(this, get_input_size() == 4, "expected the inputs x, y, z, scales");
        NODE_VALIDATION_CHECK(this, precision_ == "float32" || precision_ == "fast", "precision is '", precision_,
                              "', expected float32 or fast");
        const auto type = get_input_element_type(0);
        NODE_VALIDATION_CHECK(this, type.is_dynamic() || type.is_real(), "x is ", type, ", expected a float type");
        for (std::size_t i = 1; i < 4; ++i)
            NODE_VALIDATION_CHECK(this, get_input_element_type(i).compatible(ov::element::u8), "input ", i,
                                  " is not u8");
        auto shape = get_input_partial_shape(0);
        if (shape.rank().is_static()) {
            NODE_VALIDATION_CHECK(this, shape.size() >= 1 && shape[shape.size() - 1].compatible(inputs()), "x is ",
                                  shape, ", expected (..., ", inputs(), ")");
            shape[shape.size() - 1] = transposed_ ? n_ : m_;
        }
        set_output_type(0, type, shape);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<BqqLinear>(inputs, m_, n_, transposed_, precision_);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("m", m_);
        visitor.on_attribute("n", n_);
        visitor.on_attribute("transposed", transposed_);
        visitor.on_attribute("precision", precision_);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const bqq_plugin::Weight& weight = prepared(inputs);
        const ov::Tensor& x = inputs[0];
        ov::Shape shape = x.get_shape();
        shape.back() = std::size_t(weight.m());
        outputs[0].set_shape(shape);
        bqq_plugin::Product product(weight.prepared(), array_of(x, weight.n()), array_of(outputs[0], weight.m()),
                                    weight.block(), parallel_get_max_threads(),
                                    precision_ == "fast" ? BQQ_PRECISION_FAST : BQQ_PRECISION_FLOAT32);
        if (product.parts() == 1)
            product.run(0);
        else if (product.parts() > 1)
            ov::parallel_nt_static(int(product.parts()), [&](int part, int) { product.run(part); });
        product.finish();
        return true;
    }

  private:
    // What the first inference makes of the constants, for all streams.
    struct Prepared {
        std::atomic<bool> ready{false};
        std::mutex mutex;
        bqq_plugin::Weight weight;
    };

    std::int64_t inputs() const { return transposed_ ? m_ : n_; }

    static bqq_array array_of(const ov::Tensor& a, std::int64_t length) {
        bqq_dtype dtype = BQQ_F32;
        switch (a.get_element_type()) {
        case ov::element::Type_t::f32:
            break;
        case ov::element::Type_t::f16:
            dtype = BQQ_F16;
            break;
        case ov::element::Type_t::bf16:
            dtype = BQQ_BF16;
            break;
        case ov::element::Type_t::f64:
            dtype = BQQ_F64;
            break;
        default:
            OPENVINO_THROW("BqqLinear: a tensor of ", a.get_element_type());
        }
        return bqq_plugin::columns(a.data(), dtype, length, std::int64_t(a.get_size()) / length);
    }

    const bqq_plugin::Weight& prepared(const ov::TensorVector& inputs) const {
        if (prepared_->ready.load(std::memory_order_acquire)) return prepared_->weight;
        const std::lock_guard<std::mutex> lock(prepared_->mutex);
        if (!prepared_->ready) {
            bqq_plugin::Planes planes{};
            const auto copy = [](const ov::Tensor& a, std::int64_t* shape) {
                OPENVINO_ASSERT(a.get_shape().size() == 5, "BqqLinear: planes of shape ", a.get_shape());
                for (const std::size_t length : a.get_shape()) *shape++ = std::int64_t(length);
                return static_cast<const std::uint8_t*>(a.data());
            };
            planes.y = copy(inputs[1], planes.y_shape);
            planes.z = copy(inputs[2], planes.z_shape);
            planes.scale_count = std::int64_t(inputs[3].get_byte_size() / sizeof(float));
            std::vector<float> scales(std::size_t(planes.scale_count));
            std::memcpy(scales.data(), inputs[3].data(), scales.size() * sizeof(float));
            planes.scales = scales.data();
            prepared_->weight = bqq_plugin::Weight(bqq_plugin::view_of(planes, m_, n_), transposed_ != 0);
            prepared_->ready.store(true, std::memory_order_release);
        }
        return prepared_->weight;
    }

    std::int64_t m_ = 0, n_ = 0;
    std::int64_t transposed_ = 0;
    std::string precision_ = "float32";
    std::shared_ptr<Prepared> prepared_ = std::make_shared<Prepared>();
};

} // namespace

OPENVINO_CREATE_EXTENSIONS(
    std::vector<ov::Extension::Ptr>({std::make_shared<ov::OpExtension<BqqLinear>>(),
                                     std::make_shared<ov::frontend::onnx::OpExtension<BqqLinear>>("Linear", "bqq")}));
