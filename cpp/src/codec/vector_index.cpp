#include "bqq/vector_index.hpp"

#include "arguments.hpp"
#include "codec/file.hpp"
#include "codec/search.hpp"
#include "pool.hpp"

#include <atomic>
#include <limits>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <unordered_set>

namespace bqq {

using namespace detail;

namespace {

void check_count(const char* what, Index count) {
    if (count < 0 || count > kMaxCodes)
        bad_value(std::string("the number of ") + what, count, "0 to " + std::to_string(kMaxCodes));
}

/// Readers, or one writer, who does not wait for readers that came later. In the child of a fork locks are new: those
/// of the parent may be held there for ever. A reader's poll may run anything, a handler of signals: it reads by the
/// lock that its thread has, and cannot write.
class Guard {
  public:
    class Read {
      public:
        explicit Read(Guard& guard) : guard_(&guard), outer_(innermost_) {
            if (!guard.is_read_here()) lock_ = guard.wait_to_read();
            innermost_ = this;
        }
        ~Read() { innermost_ = outer_; }
        Read(const Read&) = delete;
        Read& operator=(const Read&) = delete;

      private:
        friend class Guard;
        const Guard* const guard_;
        const Read* const outer_; ///< of the same thread
        std::shared_lock<std::shared_mutex> lock_;
        static thread_local const Read* innermost_;
    };
    class Write {
      public:
        Write(std::unique_lock<std::shared_mutex> lock, std::atomic<bool>& changing)
            : lock_(std::move(lock)), changing_(&changing) {
            changing = true;
        }
        ~Write() { *changing_ = false; }
        Write(const Write&) = delete;
        Write& operator=(const Write&) = delete;

      private:
        std::unique_lock<std::shared_mutex> lock_;
        std::atomic<bool>* changing_;
    };

    Guard() : locks_(new Locks) {}
    ~Guard() { delete locks_.load(); }
    Read read() { return Read(*this); }
    Write write() {
        if (is_read_here())
            throw Error(ErrorCode::unsupported, "the index is being searched by this thread, which cannot change it "
                                                "from within, as in a handler of signals");
        Locks& locks = here();
        const std::lock_guard<std::mutex> turn(locks.turn);
        return {std::unique_lock<std::shared_mutex>(locks.guard), changing_};
    }

  private:
    struct Locks {
        const int age = forks();
        std::mutex turn;
        std::shared_mutex guard;
    };

    bool is_read_here() const {
        const Read* at = Read::innermost_;
        while (at && at->guard_ != this) at = at->outer_;
        return at;
    }
    std::shared_lock<std::shared_mutex> wait_to_read() {
        Locks& locks = here();
        const std::lock_guard<std::mutex> turn(locks.turn);
        return std::shared_lock<std::shared_mutex>(locks.guard);
    }
    Locks& here() {
        Locks* known = locks_;
        if (known->age != forks()) {
            auto fresh = std::make_unique<Locks>();
            if (changing_) broken_ = true; // by a thread that this process does not have
            // The old ones stay where they are: a lock that is held can't be destroyed.
            if (locks_.compare_exchange_strong(known, fresh.get())) fresh.release();
        }
        if (broken_)
            throw Error(ErrorCode::unsupported, "the index was being changed by another thread when this process was "
                                                "forked: open or build it anew");
        return *locks_;
    }

    std::atomic<Locks*> locks_;
    std::atomic<bool> changing_{false}, broken_{false};
};

thread_local const Guard::Read* Guard::Read::innermost_ = nullptr;

} // namespace

struct VectorIndex::Impl {
    explicit Impl(const Codec& codec) : codec(codec), packed(codec) {}

    const Codec codec;
    Packed packed;
    std::vector<std::int64_t> ids;
    std::int64_t next = 0;
    mutable Guard guard;

    /// Places by id. Not there while ids are 0, 1, 2, ...: an index that nobody removes from needs none.
    std::unordered_map<std::int64_t, Index> places;
    bool counted = true;

