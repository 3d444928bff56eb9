// Chooses the kernels of a step by what the host knows: dtypes, sizes, T and B.
#include <algorithm>

#include "kernels/attention/attention_cuda.h"

namespace inflight::cuda {

void attention(const AttentionParams& params, OpContext& context) {
  const bool decode = decode_suits(params, context);
  // As many rows as sequences: a step of generation, one row each.
  if (params.q.shape[0] == params.kv_lengths.shape[0]) {
    if (decode) return attention_decode(params, nullptr, context);
    return attention_generic(params, context, Rows::kAny);
  }
  const bool prefill = prefill_suits(params, context);
  if (!decode && !prefill) return attention_generic(params, context, Rows::kAny);
  if (params.kv_lengths.shape[0] > 1) {  // one alone has all of the rows
    decode ? attention_decode(params, nullptr, context)
           : attention_generic(params, context, Rows::kOne);
  }
  prefill ? attention_prefill(params, context) : attention_generic(params, context, Rows::kMany);
}

bool attention_of_qkv(const AttentionParams& params, const TensorView& cos_sin,
                      OpContext& context) {
  const bool is_generation = params.q.shape[0] == params.kv_lengths.shape[0];
  if (!is_generation || !decode_takes_qkv(params, cos_sin, context)) return false;
  attention_decode(params, &cos_sin, context);
  return true;
}

size_t attention_workspace_bytes(const AttentionParams& largest, Device device) {
  const DeviceFacts facts = device_facts(device);
  return std::max(decode_workspace_bytes(largest, facts), prefill_workspace_bytes(largest, facts));
}

}  // namespace inflight::cuda
