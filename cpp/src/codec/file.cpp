#include "codec/file.hpp"

#include "codec/tuning.hpp"
#include "file/crc32.hpp"
#include "file/json.hpp"
#include "file/safetensors.hpp"
#include "file/text.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace bqq::detail {

namespace {

constexpr char kKey[] = "bqq_codec", kEntriesName[] = "codec.entries", kScalesName[] = "codec.scales",
               kCenterName[] = "codec.center", kStagesName[] = "codec.stages", kNormsName[] = "index.norms",
               kIdsName[] = "index.ids";
constexpr Index kVersion = 1, kNoIndex = -1;
constexpr Index kMaxStageBytes = 64; // what is derived of a stage grows with their square
static_assert(kMostStageBytes <= kMaxStageBytes, "what is trained can be read");
const char* const kMetrics[] = {"l2", "ip", "cosine"};

std::string stage_name(std::size_t s) { return "index.stage" + std::to_string(s); }

struct CodecRecord {
    Index version = 0, metric = -1, d = 0, centered = 0, count = kNoIndex;
    std::vector<Index> stages;
    std::string crc;
};

class CodecReader : public JsonReader {
  public:
    using JsonReader::JsonReader;
    CodecRecord record;

  private:
    void value(const JsonValue& v) override {
        if (keys().empty()) return;
        const std::string& key = keys()[0];
        if (key == "version") return void(record.version = integer(v));
        if (key == "d") return void(record.d = integer(v));
        if (key == "centered") return void(record.centered = integer(v));
        if (key == "count") return void(record.count = integer(v));
        if (key == "crc32") return void(record.crc = string(v));
        if (key == "stages") return is_element() ? record.stages.push_back(integer(v)) : array(v);
        if (key != "metric") fail("unknown key " + quote(key));
        const auto* at = std::find(kMetrics, kMetrics + 3, string(v));
        if (at == kMetrics + 3) fail("metric is " + quote(string(v)) + ", expected l2, ip or cosine");
        record.metric = at - kMetrics;
    }
    void end() override {
        if (!keys().empty()) return;
        Index bytes = record.metric != Index(MetricType::ip);
        for (const Index b : record.stages) {
            if (b < 1 || b > kMaxStageBytes)
                fail("a stage of " + std::to_string(b) + " bytes, expected 1 to " + std::to_string(kMaxStageBytes));
            bytes += b;
        }
        if (record.version > kVersion)
            fail("version " + std::to_string(record.version) + " is newer than this library, which reads version " +
                 std::to_string(kVersion) + ": update bqq");
        if (record.version != kVersion || record.metric < 0 || record.d < 1 || record.d > kMaxDimension ||
            record.stages.empty() || bytes > kMaxCodeSize || record.centered > 1 || record.crc.size() != 8)
            fail("expected version, metric, d, stages, centered and crc32 within their limits");
    }
};

std::string numbers(const CodecRecord& r) {
    return "\"version\":" + std::to_string(r.version) + ",\"metric\":\"" + kMetrics[r.metric] +
           "\",\"d\":" + std::to_string(r.d) + ",\"stages\":" + shape_text(r.stages) +
           ",\"centered\":" + std::to_string(r.centered) +
           (r.count == kNoIndex ? "" : ",\"count\":" + std::to_string(r.count));
}

/// Of the record without its checksum, then of the data of the tensors in this order.
std::string checksum(const CodecRecord& record, const std::vector<Tensor>& tensors) {
    const std::string text = numbers(record);
    std::uint32_t crc = crc32(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
    for (const Tensor& t : tensors) crc = crc32(t.data, t.nbytes, crc);
    std::string digits(8, '0');
    for (std::size_t i = 0; i < 8; ++i) digits[i] = "0123456789abcdef"[crc >> (28 - 4 * i) & 15];
    return digits;
}

/// Names, types and shapes of all tensors, in the order of the checksum.
std::vector<Tensor> expected_tensors(const CodecRecord& r) {
    Index groups = 0;
    for (const Index b : r.stages) groups += 2 * b;
    const auto stages = Index(r.stages.size());
    std::vector<Tensor> all = {{kEntriesName, "I8", {groups, kEntries, r.d}, nullptr, z(groups * kEntries * r.d)},
                               {kScalesName, "F32", {groups, kEntries}, nullptr, z(groups * kEntries * 4)},
                               {kCenterName, "F32", {r.d}, nullptr, z(r.d * 4)},
                               {kStagesName, "F32", {stages, 4}, nullptr, z(stages * 16)}};
    if (r.count == kNoIndex) return all;
    const Index blocks = ceil_div(r.count, kScanBlock);
    for (std::size_t s = 0; s < r.stages.size(); ++s)
        all.push_back(
            {stage_name(s), "U8", {blocks, r.stages[s], kScanBlock}, nullptr, z(blocks * r.stages[s] * kScanBlock)});
    if (r.metric != Index(MetricType::ip))
        all.push_back({kNormsName, "U8", {blocks, kScanBlock}, nullptr, z(blocks * kScanBlock)});
    all.push_back({kIdsName, "I64", {r.count}, nullptr, z(r.count * 8)});
    return all;
}

void save_all(const std::string& path, const Codec& codec, const Packed* packed, const std::vector<std::int64_t>* ids) {
    const Codec::Impl& a = codec.impl();
    CodecRecord record;
    record.version = kVersion, record.metric = Index(a.metric), record.d = a.d, record.centered = a.centered;
    record.stages = codec.stage_bytes();
    if (packed) record.count = packed->count();
    std::vector<float> stages;
    for (const Stage& s : a.stages) stages.insert(stages.end(), {s.unit, s.reach, s.norm_low, s.norm_step});
    std::vector<Tensor> tensors = expected_tensors(record);
    std::vector<const void*> data = {a.entries.data(), a.scales.data(), a.center.data(), stages.data()};
    if (packed) {
        for (std::size_t s = 0; s < record.stages.size(); ++s) data.push_back(packed->part(Index(s)));
        if (a.has_norm()) data.push_back(packed->norms());
        data.push_back(ids->data());
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) tensors[i].data = static_cast<const std::uint8_t*>(data[i]);
    SaveOptions options;
    options.metadata[kKey] = "{" + numbers(record) + ",\"crc32\":\"" + checksum(record, tensors) + "\"}";
    save(path, {}, tensors, options);
}

std::vector<float> floats(const Tensor& t, const std::string& where) {
    std::vector<float> out(t.nbytes / 4);
    if (!out.empty()) std::memcpy(out.data(), t.data, t.nbytes);
    for (const float v : out)
        if (!std::isfinite(v)) throw Error(ErrorCode::format, where + ": tensor " + quote(t.name) + " is not finite");
    return out;
}

} // namespace

void save_codec(const std::string& path, const Codec& codec) { save_all(path, codec, nullptr, nullptr); }

void save_index(const std::string& path, const Codec& codec, const Packed& packed,
                const std::vector<std::int64_t>& ids) {
    save_all(path, codec, &packed, &ids);
}

CodecFile CodecFile::open(const std::string& path, bool with_index) {
    auto file = std::make_shared<const File>(with_index ? File::open(path) : File::read(path));
    const std::string where = quote(path);
    const auto bad = [&](const std::string& what) { throw Error(ErrorCode::format, where + ": " + what); };
    const auto entry = file->metadata().find(kKey);
    if (entry == file->metadata().end()) bad("no codec: its metadata has no key \"bqq_codec\"");
    if (file->metadata().size() > 1) bad("metadata of more than the codec");
    CodecReader reader(where + ": metadata of the codec");
    reader.read(entry->second.data(), entry->second.size());
    const CodecRecord& r = reader.record;
    if (with_index && r.count == kNoIndex) bad("a codec without codes: Codec::load reads it");
    if (r.count > kMaxCodes) bad("count is " + std::to_string(r.count));
    std::vector<Tensor> tensors = expected_tensors(r);
    for (Tensor& t : tensors) {
        const auto it = std::find_if(file->tensors().begin(), file->tensors().end(),
                                     [&](const Tensor& f) { return f.name == t.name; });
        if (it == file->tensors().end()) bad("tensor " + quote(t.name) + " is missing");
        if (it->dtype != t.dtype || it->shape != t.shape)
            bad("tensor " + quote(t.name) + " is " + it->dtype + " " + shape_text(it->shape) + ", its metadata say " +
                t.dtype + " " + shape_text(t.shape));
        t = *it;
    }
    if (checksum(r, tensors) != r.crc) bad("the checksum does not match the metadata: the file is corrupt");
    auto codec = std::make_shared<Codec::Impl>();
    codec->metric = MetricType(r.metric), codec->d = r.d, codec->centered = r.centered;
    codec->entries.assign(tensors[0].nbytes, 0);
    std::memcpy(codec->entries.data(), tensors[0].data, tensors[0].nbytes);
    codec->scales = floats(tensors[1], where), codec->center = floats(tensors[2], where);
    const std::vector<float> stages = floats(tensors[3], where);
    for (std::size_t s = 0; s < r.stages.size(); ++s) {
        const float* v = &stages[4 * s];
        if (v[0] < 0 || v[1] < 0 || v[3] < 0) bad("tensor " + quote(kStagesName) + " has a negative number");
        codec->stages.push_back({r.stages[s], v[0], v[1], v[2], v[3]});
    }
    if (!codec->bounded()) bad("numbers of the codec leave what float32 can add up");
    codec->make_tables();
    return CodecFile(std::move(file), Codec(std::move(codec)), where);
}

const Tensor& CodecFile::tensor(const std::string& name) const {
    for (const Tensor& t : file_->tensors())
        if (t.name == name) return t;
    fail("tensor " + quote(name) + " is missing");
}

std::vector<std::int64_t> CodecFile::ids() const {
    const Tensor& t = tensor(kIdsName);
    std::vector<std::int64_t> ids(t.nbytes / 8);
    if (!ids.empty()) std::memcpy(ids.data(), t.data, t.nbytes);
    for (const std::int64_t id : ids)
        if (id < 0 || id == INT64_MAX) fail("id " + std::to_string(id));
    return ids;
}

void CodecFile::share(Packed& packed) const {
    std::vector<const std::uint8_t*> parts;
    for (std::size_t s = 0; s < codec_.impl().stages.size(); ++s) parts.push_back(tensor(stage_name(s)).data);
    packed.share(tensor(kIdsName).shape[0], parts, codec_.impl().has_norm() ? tensor(kNormsName).data : nullptr, file_);
}

void CodecFile::fail(const std::string& what) const { throw Error(ErrorCode::format, where_ + ": " + what); }

} // namespace bqq::detail

namespace bqq {

Codec Codec::load(const std::string& path) { return detail::CodecFile::open(path, false).codec(); }
void Codec::save(const std::string& path) const { detail::save_codec(path, *this); }

} // namespace bqq