    Index place(std::int64_t id) const {
        if (counted) return id >= 0 && id < Index(ids.size()) ? id : -1;
        const auto it = places.find(id);
        return it == places.end() ? -1 : it->second;
    }
    void name_places() {
        if (!counted) return;
        places.reserve(ids.size());
        for (std::size_t i = 0; i < ids.size(); ++i) places.emplace(ids[i], Index(i));
        counted = false;
    }
    /// Throws Error(invalid_argument), with nothing changed.
    void check_new(const std::int64_t* added, Index count) const {
        std::unordered_set<std::int64_t> seen;
        for (Index i = 0; i < count; ++i) {
            if (added[i] < 0 || added[i] == std::numeric_limits<std::int64_t>::max())
                bad_value("ids[" + std::to_string(i) + "]", added[i], "0 to 2^63 - 2");
            if (place(added[i]) >= 0 || !seen.insert(added[i]).second)
                bad_argument("ids[" + std::to_string(i) + "] is " + std::to_string(added[i]) +
                             ", which the index has already: remove it first");
        }
    }
    void append(const std::uint8_t* codes, Index count, const std::int64_t* added) {
        if (count == 0) return;
        if (added) check_new(added, count);
        if (!added && next > std::numeric_limits<std::int64_t>::max() - count)
            bad_argument("the ids behind the largest, " + std::to_string(next - 1) + ", are used up: name them");
        const auto before = ids.size();
        ids.reserve(before + z(count));
        if (added || next != Index(before)) name_places();
        if (!counted) places.reserve(before + z(count));
        Index named = 0;
        try { // what can fail comes first, and is taken back
            for (; !counted && named < count; ++named)
                places.emplace(added ? added[named] : next + named, Index(before) + named);
            packed.append(codes, count);
        } catch (...) {
            for (Index i = 0; i < named; ++i) places.erase(added ? added[i] : next + i);
            throw;
        }
        for (Index i = 0; i < count; ++i) {
            const std::int64_t id = added ? added[i] : next;
            ids.push_back(id);
            next = std::max(next, id + 1);
        }
    }
};

VectorIndex::VectorIndex(const Codec& codec) : impl_(std::make_shared<Impl>(codec)) {}

const Codec& VectorIndex::codec() const { return impl_->codec; }

Index VectorIndex::size() const {
    const auto lock = impl_->guard.read();
    return impl_->packed.count();
}

void VectorIndex::add(const float* X, Index count, Index ldx, const std::int64_t* ids, const CodeOptions& options) {
    check_count("vectors", count);
    if (ids) { // before the work
        const auto lock = impl_->guard.read();
        impl_->check_new(ids, count);
    }
    std::vector<std::uint8_t> codes(z(count * codec().code_size()));
    codec().encode(X, count, ldx, codes.data(), options);
    const auto lock = impl_->guard.write();
    impl_->append(codes.data(), count, ids);
}

void VectorIndex::add_codes(const std::uint8_t* codes, Index count, const std::int64_t* ids) {
    check_count("codes", count);
    if (!codes && count) bad_argument("codes is null");
    const auto lock = impl_->guard.write();
    impl_->append(codes, count, ids);
}

Index VectorIndex::remove(const std::int64_t* ids, Index count) {
    check_count("ids", count);
    if (!ids && count) bad_argument("ids is null");
    const auto lock = impl_->guard.write();
    Impl& a = *impl_;
    Index removed = 0;
    for (Index i = 0; i < count; ++i) {
        if (a.place(ids[i]) < 0) continue;
        a.name_places();
        const Index at = a.place(ids[i]);
        a.packed.remove(at);
        a.places.erase(ids[i]);
        if (at + 1 < Index(a.ids.size())) {
            a.ids[z(at)] = a.ids.back();
            a.places[a.ids[z(at)]] = at;
        }
        a.ids.pop_back();
        ++removed;
    }
    return removed;
}

void VectorIndex::search(const float* Q, Index queries, Index ldq, Index k, float* distances, std::int64_t* ids,
                         const SearchOptions& options) const {
    const auto lock = impl_->guard.read();
    const Impl& a = *impl_;
    const auto allowed = allowed_places(options, a.packed.count(), [&](std::int64_t id) { return a.place(id); });
    SearchTask{a.packed, a.ids.data(), allowed.empty() ? nullptr : allowed.data(), Q, queries, ldq}.search(
        k, distances, ids, options);
}

VectorIndex::Range VectorIndex::range_search(const float* Q, Index queries, Index ldq, float radius,
                                             const SearchOptions& options) const {
    const auto lock = impl_->guard.read();
    const Impl& a = *impl_;
    const auto allowed = allowed_places(options, a.packed.count(), [&](std::int64_t id) { return a.place(id); });
    return SearchTask{a.packed, a.ids.data(), allowed.empty() ? nullptr : allowed.data(), Q, queries, ldq}.range_search(
        radius, options);
}

void VectorIndex::codes(const std::int64_t* ids, Index count, std::uint8_t* out) const {
    check_count("ids", count);
    if (count && (!ids || !out)) bad_argument("ids or out is null");
    const auto lock = impl_->guard.read();
    for (Index i = 0; i < count; ++i) {
        const Index at = impl_->place(ids[i]);
        if (at < 0)
            bad_argument("ids[" + std::to_string(i) + "] is " + std::to_string(ids[i]) + ", which is not there");
        impl_->packed.unpack(at, out + i * codec().code_size());
    }
}

void VectorIndex::reconstruct(const std::int64_t* ids, Index count, float* out, Index ldo) const {
    check_count("ids", count);
    if (count && !out) bad_argument("out is null");
    std::vector<std::uint8_t> found(z(count * codec().code_size()));
    codes(ids, count, found.data());
    codec().decode(found.data(), count, out, ldo);
}

std::vector<std::int64_t> VectorIndex::ids() const {
    const auto lock = impl_->guard.read();
    return impl_->ids;
}

void VectorIndex::save(const std::string& path) const {
    const auto lock = impl_->guard.read();
    save_index(path, impl_->codec, impl_->packed, impl_->ids);
}

VectorIndex VectorIndex::open(const std::string& path) {
    const CodecFile file = CodecFile::open(path, true);
    auto impl = std::make_shared<Impl>(file.codec());
    impl->ids = file.ids();
    for (std::size_t i = 0; i < impl->ids.size(); ++i) {
        if (impl->ids[i] != std::int64_t(i)) impl->counted = false;
        impl->next = std::max(impl->next, impl->ids[i] + 1);
    }
    if (!impl->counted) {
        impl->counted = true;
        impl->name_places();
        if (impl->places.size() != impl->ids.size()) file.fail("an id occurs twice");
    }
    file.share(impl->packed);
    return VectorIndex(std::move(impl));
}

} // namespace bqq
