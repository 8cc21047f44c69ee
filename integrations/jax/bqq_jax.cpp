// The product of bqq as a foreign function of XLA, on XLA's own threads.
#include "weight.hpp"

#include <xla/ffi/api/ffi.h>

#include <atomic>
#include <condition_variable>

namespace ffi = xla::ffi;

namespace {

// Tasks [0, count) on the caller and on whoever of the pool comes in time. The caller never waits for a task that
// nobody has begun, so it may itself be a thread of a pool that is busy.
template <class Body> void share(ffi::ThreadPool& pool, std::int64_t count, Body& body) {
    struct State {
        std::atomic<std::int64_t> next{0}, done{0};
        std::mutex mutex;
        std::condition_variable all;
    };
    const auto state = std::make_shared<State>();
    const auto work = [state, count, &body] {
        for (std::int64_t i; (i = state->next++) < count;) {
            body(i); // nobody is here after the last task is done: `body` is there
            if (++state->done == count) {
                const std::lock_guard<std::mutex> lock(state->mutex);
                state->all.notify_all();
            }
        }
    };
    for (std::int64_t i = 1; i < count; ++i) pool.Schedule(std::decay_t<decltype(work)>(work));
    work();
    std::unique_lock<std::mutex> lock(state->mutex);
    state->all.wait(lock, [&] { return state->done == count; });
}

bqq_dtype dtype_of(ffi::DataType type) {
    switch (type) {
    case ffi::F32:
        return BQQ_F32;
    case ffi::F16:
        return BQQ_F16;
    case ffi::BF16:
        return BQQ_BF16;
    case ffi::F64:
        return BQQ_F64;
    default:
        throw std::runtime_error("bqq: x must be float32, float16, bfloat16 or float64");
    }
}

bqq_array array_of(const ffi::AnyBuffer& a) {
    const auto shape = a.dimensions();
    if (shape.size() == 0) throw std::runtime_error("bqq: x has no axis");
    const std::int64_t length = shape.back();
    return bqq_plugin::columns(a.untyped_data(), dtype_of(a.element_type()), length,
                               length ? std::int64_t(a.element_count()) / length : 0);
}

ffi::Error product(ffi::ThreadPool pool, ffi::Buffer<ffi::U8> prepared, ffi::AnyBuffer x,
                   ffi::Result<ffi::AnyBuffer> out, std::int64_t size, std::int64_t block, std::int64_t precision) try {
    const void* weight = prepared.typed_data();
    if (std::int64_t(prepared.element_count()) != size)
        throw std::runtime_error("bqq: the weight has " + std::to_string(prepared.element_count()) +
                                 " bytes, expected " + std::to_string(size));
    if (reinterpret_cast<std::uintptr_t>(weight) % 64)
        throw std::runtime_error("bqq: the weight is not 64-byte aligned");
    bqq_plugin::Product parts(weight, array_of(x), array_of(*out), block, int(pool.num_threads()),
                              bqq_precision(precision));
    const auto run = [&](std::int64_t part) { parts.run(part); };
    share(pool, parts.parts(), run);
    parts.finish();
    return ffi::Error::Success();
} catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
}

} // namespace

#define BQQ_PLUGIN extern "C" __attribute__((visibility("default")))

BQQ_PLUGIN XLA_FFI_Error* bqq_jax_product(XLA_FFI_CallFrame* frame) {
    static const auto* handler = ffi::Ffi::Bind()
                                     .Ctx<ffi::ThreadPool>()
                                     .Arg<ffi::Buffer<ffi::U8>>()
                                     .Arg<ffi::AnyBuffer>()
                                     .Ret<ffi::AnyBuffer>()
                                     .Attr<std::int64_t>("size")
                                     .Attr<std::int64_t>("block")
                                     .Attr<std::int64_t>("precision")
                                     .To(product)
                                     .release();
    return handler->Call(frame);
}

// For ctypes. file: the bytes of a file of bqq with one matrix in it. buffer NULL: *size becomes the bytes it must
// have, *block the rows between the best places to cut. Returns NULL, or what is wrong, valid until this thread's next
// call.
BQQ_PLUGIN const char* bqq_jax_prepare(const void* file, std::size_t file_size, int transposed, void* buffer,
                                       std::size_t* size, std::int64_t* block) try {
    const bqq_plugin::Source source(file, file_size, transposed != 0);
    if (buffer)
        source.prepare(buffer, *size);
    else
        *size = source.prepared_size(), *block = source.block();
    return nullptr;
} catch (const std::exception& error) {
    static thread_local char text[1100];
    std::strncpy(text, error.what(), sizeof text - 1);
    return text;
}
