// A step's logits, request by request.
#pragma once

#include <span>

#include "backend/decoding/logits_copies.h"
#include "kernels/core/error.h"

namespace inflight::executor {

/// Hands out the rows of logits that a step copied, in the order in which they were wanted.
class LogitsReader {
 public:
  LogitsReader(std::span<const float> rows, std::span<const decoding::LogitsRows> wanted)
      : rows_(rows), wanted_(wanted) {
    size_t count = 0;
    for (const decoding::LogitsRows& each : wanted) count += each.count;
    check_internal(count == 0 ? rows.empty() : rows.size() % count == 0, "the step copied ",
                   rows.size(), " logits for ", count, " rows");
    row_size_ = count == 0 ? 0 : rows.size() / count;
  }
  std::span<const float> next() {
    const size_t size = wanted_.front().count * row_size_;
    const std::span<const float> result = rows_.first(size);
    wanted_ = wanted_.subspan(1);
    rows_ = rows_.subspan(size);
    return result;
  }

 private:
  std::span<const float> rows_;
  std::span<const decoding::LogitsRows> wanted_;
  size_t row_size_;
};

}  // namespace inflight::executor
