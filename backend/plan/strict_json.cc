#include "backend/plan/strict_json.h"

#include <unordered_set>
#include <utility>
#include <vector>

namespace inflight::plan {

namespace {
constexpr int kMaxDepth = 16;
constexpr size_t kMaxShownBytes = 60;

/// A value as it stands in the file, shortened.
std::string shown(const nlohmann::json& json) {
  if (json.is_object()) return "an object";
  if (json.is_array()) return concat("an array of ", json.size());
  std::string text = json.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > kMaxShownBytes) text = text.substr(0, kMaxShownBytes) + "...";
  return text;
}
}  // namespace

nlohmann::json parse_json(std::string_view text, std::string_view file) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::unordered_set<std::string>> keys;  // of each open object
  int depth = 0;
  auto watch = [&](int, Event event, nlohmann::json& parsed) {
    if (event == Event::object_start || event == Event::array_start) {
      check(++depth <= kMaxDepth, file, ": nested deeper than ", kMaxDepth);
    }
    if (event == Event::object_end || event == Event::array_end) --depth;
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key) {
      check(keys.back().insert(parsed.get_ref<const std::string&>()).second, file,
            ": duplicate key ", shown(parsed));
    }
    return true;
  };
  // The parser would take a zero byte for the end and not look at what follows.
  const size_t zero = text.find('\0');
  check(zero == std::string_view::npos, file, ": not valid JSON at byte ", zero + 1, " of ",
        text.size());
  try {
    return nlohmann::json::parse(text.begin(), text.end(), watch);
  } catch (const nlohmann::json::parse_error& error) {
    // Its own message quotes the input's bytes, which need not be text.
    throw Error(ErrorCode::kInvalidArgument,
                concat(file, ": not valid JSON at byte ", error.byte, " of ", text.size()));
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::kInvalidArgument,
                concat(file, ": not valid JSON: a number is out of range"));
  }
}

void JsonValue::refuse(const std::string& what) const {
  throw Error(ErrorCode::kInvalidArgument,
              concat(file_, ": ", path_.empty() ? "" : path_ + ": ", what));
}

void JsonValue::refuse_type(std::string_view what) const {
  refuse(concat("expected ", what, ", got ", shown(*json_)));
}

std::string JsonValue::string() const {
  if (!json_->is_string()) refuse_type("a string");
  return json_->get<std::string>();
}

bool JsonValue::boolean() const {
  if (!json_->is_boolean()) refuse_type("true or false");
  return json_->get<bool>();
}

int64_t JsonValue::integer(int64_t min, int64_t max) const {
  const bool fits = json_->is_number_integer() &&
                    !(json_->is_number_unsigned() && json_->get<uint64_t>() > INT64_MAX);
  const int64_t value = fits ? json_->get<int64_t>() : 0;
  if (!fits || value < min || value > max) {
    refuse_type(max == INT64_MAX ? concat("an integer of at least ", min)
                                 : concat("an integer from ", min, " to ", max));
  }
  return value;
}

DType JsonValue::dtype() const {
  const auto dtype =
      json_->is_string() ? dtype_from_name(json_->get_ref<const std::string&>()) : std::nullopt;
  if (!dtype) refuse_type("a dtype");
  return *dtype;
}

size_t JsonValue::size() const {
  if (!json_->is_array()) refuse_type("an array");
  return json_->size();
}

JsonValue JsonValue::operator[](size_t i) const {
  return JsonValue((*json_)[i], file_, concat(path_, "[", i, "]"));
}

JsonObject::JsonObject(const JsonValue& value) : JsonValue(value) {
  if (!json_->is_object()) refuse_type("an object");
}

JsonValue JsonObject::member(std::string_view key, const nlohmann::json& value) const {
  return JsonValue(value, file_, path_.empty() ? std::string(key) : concat(path_, ".", key));
}

JsonValue JsonObject::get(std::string_view key) {
  const auto found = json_->find(key);
  if (found == json_->end()) refuse(concat("key \"", key, "\" is missing"));
  seen_.emplace(key);
  return member(key, *found);
}

void JsonObject::done() const {
  for (const auto& [key, value] : json_->items()) {
    if (!seen_.contains(key)) refuse(concat("unknown key ", nlohmann::json(key).dump()));
  }
}

}  // namespace inflight::plan
