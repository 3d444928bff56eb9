#include "backend/triton/parameters.h"

#include <algorithm>
#include <utility>

#include "backend/triton/former_parameters.h"
#include "kernels/core/error.h"

namespace inflight::triton {

namespace {

std::string without_outer_blanks(const std::string& value) {
  constexpr const char* kBlanks = " \t\r\n";
  const size_t begin = value.find_first_not_of(kBlanks);
  if (begin == std::string::npos) return "";
  return value.substr(begin, value.find_last_not_of(kBlanks) - begin + 1);
}

bool counts_as_absent(const std::string& value) {
  return value.empty() || value.rfind("${", 0) == 0;
}

}  // namespace

Parameters::Parameters(std::map<std::string, std::string> given, std::vector<std::string>& warnings)
    : given_(std::move(given)), warnings_(warnings) {
  for (auto& [key, value] : given_) value = without_outer_blanks(value);
  std::erase_if(given_, [](const auto& entry) { return counts_as_absent(entry.second); });
}

std::optional<std::string> Parameters::text(const std::string& key, const std::string& otherwise) {
  const auto found = given_.find(key);
  const bool is_given = found != given_.end();
  asked_.push_back({key, is_given ? found->second : otherwise,
                    is_given ? ParameterUse::Source::kGiven : ParameterUse::Source::kDefault});
  return is_given ? std::optional(found->second) : std::nullopt;
}

bool Parameters::flag(const std::string& key, bool otherwise) {
  const char* const name = otherwise ? "true" : "false";
  const std::optional<std::string> value = text(key, name);
  if (!value) return otherwise;
  for (const char* yes : {"true", "True", "TRUE", "1"})
    if (*value == yes) return true;
  for (const char* no : {"false", "False", "FALSE", "0"})
    if (*value == no) return false;
  unreadable("true or false", name);
  return otherwise;
}

std::string Parameters::one_of(const std::string& key, const std::string& otherwise,
                               const std::vector<std::string>& names) {
  const std::optional<std::string> value = text(key, otherwise);
  if (!value || std::ranges::find(names, *value) != names.end()) return value.value_or(otherwise);
  std::string expected;
  for (const std::string& name : names)
    expected += concat(expected.empty() ? "" : (name == names.back() ? " or " : ", "), name);
  unreadable(expected, otherwise);
  return otherwise;
}

void Parameters::unreadable(const std::string& expected, const std::string& otherwise) {
  ParameterUse& use = asked_.back();
  warnings_.push_back(concat("parameter ", use.key, " = \"", use.value, "\" is not ", expected,
                             "; its default is used"));
  use.value = otherwise;
  use.source = ParameterUse::Source::kDefault;
}

std::vector<ParameterUse> Parameters::uses() const {
  std::vector<ParameterUse> uses = asked_;
  for (const auto& [key, value] : given_) {
    const auto is_this = [&key](const ParameterUse& use) { return use.key == key; };
    if (std::ranges::any_of(asked_, is_this)) continue;
    const bool is_unknown =
        judge_former_parameter(key, value).kind == FormerParameter::Kind::kUnknown;
    uses.push_back({key, value,
                    is_unknown ? ParameterUse::Source::kUnknown : ParameterUse::Source::kNoEffect});
  }
  return uses;
}

void Parameters::judge_the_rest(std::vector<std::string>& notes) {
  std::string harmless;
  for (const ParameterUse& use : uses()) {
    if (use.source != ParameterUse::Source::kUnknown &&
        use.source != ParameterUse::Source::kNoEffect)
      continue;
    const FormerParameter judged = judge_former_parameter(use.key, use.value);
    const std::string what = concat("parameter ", use.key, " = \"", use.value, "\"");
    switch (judged.kind) {
      case FormerParameter::Kind::kHarmless:
        harmless += harmless.empty() ? use.key : concat(", ", use.key);
        break;
      case FormerParameter::Kind::kUnknown:
        warnings_.push_back(concat(what, " has no effect"));
        break;
      case FormerParameter::Kind::kNoEffect:
        warnings_.push_back(concat(what, " has no effect: ", judged.reason));
        break;
      case FormerParameter::Kind::kRefused:
        throw Error(ErrorCode::kUnsupported, concat(what, ": ", judged.reason));
    }
  }
  if (!harmless.empty())
    notes.push_back(concat("parameters of the former backend that change nothing: ", harmless));
}

}  // namespace inflight::triton
