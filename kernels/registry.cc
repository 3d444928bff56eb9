#include "kernels/registry.h"

#include "kernels/activation/silu_mul.h"
#include "kernels/attention/attention.h"
#include "kernels/decoder_run/decoder_run.h"
#include "kernels/embedding/embedding.h"
#include "kernels/fused_linear/fused_linear.h"
#include "kernels/gather_rows/gather_rows.h"
#include "kernels/gemm/gemm.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope_kv_append.h"
#include "kernels/rope/rope_table.h"
#include "kernels/rope_attention/rope_attention.h"

namespace inflight {

std::span<const OpDef> all_ops() {
  static const OpDef ops[] = {
      embedding_op(),    rms_norm_op(),    add_rms_norm_op(),   linear_op(),
      fused_linear_op(), rope_table_op(),  rope_kv_append_op(), attention_op(),
      silu_mul_op(),     gather_rows_op(), rope_attention_op(),
  };
  return ops;
}

const OpDef* find_op(std::string_view name) {
  for (const OpDef& op : all_ops()) {
    if (op.name == name) return &op;
  }
  return nullptr;
}

OpRun find_run(std::span<const OpCall> rows) { return find_decoder_run(rows); }

}  // namespace inflight
