#include "kernels/rope/rope_kv_append.h"

#include "kernels/core/check_tensor.h"
#include "kernels/core/dispatch.h"

namespace inflight {
void check_rope_kv_append(const RopeKvAppendParams& p) {
  const int64_t num_tokens = p.qkv.shape[0], rope_size = p.cos_sin.shape[1];
  check(p.num_kv_heads > 0 && p.num_heads > 0 && p.num_heads % p.num_kv_heads == 0,
        "rope_kv_append: num_heads must be a multiple of num_kv_heads, got ", p.num_heads, " and ",
        p.num_kv_heads);
  check(p.head_size > 0, "rope_kv_append: head_size must be positive, got ", p.head_size);
  check_dense("rope_kv_append: qkv", p.qkv, {-1, (p.num_heads + 2 * p.num_kv_heads) * p.head_size});
  check_dense("rope_kv_append: cos_sin", p.cos_sin, {num_tokens, -1});
  check_dense("rope_kv_append: slots", p.slots, {num_tokens});
  check_shape("rope_kv_append: kv_cache", p.kv_cache, {-1, 2, p.num_kv_heads, -1, p.head_size});
  check_blocks_dense("rope_kv_append: kv_cache", p.kv_cache);
  check_dense("rope_kv_append: q", p.q, {num_tokens, p.num_heads * p.head_size});
  check(rope_size % 2 == 0 && rope_size <= p.head_size,
        "rope_kv_append: rotated dimensions must be even and at most head_size ", p.head_size,
        ", got ", rope_size);
  check_floating("rope_kv_append: qkv", p.qkv);
  check_dtype("rope_kv_append: cos_sin", p.cos_sin, DType::kFloat32);
  check_dtype("rope_kv_append: slots", p.slots, DType::kInt32);
  check_floating("rope_kv_append: kv_cache", p.kv_cache);
  check_dtype("rope_kv_append: q", p.q, p.qkv.dtype);
}

namespace {

RopeKvAppendParams params_of(const OpArgs& args) {
  return {.qkv = args.tensor("qkv"),
          .cos_sin = args.tensor("cos_sin"),
          .slots = args.tensor("slots"),
          .kv_cache = args.tensor("kv_cache"),
          .q = args.tensor("q"),
          .num_heads = args.attribute<int64_t>("num_heads"),
          .num_kv_heads = args.attribute<int64_t>("num_kv_heads"),
          .head_size = args.attribute<int64_t>("head_size")};
}

}  // namespace

void rope_kv_append(const RopeKvAppendParams& params, OpContext& context) {
  check_rope_kv_append(params);
  if (params.qkv.num_elements() == 0) return;
  INFLIGHT_DISPATCH(rope_kv_append, params, context);
}

OpDef rope_kv_append_op() {
  return {
      .name = "rope_kv_append",
      .signature = {.inputs = {{"qkv"}, {"cos_sin"}, {"slots"}, {"kv_cache"}},
                    .outputs = {{"q"}},
                    .attributes = {{"num_heads", "int"},
                                   {"num_kv_heads", "int"},
                                   {"head_size", "int"}}},
      .check = [](const OpArgs& args) { check_rope_kv_append(params_of(args)); },
      .workspace_bytes = no_workspace,
      .bind = [](const OpArgs& args) -> BoundOp {
        return [params = params_of(args)](OpContext& context) { rope_kv_append(params, context); };
      },
  };
}

}  // namespace inflight
