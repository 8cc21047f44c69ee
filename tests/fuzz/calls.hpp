// What targets over a C interface share: the rules that all calls keep, structures of any size and content.
#pragma once

#include "bytes.hpp"

#include "bqq/bqq.h"

namespace fuzz {

// The status of a call, and that it keeps the rules all calls have.
inline bool good(bqq_status status, bool may_be_internal = false) {
    promise(status >= BQQ_OK && status <= BQQ_INTERNAL, "a status is one of those there are");
    promise(may_be_internal || status != BQQ_INTERNAL, "no call has an internal error");
    promise(status == BQQ_OK || *bqq_last_error(), "a failure has a text");
    return status == BQQ_OK;
}

// A structure whose struct_size is anything, in memory of just that size, its bytes as they come.
template <class T> struct Record {
    std::vector<std::uint64_t> memory;

    Record(Bytes& in, bool wild) {
        const std::size_t size = in.often() ? sizeof(T) : std::size_t(in.number());
        const bool legal = size >= sizeof size && size <= 4096;
        memory.resize((legal ? size : sizeof size) / 8 + 1);
        for (std::size_t i = 1; wild && i < memory.size(); ++i) memory[i] = std::uint64_t(in.number());
        memory[0] = size;
    }
    T* get() { return reinterpret_cast<T*>(memory.data()); }
    bool legal() const { return memory[0] >= sizeof(std::size_t) && memory[0] <= 4096 && memory[0] % 8 == 0; }
    bool whole() const { return memory.size() * 8 > sizeof(T) && memory[0] >= sizeof(T) && memory[0] <= 4096; }
    T* operator->() { return get(); }
};

inline int cancel(std::int64_t done, std::int64_t total, void* user) {
    promise(done >= 0 && done <= total, "progress is at most the whole");
    return --*static_cast<int*>(user) < 0;
}

} // namespace fuzz
