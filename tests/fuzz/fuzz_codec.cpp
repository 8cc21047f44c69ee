// A codec or an index from a stranger: opened, its vectors decoded, encoded, searched in every way, changed, saved and
// read again. The checksum is put right first.
#include "files.hpp"

#include "bqq/bqq.hpp"
#include "bqq/vector_index.hpp"
#include "file/crc32.hpp"
#include "file/safetensors.hpp"

#include <cmath>
#include <limits>
#include <set>

using namespace bqq;

namespace {

using fuzz::promise;
using Ids = std::vector<std::int64_t>;
using Floats = std::vector<float>;
constexpr Index kLargest = std::numeric_limits<Index>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::size_t z(Index i) { return std::size_t(i); }

// Of the record up to its checksum, then of the tensors in the order of FORMAT.md.
void mend_checksum(std::vector<std::uint8_t>& bytes) {
    const detail::Container c = detail::parse_safetensors(bytes.data(), bytes.size(), "input");
    const auto record = c.metadata.find("bqq_codec");
    if (record == c.metadata.end()) return;
    const std::string& text = record->second;
    const auto end = text.find(",\"crc32\":\"");
    if (end == std::string::npos || text.size() < end + 18) return;
    std::uint32_t crc = detail::crc32(reinterpret_cast<const std::uint8_t*>(text.data()) + 1, end - 1);
    std::vector<std::string> names = {"codec.entries", "codec.scales", "codec.center", "codec.stages"};
    for (std::size_t s = 0; s < c.tensors.size(); ++s) names.push_back("index.stage" + std::to_string(s));
    names.insert(names.end(), {"index.norms", "index.ids"});
    for (const std::string& name : names)
        for (const Tensor& t : c.tensors)
            if (t.name == name) crc = detail::crc32(t.data, t.nbytes, crc);
    fuzz::put_checksum(bytes, std::uint32_t(std::strtoul(text.substr(end + 10, 8).c_str(), nullptr, 16)), crc);
}

// Vectors of several sizes: small, none at all, the largest there may be.
Floats vectors(Index count, Index d) {
    Floats X(z(count * d));
    for (Index i = 0; i < count; ++i)
        for (Index j = 0; j < d; ++j)
            X[z(i * d + j)] = float((i * 7 + j * 5) % 11 - 5) * (i % 4 == 1 ? 0.0f : i % 4 == 2 ? 2e14f : 0.5f);
    return X;
}

bool all_finite(const Floats& X) {
    return std::all_of(X.begin(), X.end(), [](float v) { return std::isfinite(v); });
}

void use(const Codec& codec) {
    const Index d = codec.d();
    const Floats X = vectors(5, d);
    std::vector<std::uint8_t> codes(z(5 * codec.code_size())), again(codes.size());
    CodeOptions options;
    options.effort = Effort::fast, options.threads = 1;
    codec.encode(X.data(), 5, d, codes.data(), options);
    for (Index i = 4; i >= 0; --i) // alone
        codec.encode(X.data() + i * d, 1, d, again.data() + i * codec.code_size(), options);
    promise(codes == again, "a code depends on its vector alone");
    Floats W(z(5 * d));
    codec.decode(codes.data(), 5, W.data(), d, 1);
    promise(all_finite(W), "what codes stand for is finite");
    promise(codec.prefix(codec.stages()).code_size() == codec.code_size(), "a prefix of all stages is the whole");
}

// k results of each query among `present`, how many there must be, best first.
void check(const VectorIndex& index, const Floats& distances, const Ids& ids, Index k, const std::set<Index>& present) {
    const float sign = index.codec().metric() == MetricType::l2 ? 1 : -1;
    for (std::size_t first = 0; first < ids.size(); first += z(k)) {
        std::set<Index> seen;
        for (std::size_t i = first; i < first + z(k); ++i) {
            promise(std::isfinite(distances[i]), "a distance is a number");
            if (i > first)
                promise(sign * distances[i - 1] < sign * distances[i] ||
                            (distances[i - 1] == distances[i] && (ids[i] < 0 || ids[i - 1] < ids[i])),
                        "results are in order");
            if (ids[i] >= 0) promise(present.count(ids[i]) && seen.insert(ids[i]).second, "an id is there, and once");
        }
        promise(seen.size() == std::min(z(k), present.size()), "there are as many results as there can be");
    }
}

void search(const VectorIndex& index) {
    const Ids all = index.ids();
    const Index d = index.codec().d(), size = index.size(), queries = 5;
    const std::set<Index> present(all.begin(), all.end());
    const Floats Q = vectors(queries, d);
    SearchOptions options;
    options.threads = 1;
    for (const Index k : {Index(1), Index(3), size + 2})
        for (const Index coarse : {Index(0), Index(1)}) {
            Floats distances(z(queries * k));
            Ids ids(z(queries * k));
            options.coarse = coarse;
            index.search(Q.data(), queries, d, k, distances.data(), ids.data(), options);
            check(index, distances, ids, k, present);
        }
    // All of them, by whole codes: what a search within any distance finds.
    Floats distances(z(queries * (size + 1)));
    Ids ids(z(queries * (size + 1)));
    options.coarse = 0, options.rescore = size + 1;
    index.search(Q.data(), queries, d, size + 1, distances.data(), ids.data(), options);
    const float everything = index.codec().metric() == MetricType::l2 ? kInfinity : -kInfinity;
    const VectorIndex::Range range = index.range_search(Q.data(), queries, d, everything, options);
    for (Index q = 0; q < queries; ++q) {
        promise(range.limits[z(q) + 1] - range.limits[z(q)] == size, "all are within an infinite distance");
        promise(std::equal(ids.begin() + q * (size + 1), ids.begin() + q * (size + 1) + size,
                           range.ids.begin() + range.limits[z(q)]),
                "in the same order");
    }
    const Ids some = {all.empty() ? 5 : all[0], -3, kLargest, all.empty() ? 5 : all.back()};
    options = {}, options.threads = 1;
    options.ids = some.data(), options.among = Index(some.size());
    std::set<Index> known;
    for (const Index id : some)
        if (present.count(id)) known.insert(id);
    distances.assign(z(queries * 3), 0), ids.assign(z(queries * 3), 0);
    index.search(Q.data(), queries, d, 3, distances.data(), ids.data(), options);
    check(index, distances, ids, 3, known);
}

void change(VectorIndex& index) {
    const Index d = index.codec().d(), size = index.codec().code_size(), before = index.size();
    const Ids all = index.ids();
    std::vector<std::uint8_t> codes(z(before * size)), again(codes.size());
    index.codes(all.data(), before, codes.data());
    const Floats X = vectors(3, d);
    CodeOptions options;
    options.effort = Effort::fast, options.threads = 1;
    const bool room = std::none_of(all.begin(), all.end(), [](Index id) { return id > kLargest - 4; });
    try {
        index.add(X.data(), 3, d, nullptr, options);
        promise(room, "there are no ids behind the largest");
    } catch (const Error& e) {
        promise(!room && e.code() == ErrorCode::invalid_argument, "an index takes what is to be added");
    }
    if (before) {
        promise(index.remove(&all[z(before / 2)], 1) == 1 && index.remove(&all[z(before / 2)], 1) == 0, "removed once");
        index.add_codes(codes.data() + before / 2 * size, 1, &all[z(before / 2)]);
    }
    index.codes(all.data(), before, again.data());
    promise(codes == again, "a code put back is the same");
    promise(index.size() == before + 3 * room, "all are counted");
    Floats W(z(before * d));
    index.reconstruct(all.data(), before, W.data(), d);
    promise(all_finite(W), "what codes stand for is finite");
}

void save_and_open(const VectorIndex& index, const std::string& path) {
    index.save(path);
    const VectorIndex again = VectorIndex::open(path);
    const Ids ids = index.ids();
    std::vector<std::uint8_t> codes(z(index.size() * index.codec().code_size())), same(codes.size());
    promise(again.ids() == ids && again.codec().stage_bytes() == index.codec().stage_bytes(), "a saved index is whole");
    index.codes(ids.data(), Index(ids.size()), codes.data()), again.codes(ids.data(), Index(ids.size()), same.data());
    promise(codes == same, "and so are its codes");
    use(Codec::load(path));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const fuzz::Memory memory;
    static const std::string saved = "/dev/shm/bqq-fuzz-codec-" + std::to_string(::getpid());
    std::vector<std::uint8_t> bytes(data, data + size);
    try {
        if (size % 8) mend_checksum(bytes); // else as it is
        memory.write(bytes);
        const Codec codec = Codec::load(memory.path);
        use(codec);
        VectorIndex index = VectorIndex::open(memory.path);
        if (index.size() > 500) return 0;
        search(index);
        change(index);
        if (size % 5 == 0) save_and_open(index, saved);
        if (size % 3 == 0) search(index);
    } catch (const Error& e) {
        promise(e.code() == ErrorCode::format, "what is wrong with a file is a format error");
    }
    return 0;
}
