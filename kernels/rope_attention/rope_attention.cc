#include "kernels/rope_attention/rope_attention.h"

#include "kernels/attention/attention.h"
#include "kernels/core/check.h"
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

AttentionParams attention_of(const RopeAttentionParams& p, const TensorView& q) {
  return {.q = q,
          .kv_cache = p.kv_cache,
          .block_tables = p.block_tables,
          .query_starts = p.query_starts,
          .kv_lengths = p.kv_lengths,
          .y = p.y,
          .num_heads = p.num_heads,
          .num_kv_heads = p.num_kv_heads,
          .head_size = p.head_size,
          .scale = p.scale,
          .window = p.window,
          .num_sinks = p.num_sinks};
}

void check_params(const RopeAttentionParams& p) {
  // Rotated queries have shape and dtype of y.
  check_rope_kv_append(append_of(p, p.y));
  check_attention(attention_of(p, p.y));
}

RopeAttentionParams params_of(const OpArgs& args) {
  return {.qkv = args.tensor("qkv"),
          .cos_sin = args.tensor("cos_sin"),
          .slots = args.tensor("slots"),
          .kv_cache = args.tensor("kv_cache"),
          .block_tables = args.tensor("block_tables"),
          .query_starts = args.tensor("query_starts"),
          .kv_lengths = args.tensor("kv_lengths"),
          .y = args.tensor("y"),
          .num_heads = args.attribute<int64_t>("num_heads"),
          .num_kv_heads = args.attribute<int64_t>("num_kv_heads"),
          .head_size = args.attribute<int64_t>("head_size"),
          .scale = static_cast<float>(args.attribute<double>("scale")),
          .window = args.attribute_or<int64_t>("window", 0),
          .num_sinks = args.attribute_or<int64_t>("num_sinks", 0)};
}

/// Of the rotated queries, which begin the workspace.
size_t query_bytes(const RopeAttentionParams& p) { return (p.y.bytes() + 255) / 256 * 256; }

}  // namespace

void rope_attention(const RopeAttentionParams& params, OpContext& context) {
  check_params(params);
  if (params.y.num_elements() == 0) return;
#ifdef INFLIGHT_CUDA
  if (context.device.type == DeviceType::kCuda &&
      cuda::attention_of_qkv(attention_of(params, params.qkv), params.cos_sin, context)) {
    return;
  }
#endif
  const size_t used = query_bytes(params);
  check_internal(context.workspace.bytes >= used, "rope_attention: workspace of ",
                 context.workspace.bytes, " bytes is too small");
  TensorView q = params.y;
  q.data = context.workspace.data;
  rope_kv_append(append_of(params, q), context);
  OpContext rest = context;
  rest.workspace.data = static_cast<uint8_t*>(context.workspace.data) + used;
  rest.workspace.bytes -= used;
  attention(attention_of(params, q), rest);
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
                               {"kv_lengths"}},
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
            const AttentionParams attention = attention_of(largest, largest.y);
#ifdef INFLIGHT_CUDA
            if (device.type == DeviceType::kCuda)
              return query_bytes(largest) + cuda::attention_workspace_bytes(attention, device);
#endif
            return query_bytes(largest) + cpu::attention_workspace_bytes(attention, num_threads);
          },
      .bind = [](const OpArgs& args) -> BoundOp {
        return [params = params_of(args)](OpContext& context) { rope_attention(params, context); };
      },
  };
}

}  // namespace inflight
