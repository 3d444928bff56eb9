// JSON read strictly: no duplicate keys, no unknown keys, no silent conversions; every refusal
// names the file and the path of the key. Private to this folder.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>

#include "kernels/core/dtype.h"
#include "kernels/core/tensor_view.h"

namespace inflight::plan {

/// Parses `text`; raises invalid_argument starting with `file`. Nesting beyond 16 is refused.
nlohmann::json parse_json(std::string_view text, std::string_view file);

/// A JSON value and where it stands ("<file>: ranks[0].values.v3"). Holds references: the document
/// must outlive it.
class JsonValue {
 public:
  JsonValue(const nlohmann::json& json, std::string_view file, std::string path = {})
      : json_(&json), file_(file), path_(std::move(path)) {}

  const nlohmann::json& json() const { return *json_; }
  const std::string& path() const { return path_; }
  bool is_null() const { return json_->is_null(); }

  std::string string() const;
  bool boolean() const;
  /// In [min, max].
  int64_t integer(int64_t min, int64_t max = INT64_MAX) const;
  DType dtype() const;
  /// Element i of an array; `size` raises unless it is one.
  size_t size() const;
  JsonValue operator[](size_t i) const;

  [[noreturn]] void refuse(const std::string& what) const;
  /// Raises "expected `what`, got <this value>".
  [[noreturn]] void refuse_type(std::string_view what) const;

 protected:
  const nlohmann::json* json_;
  std::string file_;
  std::string path_;
};

/// An object whose keys must all be asked for: call `done` at the end.
class JsonObject : public JsonValue {
 public:
  /// Raises unless `value` is an object.
  explicit JsonObject(const JsonValue& value);

  /// The member `key`; raises if it is missing.
  JsonValue get(std::string_view key);
  bool has(std::string_view key) const { return json_->contains(key); }
  /// Calls `visit(key, JsonValue)` for each member, in order of key. For objects with free keys.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (const auto& [key, value] : json_->items()) visit(key, member(key, value));
  }
  /// Raises if the object has keys that nobody asked for.
  void done() const;

 private:
  JsonValue member(std::string_view key, const nlohmann::json& value) const;

  std::set<std::string, std::less<>> seen_;
};

}  // namespace inflight::plan
