// BqqLinear: x (..., n) -> x W^T, (..., m), W compressed by bqq; for ov::Core::add_extension. Its second input is a
// constant, the bytes of a file of bqq (cpp/FORMAT.md) with W alone in it: u8, so that no pass over a model's weights
// rounds them.
#include "weight.hpp"

#include <openvino/core/parallel.hpp>
#include <openvino/frontend/onnx/extension/op.hpp>
#include <openvino/openvino.hpp>

#include <algorithm>

namespace {

class BqqLinear : public ov::op::Op {
  public:
    OPENVINO_OP("BqqLinear", "bqq")

    BqqLinear() = default;
    BqqLinear(const ov::OutputVector& inputs, const BqqLinear& as)
        : Op(inputs), transposed_(as.transposed_), precision_(as.precision_), prepared_(as.prepared_) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        NODE_VALIDATION_CHECK(this, get_input_size() == 2, "expected the inputs x, weight");
        NODE_VALIDATION_CHECK(this, precision_ == "float32" || precision_ == "fast", "precision is '", precision_,
                              "', expected float32 or fast");
        const auto type = get_input_element_type(0);
        NODE_VALIDATION_CHECK(this, type.is_dynamic() || type.is_real(), "x is ", type, ", expected a float type");
        prepare();
        const std::int64_t m = prepared_->weight.m(), n = prepared_->weight.n();
        auto shape = get_input_partial_shape(0);
        if (shape.rank().is_static()) {
            NODE_VALIDATION_CHECK(this, shape.size() >= 1 && shape[shape.size() - 1].compatible(n), "x is ", shape,
                                  ", expected (..., ", n, ")");
            shape[shape.size() - 1] = m;
        }
        set_output_type(0, type, shape);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<BqqLinear>(inputs, *this);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("transposed", transposed_);
        visitor.on_attribute("precision", precision_);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override try {
        const bqq_plugin::Weight& weight = prepared_->weight;
        const ov::Tensor& x = inputs[0];
        const ov::Shape &in = x.get_shape(), &out = outputs[0].get_shape();
        OPENVINO_ASSERT(!in.empty() && std::int64_t(in.back()) == weight.n(), "BqqLinear: x is ", in);
        const bool fits = out.size() == in.size() && out.back() == std::size_t(weight.m()) &&
                          std::equal(out.begin(), out.end() - 1, in.begin());
        if (!fits) { // a dynamic model, which gives the shape when it runs
            ov::Shape shape = in;
            shape.back() = std::size_t(weight.m());
            outputs[0].set_shape(shape);
        }
        bqq_plugin::Product product(weight.prepared(), array_of(x, weight.n()), array_of(outputs[0], weight.m()),
                                    weight.block(), parallel_get_max_threads(),
                                    precision_ == "fast" ? BQQ_PRECISION_FAST : BQQ_PRECISION_FLOAT32);
        if (product.parts() == 1)
            product.run(0);
        else if (product.parts() > 1)
            ov::parallel_nt_static(int(product.parts()), [&](int part, int) { product.run(part); });
        product.finish();
        return true;
    } catch (...) {
        // An executor of one thread loses exceptions (seen with 2026.4): nobody shall take what lies there for a
        // result.
        std::memset(outputs[0].data(), 0xff, outputs[0].get_byte_size()); // NaN in every float type
        throw;
    }

  private:
    using Constant = ov::op::v0::Constant;

    // What the constant says, for all clones and streams.
    struct Prepared {
        std::shared_ptr<const Constant> constant;
        bqq_plugin::Weight weight;
    };

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

    // Checked and brought into the order of the kernels when a model is read; its clones have the same bytes.
    void prepare() {
        const auto file = ov::as_type_ptr<Constant>(get_input_node_shared_ptr(1));
        NODE_VALIDATION_CHECK(this, file && file->get_element_type() == ov::element::u8,
                              "the weight is not a constant of u8");
        if (prepared_ && prepared_->constant->get_data_ptr() == file->get_data_ptr()) return;
        const bqq_plugin::Source source(file->get_data_ptr(), file->get_byte_size(), transposed_ != 0);
        prepared_ = std::make_shared<Prepared>(Prepared{file, bqq_plugin::Weight(source)});
    }

    std::int64_t transposed_ = 0;
    std::string precision_ = "float32";
    std::shared_ptr<const Prepared> prepared_;
};

} // namespace

OPENVINO_CREATE_EXTENSIONS(
    std::vector<ov::Extension::Ptr>({std::make_shared<ov::OpExtension<BqqLinear>>(),
                                     std::make_shared<ov::frontend::onnx::OpExtension<BqqLinear>>("Linear", "bqq")}));
