// What targets over files share: one in memory, checksums that are right.
#pragma once

#include "bytes.hpp"

#include <sys/mman.h>
#include <unistd.h>

namespace fuzz {

// A file without a folder, by the name that opens it.
struct Memory {
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    std::string path = "/proc/self/fd/" + std::to_string(fd);

    void write(const std::vector<std::uint8_t>& bytes) const {
        promise(::ftruncate(fd, 0) == 0 && ::pwrite(fd, bytes.data(), bytes.size(), 0) == ssize_t(bytes.size()),
                "memory can be written");
    }
};

// Where the digits of `crc` stand in a header, those of the right one.
inline void put_checksum(std::vector<std::uint8_t>& bytes, std::uint32_t crc, std::uint32_t right) {
    const auto digits = [](std::uint32_t value) {
        char text[9];
        std::snprintf(text, sizeof text, "%08x", value);
        return std::string(text);
    };
    const std::string old = digits(crc), now = digits(right);
    const auto at = std::search(bytes.begin(), bytes.end(), old.begin(), old.end());
    if (at != bytes.end()) std::copy(now.begin(), now.end(), at);
}

} // namespace fuzz
