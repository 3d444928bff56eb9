#include "kernels/attention/attention.h"

#include "kernels/core/check_tensor.h"
#include "kernels/core/dispatch.h"

namespace inflight {
void check_attention(const AttentionParams& p) {
  const int64_t num_sequences = p.kv_lengths.shape[0];
  check(p.num_kv_heads > 0 && p.num_heads > 0 && p.num_heads % p.num_kv_heads == 0,
        "attention: num_heads must be a multiple of num_kv_heads, got ", p.num_heads, " and ",
        p.num_kv_heads);
  check(p.head_size > 0, "attention: head_size must be positive, got ", p.head_size);
  check(p.window >= 0 && p.num_sinks >= 0 && (p.window > 0 || p.num_sinks == 0),
        "attention: window must be at least 0 (all tokens), num_sinks too, and without a window 0; "
        "got ",
        p.window, " and ", p.num_sinks);
  check_dense("attention: q", p.q, {-1, p.num_heads * p.head_size});
  check_shape("attention: kv_cache", p.kv_cache, {-1, 2, p.num_kv_heads, -1, p.head_size});
  check_blocks_dense("attention: kv_cache", p.kv_cache);
  check_dense("attention: block_tables", p.block_tables, {num_sequences, -1});
  if (p.query_starts) {
    check_dense("attention: query_starts", p.query_starts, {num_sequences + 1});
    check_dtype("attention: query_starts", p.query_starts, DType::kInt32);
  } else {
    check(p.q.shape[0] == num_sequences,
          "attention: without query_starts each sequence has one row, got ", p.q.shape[0],
          " rows of ", num_sequences, " sequences");
  }
  check_dense("attention: kv_lengths", p.kv_lengths, {-1});
  check_dense("attention: y", p.y, {p.q.shape[0], p.num_heads * p.head_size});
  check_floating("attention: q", p.q);
  check_floating("attention: kv_cache", p.kv_cache);
  check_dtype("attention: block_tables", p.block_tables, DType::kInt32);
  check_dtype("attention: kv_lengths", p.kv_lengths, DType::kInt32);
  check_dtype("attention: y", p.y, p.q.dtype);
}

namespace {

AttentionParams params_of(const OpArgs& args) {
  return {.q = args.tensor("q"),
          .kv_cache = args.tensor("kv_cache"),
          .block_tables = args.tensor("block_tables"),
          .query_starts = args.optional_tensor("query_starts"),
          .kv_lengths = args.tensor("kv_lengths"),
          .y = args.tensor("y"),
          .num_heads = args.attribute<int64_t>("num_heads"),
          .num_kv_heads = args.attribute<int64_t>("num_kv_heads"),
          .head_size = args.attribute<int64_t>("head_size"),
          .scale = static_cast<float>(args.attribute<double>("scale")),
          .window = args.attribute_or<int64_t>("window", 0),
          .num_sinks = args.attribute_or<int64_t>("num_sinks", 0)};
}

}  // namespace

void attention(const AttentionParams& params, OpContext& context) {
  check_attention(params);
  if (params.y.num_elements() == 0) return;
  INFLIGHT_DISPATCH(attention, params, context);
}

OpDef attention_op() {
  return {
      .name = "attention",
      .signature = {.inputs = {{"q"},
                               {"kv_cache"},
                               {"block_tables"},
                               {.name = "query_starts", .optional = true},
                               {"kv_lengths"}},
                    .outputs = {{"y"}},
                    .attributes = {{"num_heads", "int"},
                                   {"num_kv_heads", "int"},
                                   {"head_size", "int"},
                                   {"scale", "float"},
                                   {.name = "window", .type = "int", .optional = true},
                                   {.name = "num_sinks", .type = "int", .optional = true}}},
      .check = [](const OpArgs& args) { check_attention(params_of(args)); },
      .workspace_bytes =
          [](const OpArgs& args, Device device, int num_threads) {
            const AttentionParams largest = params_of(args);
#ifdef INFLIGHT_CUDA
            if (device.type == DeviceType::kCuda)
              return cuda::attention_workspace_bytes(largest, device);
#endif
            return cpu::attention_workspace_bytes(largest, num_threads);
          },
      .bind = [](const OpArgs& args) -> BoundOp {
        return [params = params_of(args)](OpContext& context) { attention(params, context); };
      },
  };
}

}  // namespace inflight
