// The C interface, called in any order with any numbers. Only what its contract asks of a caller is kept: pointers are
// NULL or reach as far as the sizes say.
#include "calls.hpp"

#include <unistd.h>

#include <cmath>
#include <memory>
#include <optional>

namespace {

using fuzz::Bytes;
using fuzz::cancel;
using fuzz::good;
using fuzz::promise;
using fuzz::Record;
using Wide = __int128;

constexpr std::int64_t kSide = 20, kBytes = 1 << 14; // of matrices that are searched for; of arrays that are handed in

struct Free {
    void operator()(bqq_matrix* q) const { bqq_matrix_free(q); }
};
using Owner = std::unique_ptr<bqq_matrix, Free>;

// Options that end in time: what counts steps is small or wrong, a weight has as many numbers as it must.
struct Search {
    Record<bqq_decompose_options> record;
    std::vector<float> weight;
    int reports;

    Search(Bytes& in, std::int64_t n) : record(in, !in.often()), reports(int(in.within(0, 100))) {
        if (!record.whole()) return;
        bqq_decompose_options& o = *record.get();
        const auto bound = [](std::int64_t x, std::int64_t most) {
            return x > 0 ? x % most : std::max<std::int64_t>(x, -3);
        };
        o.l = in.often() ? in.within(0, 9) : in.number();
        o.patch = in.often() ? in.within(0, 24) : in.number();
        o.steps = bound(in.number(), 12);
        if (o.steps == 0) o.steps = 3; // the default would take long
        o.refine = bound(in.number(), 6);
        if (o.refine == 0 || o.refine == -2) o.refine = 1;
        o.l = o.l > 100 && o.l < 70000 ? o.l % 100 : o.l; // time, again
        if (in.often()) o.schedule = 0, o.effort = int(in.within(0, 2)), o.reserved = 0;
        if (o.effort == BQQ_EFFORT_BEST) o.steps = 1;
        o.threads = in.often() ? 1 : int(in.within(-1, 2));
        o.progress = in.often() ? nullptr : cancel;
        o.user = &reports;
        o.weight = nullptr, o.ldweight = in.often() ? 0 : std::min<std::int64_t>(in.number(), n + 5);
        if (in.often() || n > kSide) return;
        const bool tame = in.often();
        weight = in.reals(std::size_t(std::max<std::int64_t>(o.ldweight, 1) * n), tame);
        o.weight = weight.data();
        o.damping = in.often() ? 0 : double(in.real(false));
    }
    // Short structures leave the defaults, which search for long: few inputs do it.
    bool takes_long() const { return !record.whole() && record.legal() && reports != 100; }
};

// A strided array within exact memory, if its shape has any.
struct Strided {
    bqq_array array{};
    std::vector<std::uint8_t> memory;
    bool inside = true; // all its elements are

    Strided(Bytes& in, std::int64_t rows, std::int64_t cols) {
        array.dtype = in.often() ? std::int32_t(in.within(0, 3)) : in.take<std::int32_t>();
        array.rows = in.often() ? rows : in.number();
        array.cols = in.often() ? cols : in.number();
        array.row_stride = in.often() ? array.cols : in.number() - 4;
        array.col_stride = in.often() ? 1 : in.number() - 4;
        const double item = array.dtype == BQQ_F64 ? 8 : array.dtype == BQQ_F32 ? 4 : 2;
        double low = 0, high = item; // exact where they matter
        if (array.rows > 0 && array.cols > 0) {
            const double reaches[] = {double(array.rows - 1) * double(array.row_stride),
                                      double(array.cols - 1) * double(array.col_stride)};
            for (const double reach : reaches) (reach < 0 ? low : high) += reach * item;
        }
        inside = high - low <= double(kBytes);
        memory.resize(inside ? std::size_t(high - low) : 8);
        const std::vector<float> values = in.reals(memory.size() / 16, in.often());
        std::copy_n(reinterpret_cast<const std::uint8_t*>(values.data()), 4 * values.size(), memory.data());
        array.data = memory.data() + (inside ? std::ptrdiff_t(-low) : 0);
        if (!in.often()) array.data = nullptr;
    }
    // May be handed to a call that reads rows x cols of it.
    bool legal(std::int64_t rows, std::int64_t cols) const {
        return inside || array.rows != rows || array.cols != cols || !array.data;
    }
};

struct Aligned {
    std::vector<std::uint8_t> storage;
    void* data;
    explicit Aligned(std::size_t size) : storage(size + 64) {
        void* at = storage.data();
        std::size_t room = storage.size();
        data = std::align(64, size, at, room);
    }
};

class Session {
  public:
    explicit Session(const std::uint8_t* data, std::size_t size) : in_(data, size) {}

