#include <cstring>

#include "kernels/core/check.h"
#include "kernels/gather_rows/gather_rows.h"

namespace inflight::cpu {

void gather_rows(const GatherRowsParams& params, OpContext&) {
  const auto* x = params.x.as<uint8_t>();
  const auto* rows = params.rows.as<int32_t>();
  auto* y = params.y.as<uint8_t>();
  const size_t row_bytes = params.x.shape[1] * size_of(params.x.dtype);
  for (int64_t b = 0; b < params.rows.shape[0]; ++b) {
    check(rows[b] >= 0 && rows[b] < params.x.shape[0], "gather_rows: rows[", b, "] = ", rows[b],
          " is not a row of x, which has ", params.x.shape[0]);
    std::memcpy(y + b * row_bytes, x + rows[b] * row_bytes, row_bytes);
  }
}

}  // namespace inflight::cpu
