// The `parameters` of the former backend that have no place here: what becomes of each. Pure; knows
// no JSON and no engine.
#pragma once

#include <string>
#include <string_view>

namespace inflight::triton {

struct FormerParameter {
  enum class Kind {
    kUnknown,   // not one of them
    kHarmless,  // no answer depends on it
    kNoEffect,  // the value asks for something that is not there; requests are served without it
    kRefused,   // no request would be served as the value asks
  };
  Kind kind = Kind::kUnknown;
  std::string reason;  // of kNoEffect and kRefused
};

FormerParameter judge_former_parameter(std::string_view key, std::string_view value);

}  // namespace inflight::triton
