// A test runner in one header: TEST(name) { CHECK(...); }  main() runs all, or those whose name contains argv[1].
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

namespace check {

struct Case {
    const char* name;
    void (*run)();
};
inline std::vector<Case>& cases() {
    static std::vector<Case> all;
    return all;
}
inline int& failures() {
    static int count = 0;
    return count;
}
struct Register {
    Register(const char* name, void (*run)()) { cases().push_back({name, run}); }
};
inline void fail(const char* file, int line, const std::string& text) {
    if (++failures() <= 40) std::printf("%s:%d: %s\n", file, line, text.c_str());
}

} // namespace check

#define TEST(name)                                                                                                     \
    static void test_##name();                                                                                         \
    static check::Register register_##name(#name, test_##name);                                                        \
    static void test_##name()

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) check::fail(__FILE__, __LINE__, "CHECK failed: " #condition);                                \
    } while (0)

#define CHECK_EQ(a, b)                                                                                                 \
    do {                                                                                                               \
        auto va = (a);                                                                                                 \
        auto vb = (b);                                                                                                 \
        if (!(va == vb)) check::fail(__FILE__, __LINE__, "CHECK_EQ failed: " #a " == " #b);                            \
    } while (0)

/// |a - b| <= tol, and neither is NaN.
#define CHECK_NEAR(a, b, tol)                                                                                          \
    do {                                                                                                               \
        double va = (a), vb = (b), vt = (tol);                                                                         \
        if (!(std::fabs(va - vb) <= vt)) {                                                                             \
            char text[256];                                                                                            \
            std::snprintf(text, sizeof text, "CHECK_NEAR failed: %s = %.17g, %s = %.17g, differ by %.3g > %.3g", #a,   \
                          va, #b, vb, va - vb, vt);                                                                    \
            check::fail(__FILE__, __LINE__, text);                                                                     \
        }                                                                                                              \
    } while (0)

/// The expression throws `type` and its text contains `part`.
#define CHECK_THROWS(expression, type, part)                                                                           \
    do {                                                                                                               \
        bool thrown = false;                                                                                           \
        try {                                                                                                          \
            (void)(expression);                                                                                        \
        } catch (const type& e) {                                                                                      \
            thrown = true;                                                                                             \
            if (!std::strstr(e.what(), part))                                                                          \
                check::fail(__FILE__, __LINE__, std::string("text lacks '") + part + "': " + e.what());                \
        }                                                                                                              \
        if (!thrown) check::fail(__FILE__, __LINE__, "nothing thrown by " #expression);                                \
    } while (0)

int main(int argc, char** argv) {
    int run = 0;
    for (const auto& c : check::cases()) {
        if (argc > 1 && !std::strstr(c.name, argv[1])) continue;
        ++run;
        const int before = check::failures();
        try {
            c.run();
        } catch (const std::exception& e) {
            check::fail(c.name, 0, std::string("unexpected exception: ") + e.what());
        }
        std::printf("%-60s %s\n", c.name, check::failures() == before ? "ok" : "FAILED");
    }
    std::printf("%d tests, %d failures\n", run, check::failures());
    return check::failures() || !run ? 1 : 0;
}
