#include "kernels/rope_attention/rope_attention.h"

#include "kernels/attention/attention.h"
#include "kernels/core/check_tensor.h"
#include "kernels/gather_rows/gather_rows.h"
#include "kernels/rope/rope_kv_append.h"

namespace inflight {
namespace {

RopeKvAppendParams append_of(const RopeAttentionParams& p, const TensorView& q) {
  return {.qkv = p.qkv,
          .cos_sin = p.cos_sin,
          .slots = p.slots,
          .kv_cache = p.kv_cache,
          .q = q,
          .num_heads = p.num_heads,
          .num_kv_heads = p.num_kv_heads,
          .head_size = p.head_size};
}

/// Of `q`, one row to each of y's.
AttentionParams attention_of(const RopeAttentionParams& p, const TensorView& q,
                             const TensorView& query_starts) {
  return {.q = q,
          .kv_cache = p.kv_cache,
          .block_tables = p.block_tables,
          .query_starts = query_starts,
          .kv_lengths = p.kv_lengths,
          .y = p.y,
          .num_heads = p.num_heads,
          .num_kv_heads = p.num_kv_heads,
          .head_size = p.head_size,
          .scale = p.scale,
          .window = p.window,
          .num_sinks = p.num_sinks};
}

/// A matrix of all rotated queries at `data`; they have dtype and columns of y.
TensorView queries_at(void* data, const RopeAttentionParams& p) {
  TensorView q = p.y;
  q.data = data;
  q.shape[0] = p.qkv.shape[0];
  return q;
}

void check_params(const RopeAttentionParams& p) {
  const TensorView q = queries_at(p.y.data, p);
  check_rope_kv_append(append_of(p, q));
  if (!p.last_rows) return check_attention(attention_of(p, p.y, p.query_starts));
  check_dense("rope_attention: last_rows", p.last_rows, {p.kv_lengths.shape[0]});
  check_dtype("rope_attention: last_rows", p.last_rows, DType::kInt32);
  check_attention(attention_of(p, p.y, {}));
}

RopeAttentionParams params_of(const OpArgs& args) {
  return {.qkv = args.tensor("qkv"),
          .cos_sin = args.tensor("cos_sin"),
          .slots = args.tensor("slots"),
          .kv_cache = args.tensor("kv_cache"),
          .block_tables = args.tensor("block_tables"),
          .query_starts = args.tensor("query_starts"),
          .kv_lengths = args.tensor("kv_lengths"),
          .last_rows = args.optional_tensor("last_rows"),
          .y = args.tensor("y"),
          .num_heads = args.attribute<int64_t>("num_heads"),
          .num_kv_heads = args.attribute<int64_t>("num_kv_heads"),
          .head_size = args.attribute<int64_t>("head_size"),
          .scale = static_cast<float>(args.attribute<double>("scale")),
          .window = args.attribute_or<int64_t>("window", 0),
          .num_sinks = args.attribute_or<int64_t>("num_sinks", 0)};
}

/// The workspace begins with all rotated queries, then the last ones, if these alone are wanted.
struct Scratch {
  size_t queries, last_queries;  // bytes
  size_t used() const { return queries + last_queries; }

  static Scratch of(const RopeAttentionParams& p) {
    const auto rounded = [](size_t bytes) { return (bytes + 255) / 256 * 256; };
    return {.queries = rounded(queries_at(nullptr, p).bytes()),
            .last_queries = p.last_rows ? rounded(p.y.bytes()) : 0};
  }
};

}  // namespace

void rope_attention(const RopeAttentionParams& params, OpContext& context) {
  check_params(params);
  if (params.qkv.num_elements() == 0) return;
  const bool is_generation = params.qkv.shape[0] == params.kv_lengths.shape[0];
#ifdef INFLIGHT_CUDA
  if (context.device.type == DeviceType::kCuda && is_generation &&
      cuda::attention_of_qkv(attention_of(params, params.qkv, params.query_starts), params.cos_sin,
                             context)) {
    return;
  }
#endif
  const Scratch scratch = Scratch::of(params);
  check_internal(context.workspace.bytes >= scratch.used(), "rope_attention: workspace of ",
                 context.workspace.bytes, " bytes is too small");
  auto* data = static_cast<uint8_t*>(context.workspace.data);
  const TensorView q = queries_at(data, params);
  rope_kv_append(append_of(params, q), context);
  OpContext rest = context;
  rest.workspace.data = data + scratch.used();
  rest.workspace.bytes -= scratch.used();
  if (!params.last_rows || is_generation)
    return attention(attention_of(params, q, params.query_starts), rest);
  TensorView last = params.y;
  last.data = data + scratch.queries;
  gather_rows({.x = q, .rows = params.last_rows, .y = last}, rest);
  attention(attention_of(params, last, {}), rest);
}

OpDef rope_attention_op() {
  return {
      .name = "rope_attention",
      .signature = {.inputs = {{"qkv"},
                               {"cos_sin"},
                               {"slots"},
                               {"kv_cache"},
                               {"block_tables"},
                               {"query_starts"},
                               {"kv_lengths"},
                               {.name = "last_rows", .optional = true}},
                    .outputs = {{"y"}},
                    .attributes = {{"num_heads", "int"},
                                   {"num_kv_heads", "int"},
                                   {"head_size", "int"},
                                   {"scale", "float"},
                                   {.name = "window", .type = "int", .optional = true},
                                   {.name = "num_sinks", .type = "int", .optional = true}}},
      .check = [](const OpArgs& args) { check_params(params_of(args)); },
      .workspace_bytes =
          [](const OpArgs& args, Device device, int num_threads) {
            const RopeAttentionParams largest = params_of(args);
            const AttentionParams attention =
                attention_of(largest, largest.y, largest.query_starts);
            const size_t used = Scratch::of(largest).used();
#ifdef INFLIGHT_CUDA
            if (device.type == DeviceType::kCuda)
              return used + cuda::attention_workspace_bytes(attention, device);
#endif
            return used + cpu::attention_workspace_bytes(attention, num_threads);
          },
      .bind = [](const OpArgs& args) -> BoundOp {
        return [params = params_of(args)](OpContext& context) { rope_attention(params, context); };
      },
  };
}

}  // namespace inflight