    void run() {
        for (int call = 0; call < 12 && !in_.empty(); ++call) step();
    }

  private:
    void step() {
        switch (in_.take<std::uint8_t>() % 12) {
        case 0:
        case 1:
            return decompose();
        case 2:
            return extend();
        case 3:
            return encode();
        case 4:
            return forms();
        case 5:
            return dense();
        case 6:
        case 7:
            return product();
        case 8:
            return hostile_view();
        case 9:
            return layout();
        case 10:
            return texts();
        default:
            return files();
        }
    }

    // *out of a call that makes a matrix: kept if it did.
    void keep(bqq_status status, bqq_matrix* out) {
        Owner made(out);
        promise(good(status) == bool(made), "a matrix is there if the call went well, else NULL");
        if (made) matrices_.push_back(std::move(made));
        if (matrices_.size() > 4) matrices_.erase(matrices_.begin());
    }

    bqq_view view(const bqq_matrix* q) {
        bqq_view v = BQQ_VIEW_INIT;
        promise(good(bqq_matrix_view(q, &v)), "a matrix has a view");
        promise(good(bqq_validate(&v)), "what the library made is valid");
        return v;
    }
    // One of those made, or none.
    std::optional<bqq_view> any() {
        if (matrices_.empty()) decompose();
        if (matrices_.empty()) return {};
        return view(matrices_[std::size_t(in_.within(0, 3)) % matrices_.size()].get());
    }

    void decompose() {
        const std::int64_t m = in_.within(in_.often(), kSide), n = in_.within(in_.often(), kSide);
        const std::int64_t ld = in_.often() ? n : n + in_.within(-2, 3);
        const bool tame = in_.often();
        const std::vector<float> W = in_.reals(std::size_t(m * std::max(ld, n) + 1), tame);
        Search options(in_, n);
        const bool plain = !options.record.whole() || !options.record->weight;
        const std::int64_t p = in_.often() ? in_.within(1, 3) : in_.number();
        if (options.takes_long() || (p > 3 && p <= 64)) return;
        auto* out = reinterpret_cast<bqq_matrix*>(&in_);
        const bqq_status status = bqq_decompose(W.data(), m, n, ld, p, options.record.get(), &out);
        keep(status, out);
        if (status == BQQ_OK && plain && tame) no_worse_than_the_mean(W, m, n, ld);
    }

    void no_worse_than_the_mean(const std::vector<float>& W, std::int64_t m, std::int64_t n, std::int64_t ld) {
        const bqq_view v = view(matrices_.back().get());
        double error = 0, sum = 0, squares = 0;
        promise(good(bqq_squared_error(&v, W.data(), ld, 1, &error)), "the error of a matrix can be told");
        const auto count = double(m * n);
        for (std::int64_t i = 0; i < m; ++i)
            for (std::int64_t j = 0; j < n; ++j) sum += double(W[std::size_t(i * ld + j)]);
        for (std::int64_t i = 0; i < m; ++i)
            for (std::int64_t j = 0; j < n; ++j)
                squares += std::pow(double(W[std::size_t(i * ld + j)]) - sum / count, 2);
        promise(error <= squares * (1 + 1e-4) + 1e-5 * (sum * sum / count), "no worse than the mean of W everywhere");
    }

