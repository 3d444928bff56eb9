// The little that the C++ test programs need: named cases in order, expectations that go on after a
// failure, an exit status. `program [case]...` runs all cases or those named.
#pragma once

#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "kernels/core/error.h"

namespace inflight::testing {

inline int num_failures = 0;

template <typename... Parts>
void fail(const char* file, int line, const Parts&... parts) {
  ++num_failures;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, concat(parts...).c_str());
}

struct Case {
  const char* name;
  std::function<void()> run;
};

/// What main returns.
inline int run_cases(const std::vector<Case>& cases, int argc, char** argv) {
  for (const Case& one : cases) {
    bool wanted = argc < 2;
    for (int i = 1; i < argc; ++i) wanted |= std::strcmp(argv[i], one.name) == 0;
    if (!wanted) continue;
    const int before = num_failures;
    try {
      one.run();
    } catch (const std::exception& error) {
      fail(one.name, 0, "raised: ", error.what());
    }
    std::printf("%s %s\n", num_failures > before ? "FAILED" : "passed", one.name);
    std::fflush(stdout);
  }
  return num_failures == 0 ? 0 : 1;
}

}  // namespace inflight::testing

#define EXPECT(condition)                                                                   \
  do {                                                                                      \
    if (!(condition)) ::inflight::testing::fail(__FILE__, __LINE__, "not so: " #condition); \
  } while (false)

#define EXPECT_EQ(left, right)                                                                    \
  do {                                                                                            \
    const auto left_value = (left); /* copies: parts of temporaries do not outlive them */        \
    const auto right_value = (right);                                                             \
    if (!(left_value == right_value))                                                             \
      ::inflight::testing::fail(__FILE__, __LINE__, #left " is ", left_value, ", " #right " is ", \
                                right_value);                                                     \
  } while (false)

/// `statement` must raise an error whose message contains `fragment`.
#define EXPECT_RAISES(statement, fragment)                                     \
  do {                                                                         \
    std::string raised = "nothing";                                            \
    try {                                                                      \
      (void)(statement);                                                       \
    } catch (const std::exception& error) {                                    \
      raised = error.what();                                                   \
    }                                                                          \
    if (raised.find(fragment) == std::string::npos)                            \
      ::inflight::testing::fail(__FILE__, __LINE__, "wanted \"", fragment,     \
                                "\" raised by " #statement ", got: ", raised); \
  } while (false)
