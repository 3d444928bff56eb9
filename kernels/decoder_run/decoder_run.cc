#include "kernels/decoder_run/decoder_run.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

namespace inflight {
namespace {

/// Reads rows one after another. A value that is another's chosen rows is that value: in a step of
/// one row to a sequence all are chosen.
class Rows {
 public:
  explicit Rows(std::span<const OpCall> rows) : rows_(rows) {}

  /// The next row that is no gather_rows, if it is of this op.
  const OpArgs* next(std::string_view op) {
    while (at_ < rows_.size() && rows_[at_].op->name == "gather_rows") {
      const OpArgs& args = rows_[at_++].args;
      chosen_[&args.tensor("y")] = value(args.tensor("x"));
    }
    if (at_ == rows_.size() || rows_[at_].op->name != op) return nullptr;
    return &rows_[at_++].args;
  }
  const TensorView* value(const TensorView& view) const {
    const auto found = chosen_.find(&view);
    return found == chosen_.end() ? &view : found->second;
  }
  size_t at() const { return at_; }

 private:
  std::span<const OpCall> rows_;
  size_t at_ = 0;
  std::map<const TensorView*, const TensorView*> chosen_;
};

struct LinearRow {
  bool has_norm = false, adds = false, is_gated = false;
};

/// The next row if it is such a linear of `x`.
const OpArgs* next_linear(Rows& rows, const TensorView* x, const TensorView* residual,
                          const LinearRow& kind) {
  const OpArgs* args = rows.next("fused_linear");
  if (args == nullptr || rows.value(args->tensor("x")) != x) return nullptr;
  const TensorView& added = args->optional_tensor("residual");
  const bool is_such = args->attribute_or<bool>("gated", false) == kind.is_gated &&
                       static_cast<bool>(args->optional_tensor("norm_weight")) == kind.has_norm &&
                       static_cast<bool>(added) == kind.adds &&
                       (!kind.adds || rows.value(added) == residual);
  return is_such ? args : nullptr;
}

/// Whether a second layer has what the first one has.
template <typename Value>
bool is_same(Value& known, const Value& value, bool is_first) {
  if (is_first) known = value;
  return known == value;
}

bool has_bias(const OpArgs& args) { return static_cast<bool>(args.optional_tensor("bias")); }

/// Adds the layer that comes next and answers its output, or null.
const TensorView* next_layer(Rows& rows, const TensorView* x, DecoderRunParams& run) {
  const bool is_first = run.layers.empty();
  const OpArgs* qkv = next_linear(rows, x, nullptr, {.has_norm = true});
  if (qkv == nullptr) return nullptr;
  const OpArgs* attention = rows.next("rope_attention");
  const OpArgs* append = attention;
  if (attention == nullptr) {
    append = rows.next("rope_kv_append");
    if (append == nullptr) return nullptr;
    attention = rows.next("attention");
    if (attention == nullptr || rows.value(attention->tensor("q")) != &append->tensor("q") ||
        &attention->tensor("kv_cache") != &append->tensor("kv_cache"))
      return nullptr;
  }
  if (rows.value(append->tensor("qkv")) != &qkv->tensor("y")) return nullptr;
  const OpArgs* output = next_linear(rows, &attention->tensor("y"), x, {.adds = true});
  if (output == nullptr || has_bias(*output)) return nullptr;
  const TensorView* middle = &output->tensor("y");
  const OpArgs* gate_up = next_linear(rows, middle, nullptr, {.has_norm = true, .is_gated = true});
  if (gate_up == nullptr || has_bias(*gate_up)) return nullptr;
  const OpArgs* down = next_linear(rows, &gate_up->tensor("y"), middle, {.adds = true});
  if (down == nullptr || has_bias(*down)) return nullptr;
  const auto size = [&](std::string_view name) { return attention->attribute<int64_t>(name); };
  const auto epsilon = [](const OpArgs* args) {
    return static_cast<float>(args->attribute<double>("epsilon"));
  };
  const bool is_alike =
      is_same(run.cos_sin, &append->tensor("cos_sin"), is_first) &&
      is_same(run.block_tables, &attention->tensor("block_tables"), is_first) &&
      is_same(run.kv_lengths, &attention->tensor("kv_lengths"), is_first) &&
      is_same(run.num_heads, size("num_heads"), is_first) &&
      is_same(run.num_kv_heads, size("num_kv_heads"), is_first) &&
      is_same(run.head_size, size("head_size"), is_first) &&
      is_same(run.scale, static_cast<float>(attention->attribute<double>("scale")), is_first) &&
      is_same(run.epsilon, epsilon(qkv), is_first) && epsilon(gate_up) == run.epsilon &&
      attention->attribute_or<int64_t>("window", 0) == 0;
  if (!is_alike) return nullptr;
  run.layers.push_back({.input_norm = &qkv->tensor("norm_weight"),
                        .qkv = &qkv->tensor("weight"),
                        .qkv_bias = &qkv->optional_tensor("bias"),
                        .output = &output->tensor("weight"),
                        .post_norm = &gate_up->tensor("norm_weight"),
                        .gate_up = &gate_up->tensor("weight"),
                        .down = &down->tensor("weight"),
                        .kv_cache = &attention->tensor("kv_cache")});
  return &down->tensor("y");
}

/// Adds the linear of all of the last rows, if that comes next.
bool add_head(Rows& rows, DecoderRunParams& run) {
  const OpArgs* head = next_linear(rows, run.y, nullptr, {.has_norm = true});
  if (head == nullptr || has_bias(*head) || head->tensor("y").dtype != DType::kFloat32 ||
      static_cast<float>(head->attribute<double>("epsilon")) != run.epsilon)
    return false;
  run.head_norm = &head->tensor("norm_weight");
  run.head = &head->tensor("weight");
  run.logits = &head->tensor("y");
  return true;
}

/// Whether rows behind the run's read what it does not write.
bool is_read_behind(std::span<const OpCall> rows, size_t num_rows, const DecoderRunParams& run) {
  std::vector<const TensorView*> made;
  for (const OpCall& row : rows.first(num_rows)) {
    for (const TensorSpec& output : row.op->signature.outputs)
      made.push_back(&row.args.tensor(output.name));
  }
  for (const OpCall& row : rows.subspan(num_rows)) {
    for (const TensorSpec& input : row.op->signature.inputs) {
      const TensorView* read = &row.args.optional_tensor(input.name);
      if (read != run.y && read != run.logits && std::ranges::find(made, read) != made.end())
        return true;
    }
  }
  return false;
}

}  // namespace

OpRun find_decoder_run(std::span<const OpCall> rows) {
  if (rows.empty() || rows[0].op->name != "fused_linear") return {};
  DecoderRunParams run;
  run.x = &rows[0].args.tensor("x");
  if (run.x->device.type != DeviceType::kCuda) return {};
  Rows reader(rows);
  size_t num_rows = 0;
  for (const TensorView* y = run.x; run.layers.size() < kMaxRunLayers;) {
    Rows ahead = reader;
    y = next_layer(ahead, y, run);
    if (y == nullptr) break;
    run.y = y;
    reader = ahead;
    num_rows = reader.at();
  }
  if (run.layers.empty()) return {};
  if (add_head(reader, run)) {
    num_rows = reader.at();
  } else if (run.layers.size() < kMaxRunLayers && num_rows < rows.size() &&
             rows[num_rows].op->name == "fused_linear") {
    return {};  // among layers that differ, linears' own runs reach over the end of this one
  }
  if (is_read_behind(rows, num_rows, run)) return {};
#ifdef INFLIGHT_CUDA
  const size_t bytes = cuda::decoder_run_memory_bytes(run, run.x->device);
  return {num_rows, bytes, [run = std::move(run)](OpContext& context, void* memory) {
            return cuda::decoder_run(run, memory, context);
          }};
#else
  return {};
#endif
}

}  // namespace inflight
