// Files of IndexBqq, in the working directory.
#include "test.hpp"

#include <faiss/index_io.h>

#include <fstream>
#include <iterator>

namespace {

std::string bytes_of(const char* path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void write(const char* path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
}

void test_round_trips() {
    for (const auto metric : {faiss::METRIC_L2, faiss::METRIC_INNER_PRODUCT}) {
        Data a(metric);
        a.index->save("index.bqq");
        const auto index = IndexBqq::load("index.bqq");
        CHECK(index->ntotal == kBase && index->metric_type == metric && index->d == kD && index->is_trained);
        CHECK(search(*index, a.queries) == search(*a.index, a.queries));
        index->merge_from(*a.index); // of the same codec
        CHECK(index->ntotal == 2 * kBase);

        Labels ids, back;
        for (idx_t i = 0; i < kBase; ++i) ids.push_back(7 * kBase - 3 * i);
        const auto first = IndexBqq::load("index.bqq");
        first->save("named.bqq", ids.data());
        const auto named = IndexBqq::load("named.bqq", &back);
        CHECK(back == ids && search(*named, a.queries) == search(*first, a.queries));
        CHECK_FAISS("pass ids", IndexBqq::load("named.bqq"));
        ids[5] = ids[6];
        CHECK_FAISS("ids[6]", first->save("twice.bqq", ids.data()));
        CHECK(!std::ifstream("twice.bqq").good());

        first->reset();
        first->save("empty.bqq");
        const auto empty = IndexBqq::load("empty.bqq");
        CHECK(empty->ntotal == 0 && empty->is_trained);
        empty->add(10, a.base.data());
        CHECK(empty->ntotal == 10);
    }
    // FAISS's own writer knows FAISS's types alone.
    Data a;
    CHECK_FAISS("", faiss::write_index(a.index.get(), "faiss.index"));
}

void test_damaged() {
    Data a;
    a.index->save("whole.bqq");
    const std::string whole = bytes_of("whole.bqq");
    int cases = 0;
    const auto refused = [&](const std::string& bytes) {
        write("damaged.bqq", bytes);
        CHECK_FAISS("damaged.bqq", IndexBqq::load("damaged.bqq"));
        ++cases;
    };
    refused("");
    refused(whole + "x");
    for (int i = 0; i < 16; ++i) refused(whole.substr(0, whole.size() * std::size_t(i) / 16 + std::size_t(i)));
    refused(whole.substr(0, whole.size() - 1));
    std::mt19937 random(1);
    for (int i = 0; i < 64; ++i) { // half of them in the header
        std::string bytes = whole;
        const std::size_t at = random() % (i % 2 ? whole.size() : 900);
        bytes[at] = char(bytes[at] ^ (1 << random() % 8));
        refused(bytes);
    }
    CHECK(cases >= 80);
    CHECK_FAISS("nowhere.bqq", IndexBqq::load("nowhere.bqq"));
    CHECK_FAISS("", IndexBqq::load("."));
    CHECK_FAISS("", a.index->save("no/such/folder/x.bqq"));

    bqq::TrainOptions options;
    options.metric = bqq::MetricType::cosine, options.effort = bqq::Effort::fast;
    bqq::VectorIndex(bqq::Codec::train(a.base.data(), kBase, kD, kD, 8, options)).save("cosine.bqq");
    CHECK_FAISS("cosine", IndexBqq::load("cosine.bqq"));
}

} // namespace

int main() {
    test_round_trips();
    test_damaged();
    std::puts("ok");
}
