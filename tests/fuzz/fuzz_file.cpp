// A file from a stranger: opened, every matrix validated, reconstructed and multiplied, all of it saved and read again.
// Checksums are put right first; otherwise nearly no input would get past them.
#include "files.hpp"

#include "bqq/bqq.hpp"
#include "file/record.hpp"
#include "file/safetensors.hpp"

#include <cmath>

using namespace bqq;

namespace {

constexpr Index kWork = 1 << 19; // elements times stacks times l that one input may cost

void mend_checksums(std::vector<std::uint8_t>& bytes) {
    const detail::Container c = detail::parse_safetensors(bytes.data(), bytes.size(), "input");
    const auto find = [&](const std::string& name) {
        return std::find_if(c.tensors.begin(), c.tensors.end(), [&](const Tensor& t) { return t.name == name; });
    };
    for (const auto& [key, value] : c.metadata) {
        if (key.compare(0, 4, "bqq.") != 0) continue;
        const std::string name = key.substr(4);
        const detail::Record r = detail::read_record(value, "record");
        std::vector<Tensor> parts;
        for (const Tensor& expected : detail::part_tensors(name, r, {})) {
            const auto part = find(expected.name);
            if (part == c.tensors.end() || part->shape != expected.shape) return;
            parts.push_back(*part);
        }
        fuzz::put_checksum(bytes, r.crc, detail::checksum(name, r, parts));
    }
}

Index cost(const Layout& a) {
    const double work = double(a.m) * double(a.n) * double(a.p) * double(a.l + 8);
    return work > double(kWork) ? kWork + 1 : Index(work);
}

void use(const View& q) {
    const Layout& a = q.layout;
    validate(q);
    std::vector<float> W(std::size_t(a.m * a.n)), WT(W.size());
    reconstruct(q, W.data(), a.n, 1);
    const Matrix transposed = transpose(q);
    validate(transposed.view());
    validate(prefix(q, (a.p + 1) / 2).view());
    double largest = 0;
    for (Index i = 0; i < a.scales_count(); ++i) largest = std::max(largest, std::abs(double(q.scales[i])));
    for (Index i = 0; i < q.entry_count; ++i) largest = std::max(largest, std::abs(double(q.entries[i].value)));
    for (const bool turned : {false, true}) {
        const PreparedMatrix prepared(q, turned);
        const Index m = turned ? a.n : a.m, n = turned ? a.m : a.n;
        for (const Index batch : {Index(1), Index(5), Index(33)})
            for (const Precision precision : {Precision::float32, Precision::fast}) {
                std::vector<float> X(std::size_t(n * batch)), Y(std::size_t(m * batch));
                for (std::size_t i = 0; i < X.size(); ++i) X[i] = float(int(i * 7 % 11) - 5);
                prepared.matmul({X.data(), Dtype::f32, n, batch, batch, 1}, {Y.data(), Dtype::f32, m, batch, batch, 1},
                                {1, precision, false});
                if (largest > 1e30) continue; // may overflow
                for (const float y : Y) fuzz::promise(std::isfinite(y), "products of moderate numbers are finite");
            }
    }
}

void save_and_read(const File& file, const std::string& path) {
    std::vector<NamedMatrix> matrices;
    for (const StoredMatrix& q : file.matrices()) matrices.push_back({q.name, file.matrix(q.name)});
    try {
        save(path, matrices, file.tensors(), {Dtype::f32, file.metadata()});
    } catch (const Error& e) { // names that a reader takes and a writer does not: empty ones
        fuzz::promise(e.code() == ErrorCode::invalid_argument, "what was read can be saved, but for its names");
        return;
    }
    const File again = File::open(path);
    fuzz::promise(again.tensors().size() == file.tensors().size() && again.metadata() == file.metadata(),
                  "a saved file reads the same");
    for (const NamedMatrix& q : matrices) {
        const View v = again.matrix(q.name);
        const Layout& a = v.layout;
        fuzz::promise(a == q.view.layout && std::equal(v.Y, v.Y + a.y_bytes(), q.view.Y) &&
                          std::equal(v.Z, v.Z + a.z_bytes(), q.view.Z),
                      "and so do its matrices");
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const fuzz::Memory memory;
    static const std::string saved = "/dev/shm/bqq-fuzz-" + std::to_string(::getpid());
    std::vector<std::uint8_t> bytes(data, data + size);
    try {
        if (size % 8) mend_checksums(bytes); // else as they are
        memory.write(bytes);
        const File file = size % 3 == 0   ? File::open(bytes.data(), bytes.size())
                          : size % 2 == 1 ? File::open(memory.path)
                                          : File::read(memory.path);
        Index work = 0;
        for (const StoredMatrix& q : file.matrices()) {
            const View view = file.matrix(q.name);
            if ((work += cost(view.layout)) <= kWork) use(view);
        }
        if (size % 5 == 0) save_and_read(file, saved);
    } catch (const Error& e) {
        fuzz::promise(e.code() == ErrorCode::format, "what is wrong with a file is a format error");
    }
    return 0;
}