    void extend() {
        const auto q = any();
        if (!q) return;
        const std::int64_t ld = in_.often() ? q->n : q->n + in_.within(-2, 3);
        const std::vector<float> W = in_.reals(std::size_t(q->m * std::max(ld, q->n)), in_.often());
        Search options(in_, q->n);
        const std::int64_t p = in_.often() ? q->p + in_.within(0, 2) : in_.number();
        if (options.takes_long() || (p > 6 && p <= 64)) return;
        bqq_matrix* out = nullptr;
        const bqq_status status = bqq_extend(&*q, W.data(), ld, p, options.record.get(), &out);
        keep(status, out);
    }

    void encode() {
        const auto q = any();
        if (!q) return;
        const std::int64_t rows = in_.within(0, 4), ld = in_.often() ? q->n : q->n + in_.within(-2, 3);
        const std::vector<float> W = in_.reals(std::size_t(rows * std::max(ld, q->n) + 1), in_.often());
        Search options(in_, q->n);
        if (options.takes_long()) return;
        bqq_matrix* out = nullptr;
        const bqq_status status = bqq_encode(&*q, W.data(), rows, ld, options.record.get(), &out);
        keep(status, out);
    }

    void forms() {
        const auto q = any();
        if (!q) return;
        bqq_matrix* out = nullptr;
        const auto kind = in_.within(0, 2);
        const bqq_status status = kind == 0   ? bqq_copy(&*q, &out)
                                  : kind == 1 ? bqq_transpose(&*q, &out)
                                              : bqq_prefix(&*q, in_.number(), &out);
        keep(status, out);
    }

    void dense() {
        const auto q = any();
        if (!q) return;
        const std::int64_t ld = in_.often() ? q->n + in_.within(0, 2) : std::min(in_.number(), q->n);
        std::vector<float> W(std::size_t(q->m * std::max(ld, q->n)));
        const auto threads = in_.often() ? 1 : in_.take<std::int32_t>();
        if (good(bqq_reconstruct(&*q, W.data(), ld, threads))) promise(ld >= q->n, "a short row is an error");
        double error = -1, squares = 0;
        for (const float w : W) squares += double(w) * double(w);
        if (good(bqq_squared_error(&*q, W.data(), ld, threads, &error))) // of what float32 rounds
            promise(!(error > 1e-13 * squares + 1e-90), "a matrix is its own reconstruction");
    }

    void product() {
        const auto q = any();
        if (!q) return;
        const bool turned = !in_.often();
        std::size_t size = 0;
        promise(good(turned ? bqq_prepared_size_transposed(&*q, &size) : bqq_prepared_size(&*q, &size)), "a size");
        const Aligned prepared(size);
        const std::size_t told = in_.often() ? size : std::min(size, std::size_t(in_.number()));
        const bqq_status made =
            turned ? bqq_prepare_transposed(&*q, prepared.data, told) : bqq_prepare(&*q, prepared.data, told);
        promise(good(made) == (told == size), "a buffer of the size asked for will do, a smaller one not");
        if (made != BQQ_OK) return;
        const std::int64_t m = turned ? q->n : q->m, n = turned ? q->m : q->n, batch = in_.within(0, 40);
        const Strided x(in_, n, batch), out(in_, m, batch);
        if (!x.legal(n, x.array.cols) || !out.legal(m, out.array.cols)) return;
        Record<bqq_matmul_options> options(in_, !in_.often());
        if (options.whole() && in_.often())
            options->threads = int(in_.within(0, 3)), options->reserved = 0, options->precision &= 1;
        if (in_.often()) {
            good(bqq_matmul(prepared.data, &x.array, &out.array, options.get()));
            return;
        }
        std::size_t room = 0;
        if (!good(bqq_workspace_size(prepared.data, std::min<std::int64_t>(x.array.cols, 300), &room))) return;
        const Aligned workspace(room);
        const std::int64_t first = in_.often() ? in_.within(0, m) : in_.number(), last = in_.often() ? m : in_.number();
        good(bqq_matmul_rows(prepared.data, &x.array, &out.array, first, last, workspace.data, options.get()));
    }

