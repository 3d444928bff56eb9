#include "backend/plan/plan.h"

#include <algorithm>
#include <charconv>

#include "backend/plan/step_inputs.h"
#include "kernels/core/check.h"
#include "kernels/core/tensor_view.h"

namespace inflight::plan {

namespace {
constexpr int64_t kOffsetAlignment = 64;

enum class Kind { kUnknown, kValue, kWeight, kStepInput, kKvLayer };

bool is_step_input(std::string_view name, int num_kv_groups = kMaxKvGroups) {
  for (int group = 1; group < num_kv_groups; ++group) {
    if (name == group_input_name("slots", group) || name == group_input_name("block_tables", group))
      return true;
  }
  return std::any_of(kStepInputs.begin(), kStepInputs.end(),
                     [&](const StepInputSpec& spec) { return spec.name == name; });
}

Kind kind_of(const Plan& plan, std::string_view name, int num_kv_layers, int num_kv_groups) {
  if (is_step_input(name, num_kv_groups)) return Kind::kStepInput;
  if (const auto layer = kv_layer_of(name)) {
    return *layer < num_kv_layers ? Kind::kKvLayer : Kind::kUnknown;
  }
  if (plan.values.contains(name)) return Kind::kValue;
  if (plan.weights.contains(name)) return Kind::kWeight;
  return Kind::kUnknown;
}

void check_values(const Plan& plan, const StepLimits& limits, std::string_view where) {
  for (const auto& [name, value] : plan.values) {
    const int64_t bytes = value.bytes(limits.max_num_tokens, limits.max_batch_size);
    check(!plan.weights.contains(name) && !is_step_input(name) && !kv_layer_of(name), where,
          ".values.", name, ": the name is also that of a weight, a step input or a cache");
    check(value.offset % kOffsetAlignment == 0, where, ".values.", name, ".offset: ", value.offset,
          " is not a multiple of ", kOffsetAlignment);
    check(
        bytes >= 0 && value.offset <= plan.arena_bytes && bytes <= plan.arena_bytes - value.offset,
        where, ".values.", name, ": does not fit the arena of ", plan.arena_bytes,
        " bytes at offset ", value.offset);
  }
  for (const auto& [name, weight] : plan.weights) {
    check(!is_step_input(name) && !kv_layer_of(name), where, ".weights.", name,
          ": the name is also that of a step input or a cache");
  }
}

/// The values whose contents a row may still need, while walking the rows.
class LiveValues {
 public:
  LiveValues(const Plan& plan, const StepLimits& limits, std::string_view where)
      : plan_(plan), limits_(limits), where_(where) {
    for (size_t row = 0; row < plan.rows.size(); ++row) {
      for (const auto& [argument, name] : plan.rows[row].inputs) last_read_[name] = row;
    }
    last_read_[plan.logits] = plan.rows.size();
  }

  bool contains(std::string_view name) const {
    return std::any_of(live_.begin(), live_.end(),
                       [&](const Live& value) { return value.name == name; });
  }

  /// Row `row` writes `name`.
  void write(const std::string& name, size_t row) {
    check(written_.emplace(name, row).second, where_, ".plan[", row, "]: writes ", name,
          ", which an earlier row wrote");
    const ValueSpec& spec = plan_.values.find(name)->second;
    const int64_t begin = spec.offset;
    const int64_t end = begin + spec.bytes(limits_.max_num_tokens, limits_.max_batch_size);
    for (const Live& other : live_) {
      check(end <= other.begin || other.end <= begin, where_, ".plan[", row, "]: writes ", name,
            " over ", other.name, ", which is still needed");
    }
    const auto read = last_read_.find(name);
    live_.push_back({name, begin, end, read == last_read_.end() ? row : read->second});
  }

  void end_row(size_t row) {
    std::erase_if(live_, [&](const Live& value) { return value.last_row <= row; });
  }

 private:
  struct Live {
    std::string name;
    int64_t begin, end;  // bytes in the arena
    size_t last_row;     // the last that needs it
  };
  const Plan& plan_;
  const StepLimits& limits_;
  std::string_view where_;
  ByName<size_t> last_read_;
  ByName<size_t> written_;
  std::vector<Live> live_;
};
}  // namespace

std::optional<int> kv_layer_of(std::string_view name) {
  if (!name.starts_with(kKvCachePrefix)) return std::nullopt;
  name.remove_prefix(kKvCachePrefix.size());
  int layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  if (error != std::errc() || end != name.data() + name.size() || layer < 0) return std::nullopt;
  return layer;
}

int64_t ValueSpec::bytes(int64_t num_tokens, int64_t num_sequences) const {
  int64_t bytes = static_cast<int64_t>(size_of(dtype));
  for (const Dim& dim : shape) {
    if (__builtin_mul_overflow(bytes, dim.at(num_tokens, num_sequences), &bytes)) return -1;
  }
  return bytes;
}

void validate(const Plan& plan, const StepLimits& limits, int num_kv_layers, int num_kv_groups,
              std::string_view where) {
  check_values(plan, limits, where);
  LiveValues live(plan, limits, where);
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const OpRow& row = plan.rows[i];
    for (const auto& [argument, name] : row.inputs) {
      const Kind kind = kind_of(plan, name, num_kv_layers, num_kv_groups);
      check(kind != Kind::kUnknown, where, ".plan[", i, "].inputs.", argument, ": ", name,
            " is neither a value, a weight, a step input nor a cache");
      check(kind != Kind::kValue || live.contains(name), where, ".plan[", i, "].inputs.", argument,
            ": ", name, " is read before a row wrote it");
    }
    for (const auto& [argument, name] : row.outputs) {
      check(kind_of(plan, name, num_kv_layers, num_kv_groups) == Kind::kValue, where, ".plan[", i,
            "].outputs.", argument, ": ", name, " is not a value");
      live.write(name, i);
    }
    live.end_row(i);
  }
  const auto logits = plan.values.find(plan.logits);
  check(logits != plan.values.end() && live.contains(plan.logits), where,
        ".outputs.logits: ", plan.logits, " is not a value that a row writes");
  const ValueSpec& spec = logits->second;
  check(spec.dtype == DType::kFloat32 && spec.shape.size() == 2 &&
            spec.shape[0].kind == Dim::Kind::kSequences && spec.shape[1].kind == Dim::Kind::kFixed,
        where, ".outputs.logits: ", plan.logits, " must be float32 of shape [\"B\", vocab_size]");
}

}  // namespace inflight::plan
