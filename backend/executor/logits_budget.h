// Host memory that the logits of all requests under way may take: from submit until a request's
// final part. Any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "backend/executor/request.h"
#include "kernels/core/check.h"
#include "kernels/core/error.h"

namespace inflight::executor {

class LogitsBudget {
 public:
  explicit LogitsBudget(int64_t max_bytes) : max_bytes_(max_bytes) {}

  /// The same callback, which gives `bytes` back when it hears the final part or is dropped. Raises
  /// invalid_argument if they are more than there can ever be, resource_exhausted if others have
  /// taken too much of it.
  ResponseCallback charged(int64_t bytes, ResponseCallback callback) const {
    check(bytes <= max_bytes_, "the logits asked for are ", bytes,
          " bytes; max_logits_bytes allows ", max_bytes_, " for all requests together");
    int64_t taken = *taken_;
    do {
      if (taken + bytes > max_bytes_) {
        throw Error(ErrorCode::kResourceExhausted,
                    concat("the logits asked for are ", bytes, " bytes, requests under way hold ",
                           taken, " of max_logits_bytes ", max_bytes_, ": try again later"));
      }
    } while (!taken_->compare_exchange_weak(taken, taken + bytes));
    auto claim = std::make_shared<Claim>(taken_, bytes);
    return [claim = std::move(claim), callback = std::move(callback)](Response&& part) {
      if (part.is_final) claim->release();
      callback(std::move(part));
    };
  }

 private:
  struct Claim {
    Claim(std::shared_ptr<std::atomic<int64_t>> taken, int64_t bytes)
        : taken(std::move(taken)), bytes(bytes) {}
    ~Claim() { release(); }
    void release() { *taken -= std::exchange(bytes, 0); }

    std::shared_ptr<std::atomic<int64_t>> taken;
    int64_t bytes;
  };

  const int64_t max_bytes_;
  // Outlives this: claims may end with those who hold a callback.
  const std::shared_ptr<std::atomic<int64_t>> taken_ = std::make_shared<std::atomic<int64_t>>(0);
};

}  // namespace inflight::executor
