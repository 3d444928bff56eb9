// What the sampling ops tell each other: what stands in place of a token when a row has none.
#pragma once

#include <cstdint>

namespace inflight {

inline constexpr int kMaximaChunk = 512;  // logits to one of SampleParams::chunk_maxima

inline constexpr int32_t kBadLogits = -1;  // the row holds NaN or +infinity
inline constexpr int32_t kNoToken = -2;    // the row holds nothing but -infinity: all are banned

}  // namespace inflight
