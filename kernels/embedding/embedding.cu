#include "kernels/embedding/embedding.h"

namespace inflight::cuda {

void embedding(const EmbeddingParams&, OpContext&) {
  throw Error(ErrorCode::kUnsupported, "embedding: not on CUDA yet");
}

}  // namespace inflight::cuda