    // Sizes of any kind: what is refused is refused by all, what is legal and small has its arrays.
    void hostile_view() {
        Record<bqq_view> record(in_, true);
        const std::uint64_t none[2] = {};
        if (record.memory.size() * 8 < sizeof(bqq_view)) {
            promise(!good(bqq_validate(record.get())), "a view without a size is refused");
            return;
        }
        bqq_view& v = *record.get();
        if (in_.often()) { // sizes that agree
            const auto side = [](std::int64_t whole, std::int64_t count) {
                return (std::clamp<std::int64_t>(whole, 0, std::int64_t(1) << 41) + count - 1) / count;
            };
            v.m = in_.number(), v.n = in_.number();
            v.J = in_.within(1, 3), v.K = in_.often() ? in_.within(1, 3) : std::max<std::int64_t>(side(v.n, 1), 1);
            v.rows = side(v.m, v.J), v.cols = side(v.n, v.K);
            v.p = in_.within(1, 4), v.l = in_.number();
        }
        v.y = v.z = reinterpret_cast<const std::uint8_t*>(none);
        v.scales = reinterpret_cast<const float*>(none);
        v.row_order = v.col_order = nullptr, v.entries = nullptr, v.entry_count = 0;
        std::size_t size = 0;
        bqq_matrix* out = nullptr;
        if (!good(bqq_prepared_size(&v, &size))) {
            std::vector<float> W(1);
            double error = 0;
            promise(!good(bqq_validate(&v)) && !good(bqq_copy(&v, &out)) && !good(bqq_transpose(&v, &out)) &&
                        !good(bqq_prefix(&v, 1, &out)) && !good(bqq_reconstruct(&v, W.data(), v.n, 1)) &&
                        !good(bqq_squared_error(&v, W.data(), v.n, 1, &error)) &&
                        !good(bqq_extend(&v, W.data(), v.n, 2, nullptr, &out)),
                    "a layout that one call refuses is refused by all");
            return;
        }
        promise(good(bqq_prepared_size_transposed(&v, &size)), "and so is its transpose");
        const Wide blocks = Wide(v.J) * v.K, y = blocks * v.p * v.rows * ((v.l + 7) / 8);
        const Wide z = blocks * v.p * v.l * ((v.cols + 7) / 8), scales = blocks * (3 * v.p + 1);
        promise(Wide(size) >= (y + z) / 16, "what is prepared holds the planes"); // rows of Y lie without padding
        if (y + z + 4 * scales > kBytes) return;
        std::vector<std::uint8_t> Y(std::size_t(y), 0);
        std::vector<std::uint8_t> Z(std::size_t(z), 0);
        for (std::size_t i = 0; i < Y.size() && !in_.empty(); ++i) Y[i] = in_.take<std::uint8_t>();
        for (std::size_t i = 0; i < Z.size() && !in_.empty(); ++i) Z[i] = in_.take<std::uint8_t>();
        const std::vector<float> S = in_.reals(std::size_t(scales), false);
        v.y = Y.data(), v.z = Z.data(), v.scales = S.data();
        if (good(bqq_validate(&v)) && v.m <= 4096 && v.n <= 4096 && v.m * v.n <= kBytes) {
            const bqq_status status = bqq_copy(&v, &out);
            keep(status, out);
        }
    }

    void layout() {
        Record<bqq_view> view(in_, false);
        if (view.memory.size() * 8 < sizeof(bqq_view)) return;
        Search options(in_, 1 << 30);
        const std::int64_t m = in_.number(), n = in_.number(), p = in_.often() ? in_.within(1, 64) : in_.number();
        if (!good(bqq_make_layout(m, n, p, in_.often() ? options.record.get() : nullptr, view.get()))) return;
        bqq_view v = *view.get();
        promise(v.m == m && v.n == n && v.p == p && !v.y && !v.z && !v.scales, "a layout is of what was asked for");
        v.struct_size = sizeof v; // it may have been larger
        v.y = v.z = reinterpret_cast<const std::uint8_t*>(&v), v.scales = reinterpret_cast<const float*>(&v);
        std::size_t size = 0;
        promise(good(bqq_prepared_size(&v, &size)) && size > 0, "a layout is legal");
    }

