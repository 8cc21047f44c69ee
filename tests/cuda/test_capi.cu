// The C interface on the device: a round through every function, and errors with their texts.
#include "bqq/bqq_cuda.h"
#include "check.hpp"
#include "device.hpp"
#include "reference.hpp"

#include <cstring>

namespace {

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        const bqq_status status = (call);                                                                              \
        if (status != BQQ_OK) check::fail(__FILE__, __LINE__, std::string(#call ": ") + bqq_last_error());             \
    } while (0)

#define FAILS(call, expected, part)                                                                                    \
    do {                                                                                                               \
        CHECK_EQ((call), expected);                                                                                    \
        if (!std::strstr(bqq_last_error(), part)) check::fail(__FILE__, __LINE__, bqq_last_error());                   \
    } while (0)

struct Arrays {
    device::Array<std::uint8_t> y, z;
    device::Array<float> scales;
    explicit Arrays(bqq_view& v)
        : y(std::size_t(v.J * v.K * v.p * v.rows * ((v.l + 7) / 8))),
          z(std::size_t(v.J * v.K * v.p * v.l * ((v.cols + 7) / 8))), scales(std::size_t(v.J * v.K * (3 * v.p + 1))) {
        v.y = y.at(), v.z = z.at(), v.scales = scales.at();
    }
};

} // namespace

TEST(from_a_matrix_to_a_product) {
    int count = 0;
    OK(bqq_cuda_devices(&count));
    CHECK(count > 0);
    const std::int64_t m = 9, n = 13;
    const reference::Mat W = reference::random(m, n, 1, -1, 1);
    const device::Array<float> w(std::vector<float>(W.v.begin(), W.v.end()));
    bqq_decompose_options options{};
    options.struct_size = sizeof options;
    options.steps = 10, options.refine = 2, options.patch = 8, options.l = 4;

    bqq_view one = BQQ_VIEW_INIT, two = BQQ_VIEW_INIT;
    OK(bqq_cuda_layout(m, n, 1, &options, &one));
    CHECK_EQ(one.rows, 5);
    CHECK_EQ(one.cols, 7);
    CHECK(one.y == nullptr);
    OK(bqq_cuda_layout(m, n, 2, &options, &two));
    const Arrays of_one(one), of_two(two);
    OK(bqq_cuda_decompose(w.at(), n, &options, &one, nullptr));
    OK(bqq_cuda_extend(&one, w.at(), n, &options, &two, nullptr));

    bqq::Matrix q(bqq::make_layout(m, n, 2, 4, 8));
    q.Y = of_two.y.get(), q.Z = of_two.z.get(), q.scales = of_two.scales.get();
    const reference::Mat what = reference::dense(q.view());
    std::size_t size = 0, work = 0;
    OK(bqq_cuda_prepared_size(&two, 0, &size));
    OK(bqq_cuda_workspace_size(&two, 0, 1, &work));
    const device::Array<unsigned char> prepared(size), workspace(work);
    const bqq_cuda_buffer room = {workspace.at(), work};
    OK(bqq_cuda_prepare(&two, 0, prepared.at(), size, nullptr));
    const device::Array<float> x(std::vector<float>(std::size_t(n), 1.0f)), y(static_cast<std::size_t>(m));
    const bqq_array in{x.at(), BQQ_F32, n, 1, 1, 1}, out{y.at(), BQQ_F32, m, 1, 1, 1};
    bqq_view sizes = two;
    sizes.y = nullptr, sizes.z = nullptr, sizes.scales = nullptr;
    OK(bqq_cuda_matmul(&sizes, 0, prepared.at(), &in, &out, nullptr, &room, nullptr));
    const auto got = y.get();
    for (std::int64_t i = 0; i < m; ++i) CHECK_NEAR(got[std::size_t(i)], reference::row_sum(what, i), 1e-5);

    FAILS(bqq_cuda_matmul(&sizes, 1, prepared.at(), &in, &out, nullptr, &room, nullptr), BQQ_INVALID_ARGUMENT,
          "X is 13 x 1, expected 9 rows");
    FAILS(bqq_cuda_prepare(&two, 0, prepared.at(), size - 1, nullptr), BQQ_INVALID_ARGUMENT, "buffer has");
    FAILS(bqq_cuda_extend(&two, w.at(), n, &options, &one, nullptr), BQQ_INVALID_ARGUMENT, "p from 2 up");
    options.progress = [](std::int64_t, std::int64_t, void*) { return 1; };
    FAILS(bqq_cuda_decompose(w.at(), n, &options, &one, nullptr), BQQ_CANCELLED, "stopped by the progress callback");
}

TEST(null_pointers_and_sizes_are_named) {
    bqq_view view = BQQ_VIEW_INIT;
    FAILS(bqq_cuda_devices(nullptr), BQQ_INVALID_ARGUMENT, "count is NULL");
    FAILS(bqq_cuda_layout(0, 3, 1, nullptr, &view), BQQ_INVALID_ARGUMENT, "m is 0");
    OK(bqq_cuda_layout(4, 3, 1, nullptr, &view));
    float w = 0;
    FAILS(bqq_cuda_decompose(&w, 3, nullptr, &view, nullptr), BQQ_INVALID_ARGUMENT, "view.y is NULL");
    FAILS(bqq_cuda_decompose(nullptr, 3, nullptr, &view, nullptr), BQQ_INVALID_ARGUMENT, "w is NULL");
    view.rows = 3;
    std::size_t size = 0;
    FAILS(bqq_cuda_prepared_size(&view, 0, &size), BQQ_FORMAT, "the grid does not fit");
    view.struct_size = 8;
    FAILS(bqq_cuda_prepared_size(&view, 0, &size), BQQ_INVALID_ARGUMENT, "bqq_view.struct_size is 8");
}
