#include <cmath>
#include <limits>

#include "kernels/sampling/argmax.h"
#include "kernels/sampling/row_cpu.h"

namespace inflight::cpu {

void argmax(const ArgmaxParams& params, OpContext& context) {
  const int64_t length = params.logits.shape[1];
  const int64_t num_blocks = num_row_blocks(length);
  const int64_t scratch_bytes = Carver::bytes_of<float>(num_blocks);
  for_each_row(context, params.logits.shape[0], length, [&](int64_t i, int thread) {
    Carver carver(static_cast<std::byte*>(context.workspace.data) + thread * scratch_bytes);
    float* block_maxima = carver.take<float>(num_blocks);
    const float* row = params.logits.as<float>() + i * params.logits.strides[0];
    const float maximum = row_maxima(row, length, block_maxima);
    int32_t& token = params.tokens.as<int32_t>()[i];
    if (!(maximum < std::numeric_limits<float>::infinity())) {
      token = kBadLogits;
    } else if (std::isinf(maximum)) {
      token = kNoToken;
    } else {
      token = static_cast<int32_t>(first_equal(row, length, block_maxima, maximum));
    }
  });
}

}  // namespace inflight::cpu