    void texts() {
        std::vector<char> text(std::size_t(in_.within(0, 300)));
        std::size_t length = 0;
        promise(good(bqq_config(text.data(), text.size(), &length)), "the configuration can be told");
        Record<bqq_decompose_options> a(in_, true);
        Record<bqq_matmul_options> b(in_, true);
        good(bqq_decompose_options_init(a.get(), a.memory[0]));
        good(bqq_matmul_options_init(b.get(), b.memory[0]));
        const std::size_t i = std::size_t(in_.number());
        promise(!bqq_file_count(nullptr) && !bqq_file_name(nullptr, i) && !bqq_file_metadata_value(nullptr, nullptr),
                "nothing");
    }

    void files() {
        static const std::string path = "/dev/shm/bqq-fuzz-capi-" + std::to_string(::getpid());
        const auto q = any();
        if (!q) return;
        const auto name = [&] {
            std::string text;
            for (auto left = in_.within(0, 6); left > 0; --left) text += char(in_.take<std::uint8_t>());
            return text;
        };
        const std::string names[2] = {name(), name()}, key = name(), value = name(), tensor_name = name();
        const char* const name_list[2] = {names[0].c_str(), names[1].c_str()};
        const bqq_view views[2] = {*q, *q};
        const char *keys[2] = {key.c_str(), in_.often() ? "a" : nullptr}, *values[2] = {value.c_str(), "b"};
        const std::int64_t shape[3] = {in_.number(), in_.number(), in_.often() ? 1 : in_.number()};
        const char* const dtypes[] = {"F32", "F4", "BOOL", "F6_E2M3", "X", ""};
        std::vector<std::uint8_t> data(std::size_t(in_.within(0, 64)));
        bqq_tensor tensor = BQQ_TENSOR_INIT;
        tensor.name = tensor_name.c_str(), tensor.dtype = dtypes[in_.within(0, 5)];
        tensor.shape = shape, tensor.ndim = std::size_t(in_.within(0, 3));
        tensor.data = data.data(), tensor.nbytes = data.size();
        Record<bqq_save_options> options(in_, !in_.often());
        if (options.whole()) {
            options->tensors = &tensor, options->tensor_count = std::size_t(in_.within(0, 1));
            options->metadata_keys = keys, options->metadata_values = values;
            options->metadata_count = std::size_t(in_.within(0, 2));
        }
        const auto count = std::size_t(in_.within(0, 2));
        const bool saved = good(bqq_save(path.c_str(), name_list, views, count, options.get()));
        if (!saved) return;
        bqq_file* file = nullptr;
        promise(good(in_.often() ? bqq_file_open(path.c_str(), &file) : bqq_file_read(path.c_str(), &file)),
                "what was saved can be opened");
        promise(bqq_file_count(file) == count, "and holds what was saved");
        read(file, std::size_t(in_.number()));
        bqq_file_close(file);
        ::unlink(path.c_str());
    }

    void read(const bqq_file* file, std::size_t i) {
        bqq_view v = BQQ_VIEW_INIT;
        bqq_tensor t = BQQ_TENSOR_INIT;
        const char *key = nullptr, *value = nullptr;
        for (std::size_t k = 0; k < bqq_file_count(file); ++k)
            promise(good(bqq_file_view(file, bqq_file_name(file, k), &v)), "every matrix of it");
        promise((bqq_file_name(file, i) != nullptr) == (i < bqq_file_count(file)), "names end where the count does");
        promise(good(bqq_file_tensor(file, i, &t)) == (i < bqq_file_tensor_count(file)), "and tensors");
        promise(good(bqq_file_metadata(file, i, &key, &value)) == (i < bqq_file_metadata_count(file)), "and metadata");
    }

    Bytes in_;
    std::vector<Owner> matrices_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Session(data, size).run();
    return 0;
}
