#include "bqq/bqq.hpp"

#include "cores.hpp"
#include "kernels/dispatch.hpp"

namespace bqq {
namespace {

std::string compiler() {
#if defined(__clang__)
    return std::string("clang ") + __clang_version__;
#elif defined(__GNUC__)
    return std::string("gcc ") + __VERSION__;
#elif defined(_MSC_VER)
    return "msvc " + std::to_string(_MSC_VER);
#else
    return "unknown";
#endif
}

std::string join(const std::vector<std::string>& names) {
    std::string text;
    for (const auto& name : names) text += (text.empty() ? "" : " ") + name;
    return text;
}

} // namespace

const char* version() noexcept { return BQQ_VERSION; }

const char* isa() { return detail::isa_in_use(); }

std::string config() {
    std::string text;
    const auto line = [&](const char* key, const std::string& value) {
        text += std::string(key) + ": " + value + "\n";
    };
    line("version", version());
    line("compiler", compiler());
    try {
        line("isa", isa());
    } catch (const Error& e) { // a report on a wrong setting must still be possible
        line("isa", std::string("none: ") + e.what());
    }
    line("isa_available", join(detail::isa_available()));
    line("isa_built", join(detail::isa_built()));
    line("threads", std::to_string(detail::default_threads()));
    return text;
}

} // namespace bqq
