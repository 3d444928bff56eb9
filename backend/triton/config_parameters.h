// The `parameters` of a model's configuration as Triton gives it, JSON.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace inflight::triton {

inline std::map<std::string, std::string> given_parameters(const nlohmann::json& config) {
  std::map<std::string, std::string> given;
  const auto found = config.find("parameters");
  if (found == config.end() || !found->is_object()) return given;
  for (const auto& [key, value] : found->items())
    given.emplace(key, value.value("string_value", ""));
  return given;
}

}  // namespace inflight::triton
