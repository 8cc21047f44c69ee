// decompose and extend on the device: all blocks that fit at once, behind the recipe of cpp/src/search.
#include "engine.cuh"

namespace bqq::cuda {
namespace {

using detail::bad_argument;

void check_matrix(const Layout& a, const float* W, Index ldw, cudaStream_t stream) {
    detail::check_leading("W", W, "ldw", ldw, a.n);
    Buffer<unsigned long long> first(1);
    check(find_invalid(W, a.m, a.n, ldw, detail::kMaxMagnitude, first.at(), stream), "find_invalid");
    const Index at = Index(first.get(1, stream)[0]);
    if (at == a.m * a.n) return;
    float value = 0;
    check(cudaMemcpyAsync(&value, W + at / a.n * ldw + at % a.n, sizeof value, cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    detail::bad_entry("W", at / a.n, at % a.n, value);
}

} // namespace

void decompose_within(const Limits& limits, const Task& task, const float* W, Index ldw,
                      const DecomposeOptions& options, const Result& out, cudaStream_t stream) {
    const Layout& a = task.layout;
    if (!out.Y || !out.Z || !out.scales) bad_argument("an array of the result is a null pointer");
    if (options.weight) throw Error(ErrorCode::unsupported, "weight is not supported on the GPU");
    if (options.outliers != 0 || options.order != Order::none)
        throw Error(ErrorCode::unsupported, "order and outliers are not supported on the GPU");
    if (std::max(a.rows, a.cols) > 1 << 15)
        throw Error(ErrorCode::unsupported, "blocks beyond 32768 on a side are not supported on the GPU");
    check_matrix(a, W, ldw, stream);
    const Index first = task.old ? task.old->layout.p : 0;
    detail::Progress progress(options.progress, a.blocks() * (a.p - first) * task.recipe.work());
    const detail::OnSteps on_steps = [&](Index steps) { progress.advance(steps, true); };
    const Job job{a, first, task.old, W, ldw, options.seed, stream, limits, on_steps};
    const Index most = std::clamp<Index>(Index(limits.memory / GpuEngine::bytes(a)), 1, 65535 / a.p);
    const Index rounds = (a.blocks() + most - 1) / most, room = (a.blocks() + rounds - 1) / rounds;
    GpuEngine engine(job, room);
    for (Index begin = 0; begin < a.blocks(); begin += room) {
        engine.open(begin, std::min(room, a.blocks() - begin));
        for (Index i = first; i < a.p; ++i) search_stack(engine, task.recipe, i, on_steps);
        engine.close(out);
    }
    progress.finish();
}

void decompose(const Layout& layout, const float* W, Index ldw, const DecomposeOptions& options, const Result& out,
               void* stream) {
    validate(layout);
    decompose_within(device_limits(), {layout, detail::make_recipe(options, layout)}, W, ldw, options, out,
                     static_cast<cudaStream_t>(stream));
}

void extend(const View& q, const Layout& layout, const float* W, Index ldw, const DecomposeOptions& options,
            const Result& out, void* stream) {
    Layout expected = q.layout;
    expected.p = layout.p;
    if (layout != expected || layout.p < q.layout.p)
        bad_argument("the layout is not that of q with p from " + std::to_string(q.layout.p) + " up");
    detail::check_plain(q);
    if (!q.Y || !q.Z || !q.scales) bad_argument("an array of q is a null pointer");
    validate(layout);
    decompose_within(device_limits(), {layout, detail::make_recipe(options, layout), &q}, W, ldw, options, out,
                     static_cast<cudaStream_t>(stream));
}

} // namespace bqq::cuda
