// The `parameters` of a model's config.pbtxt: typed, with what became of each. Knows no server.
#pragma once

#include <charconv>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace inflight::triton {

/// What became of a parameter.
struct ParameterUse {
  enum class Source {
    kGiven,     // config.pbtxt
    kDefault,   // absent, or unreadable
    kNoEffect,  // of the former backend: accepted, changes nothing
    kUnknown
  };
  std::string key;
  std::string value;  // in effect; of the last two kinds, what was given
  Source source = Source::kDefault;
};

/// A value that is empty or still a template placeholder counts as absent; blanks around one are no
/// part of it. Remembers what was asked for, so that the rest can be named.
class Parameters {
 public:
  /// Warnings go to `warnings`, which outlives it.
  Parameters(std::map<std::string, std::string> given, std::vector<std::string>& warnings);

  /// Nothing where the parameter is absent or, but for texts, unreadable, which is warned of.
  /// `otherwise` says, in the list of uses, what holds then.
  std::optional<std::string> text(const std::string& key, const std::string& otherwise);
  template <typename T>
  std::optional<T> number(const std::string& key, const std::string& otherwise) {
    const std::optional<std::string> value = text(key, otherwise);
    if (!value) return std::nullopt;
    T parsed{};
    const char* end = value->data() + value->size();
    const auto [stop, failure] = std::from_chars(value->data(), end, parsed);
    if (failure == std::errc() && stop == end) return parsed;
    unreadable("a number", otherwise);
    return std::nullopt;
  }
  bool flag(const std::string& key, bool otherwise);
  /// A text that is one of these, `otherwise` too.
  std::string one_of(const std::string& key, const std::string& otherwise,
                     const std::vector<std::string>& names);
  /// Warns that the value of the parameter asked for last is not what is `expected`; `otherwise`
  /// holds.
  void unreadable(const std::string& expected, const std::string& otherwise);

  /// Those asked for, in that order, then the others that were given.
  std::vector<ParameterUse> uses() const;
  /// What nobody asked for: parameters of the former backend, or mistakes. Warns of what has no
  /// effect, raises Error for values that cannot be served, lists the harmless in `notes`.
  void judge_the_rest(std::vector<std::string>& notes);

 private:
  std::map<std::string, std::string> given_;
  std::vector<ParameterUse> asked_;
  std::vector<std::string>& warnings_;
};

}  // namespace inflight::triton
