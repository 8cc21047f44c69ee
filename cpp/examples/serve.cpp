// A server in miniature: clients ask for products with one matrix, what waits is computed together as a batch, on
// threads that are the server's own. bqq starts none and allocates nothing once the server runs.
//
//   serve weights.safetensors [name] [threads] [requests]
#include <bqq/bqq.h>

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t kMaxBatch = 16;

void check(bqq_status status) {
    if (status != BQQ_OK) throw std::runtime_error(bqq_last_error());
}

struct Aligned { // bytes at a multiple of 64
    explicit Aligned(std::size_t size) : block(new unsigned char[size + 63]) {
        data = block.get() + (64 - reinterpret_cast<std::uintptr_t>(block.get()) % 64) % 64;
    }
    std::unique_ptr<unsigned char[]> block;
    unsigned char* data;
};

std::size_t prepared_size(const bqq_view& q) {
    std::size_t size = 0;
    check(bqq_prepared_size(&q, &size));
    return size;
}

struct Layer { // a matrix in the order of the kernels; the file may be closed afterwards
    explicit Layer(const bqq_view& q) : m(q.m), n(q.n), block(q.rows), prepared(prepared_size(q)) {
        check(bqq_prepare(&q, prepared.data, prepared_size(q)));
    }
    std::size_t workspace() const {
        std::size_t size = 0;
        check(bqq_workspace_size(prepared.data, kMaxBatch, &size));
        return size;
    }
    std::int64_t m, n, block;
    Aligned prepared;
};

struct Request {
    std::vector<float> x, y;
    std::promise<void> done;
};

// Its threads take ranges of block rows of one batch after the other; the last one to finish answers the clients.
class Server {
  public:
    Server(const Layer& layer, int threads) : layer_(layer), x_(layer.n * kMaxBatch), y_(layer.m * kMaxBatch) {
        for (int i = 0; i < threads; ++i) spaces_.emplace_back(layer.workspace());
        for (int i = 0; i < threads; ++i) threads_.emplace_back([this, i] { work(spaces_[std::size_t(i)].data); });
    }
    ~Server() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            stopping_ = true;
        }
        wake_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }
    std::future<void> submit(Request& request) {
        std::future<void> done = request.done.get_future();
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            waiting_.push_back(&request);
        }
        wake_.notify_one();
        return done;
    }
    int batches() const { return batches_; }

  private:
    void work(void* space) {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [this] { return stopping_ || next_ < layer_.m || (batch_.empty() && !waiting_.empty()); });
            if (batch_.empty() && !waiting_.empty()) begin_batch();
            if (next_ >= layer_.m) {
                if (stopping_ && batch_.empty()) return;
                continue;
            }
            const std::int64_t begin = next_, end = next_ = std::min(layer_.m, begin + layer_.block);
            const std::int64_t batch = std::int64_t(batch_.size());
            ++running_;
            lock.unlock();
            const bqq_array x = {x_.data(), BQQ_F32, layer_.n, batch, 1, layer_.n};
            const bqq_array y = {y_.data(), BQQ_F32, layer_.m, batch, 1, layer_.m};
            const bqq_status status = bqq_matmul_rows(layer_.prepared.data, &x, &y, begin, end, space, nullptr);
            lock.lock();
            if (status != BQQ_OK && failure_.empty()) failure_ = bqq_last_error();
            if (--running_ == 0 && next_ >= layer_.m) end_batch();
        }
    }
    void begin_batch() {
        while (!waiting_.empty() && std::int64_t(batch_.size()) < kMaxBatch) {
            std::copy(waiting_.front()->x.begin(), waiting_.front()->x.end(),
                      x_.begin() + layer_.n * std::int64_t(batch_.size()));
            batch_.push_back(waiting_.front());
            waiting_.erase(waiting_.begin());
        }
        next_ = 0;
        ++batches_;
        wake_.notify_all();
    }
    void end_batch() {
        for (std::size_t i = 0; i < batch_.size(); ++i) {
            batch_[i]->y.assign(y_.begin() + layer_.m * std::int64_t(i), y_.begin() + layer_.m * std::int64_t(i + 1));
            if (failure_.empty())
                batch_[i]->done.set_value();
            else
                batch_[i]->done.set_exception(std::make_exception_ptr(std::runtime_error(failure_)));
        }
        batch_.clear();
        wake_.notify_all();
    }

    const Layer& layer_;
    std::vector<float> x_, y_; // columns back to back
    std::vector<Aligned> spaces_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<Request*> waiting_, batch_;
    std::int64_t next_ = INT64_MAX; // row at which the next thread begins
    int running_ = 0, batches_ = 0;
    bool stopping_ = false;
    std::string failure_;
    std::vector<std::thread> threads_;
};

Layer load(const char* path, const char* name) {
    bqq_file* file = nullptr;
    check(bqq_file_open(path, &file));
    const std::unique_ptr<bqq_file, decltype(&bqq_file_close)> closed(file, bqq_file_close);
    if (!name && !(name = bqq_file_name(file, 0))) throw std::runtime_error("no compressed matrix in the file");
    bqq_view q = BQQ_VIEW_INIT;
    check(bqq_file_view(file, name, &q));
    return Layer(q);
}

} // namespace

int main(int argc, char** argv) try {
    if (argc < 2) {
        std::fprintf(stderr, "usage: serve weights.safetensors [name] [threads] [requests]\n");
        return 2;
    }
    const Layer layer = load(argv[1], argc > 2 && *argv[2] ? argv[2] : nullptr);
    const int threads = argc > 3 ? std::atoi(argv[3]) : 2, count = argc > 4 ? std::atoi(argv[4]) : 100;
    if (threads < 1 || count < 1) throw std::runtime_error("threads and requests must be positive");
    Server server(layer, threads);

    std::vector<Request> requests(static_cast<std::size_t>(count));
    std::vector<std::future<void>> answers;
    for (std::size_t r = 0; r < requests.size(); ++r) {
        for (std::int64_t j = 0; j < layer.n; ++j)
            requests[r].x.push_back(float((r + 1) * std::size_t(j + 1) % 17) - 8);
        answers.push_back(server.submit(requests[r]));
    }
    double worst = 0;
    for (std::size_t r = 0; r < requests.size(); ++r) { // each against a product of its own
        answers[r].get();
        std::vector<float> y(static_cast<std::size_t>(layer.m));
        const bqq_array in = {requests[r].x.data(), BQQ_F32, layer.n, 1, 1, 1};
        const bqq_array out = {y.data(), BQQ_F32, layer.m, 1, 1, 1};
        check(bqq_matmul(layer.prepared.data, &in, &out, nullptr));
        double difference = 0, length = 0;
        for (std::size_t i = 0; i < y.size(); ++i) {
            difference += double(y[i] - requests[r].y[i]) * (y[i] - requests[r].y[i]);
            length += double(y[i]) * y[i];
        }
        worst = std::max(worst, length > 0 ? difference / length : difference);
    }
    std::printf("%lld x %lld: %d requests in %d batches on %d threads\n", static_cast<long long>(layer.m),
                static_cast<long long>(layer.n), count, server.batches(), threads);
    if (worst > 1e-10) throw std::runtime_error("an answer differs from the product computed alone");
} catch (const std::exception& error) {
    std::fprintf(stderr, "serve: %s\n", error.what());
    return 1;
}
