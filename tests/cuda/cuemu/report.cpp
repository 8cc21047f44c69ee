// Findings: collected as text, the first error stays as on the device.
#include "machine.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <map>
#include <set>

namespace cuemu {

cudaError_t sticky_error = cudaSuccess;

namespace {

constexpr int max_reports = 16; // until they are taken

struct Findings {
    std::string text;
    int count = 0;
    ~Findings() { // what nobody asked for fails the program
        if (text.empty()) return;
        std::fprintf(stderr, "cuemu found:\n%s", text.c_str());
        std::fflush(nullptr);
        std::_Exit(70);
    }
} findings;
std::set<std::pair<const void*, std::string>> places;

long number(const char* name, long otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtol(text, nullptr, 10) : otherwise;
}

Options from_environment() {
    Options o;
    o.seed = std::uint64_t(number("CUEMU_SEED", 0));
    o.preempt = unsigned(number("CUEMU_PREEMPT", 0));
    o.defer = number("CUEMU_DEFER", 0) != 0;
    o.protect = number("CUEMU_PROTECT", 0) != 0;
    const char* text = std::getenv("CUEMU_ORDER");
    const std::string order = text ? text : "random";
    if (order == "ascending")
        o.order = Order::ascending;
    else if (order == "descending")
        o.order = Order::descending;
    else if (order != "random") {
        std::fprintf(stderr, "CUEMU_ORDER is '%s', not ascending, descending or random\n", text);
        std::exit(2);
    }
    return o;
}

std::string addr2line(void* pc) {
    Dl_info where{};
    if (!dladdr(pc, &where) || !where.dli_fname) return "?";
    const std::size_t offset = std::size_t(static_cast<char*>(pc) - static_cast<char*>(where.dli_fbase)) - 1;
    char command[1024], line[512] = "";
    std::snprintf(command, sizeof command, "addr2line -e '%s' 0x%zx 2>/dev/null", where.dli_fname, offset);
    if (FILE* pipe = popen(command, "r")) {
        if (!std::fgets(line, sizeof line, pipe)) line[0] = 0;
        pclose(pipe);
    }
    std::string text = line;
    while (!text.empty() && text.back() == '\n') text.pop_back();
    if (text.empty() || text[0] == '?') return std::string(command, std::string(command).find(" 2>"));
    return text.substr(0, text.find(" (discriminator"));
}

} // namespace

Options& options() {
    static Options o = from_environment();
    return o;
}

std::string take_reports() {
    const std::lock_guard<std::recursive_mutex> lock(machine_mutex);
    std::string text;
    text.swap(findings.text);
    findings.count = 0;
    return text;
}

void report(cudaError_t error, const char* format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (sticky_error == cudaSuccess) sticky_error = error;
    if (findings.count++ < max_reports) findings.text += std::string(text) + "\n";
}

void new_launch_for_reports() { places.clear(); }
bool first_at(const void* place, const char* kind) { return places.insert({place, kind}).second; }

std::string source_of(Where at, void* pc) {
    if (!pc) return std::string(at.file) + ":" + std::to_string(at.line);
    static std::map<void*, std::string> known;
    auto found = known.find(pc);
    if (found == known.end()) found = known.emplace(pc, addr2line(pc)).first;
    return found->second;
}

} // namespace cuemu
