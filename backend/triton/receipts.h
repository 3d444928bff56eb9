// A page shared with postprocessing, which notes there how many ids of a stream it has made text
// of. Owns the page, a file of /dev/shm. Knows no requests; any thread may ask.
//
// A slot of 8 bytes a request, at its number modulo their count: number << 32 | ids. Requests that
// meet in a slot lose receipts, which is as if they came late.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

namespace inflight::triton {

class Receipts {
 public:
  /// Without shared memory there are no receipts, and a warning in the log.
  Receipts();
  ~Receipts();
  Receipts(const Receipts&) = delete;
  Receipts& operator=(const Receipts&) = delete;

  /// Requests are known to postprocessing by `id_base() + id`, id < 2^32: unlike those of any other
  /// page on this machine. The page is /dev/shm/inflight-<id_base() / 2^32, hexadecimal>.
  uint64_t id_base() const { return number_ << 32; }
  const std::string& path() const { return path_; }

  /// Of the request of this public id, since its start; nothing while nobody has told.
  std::optional<uint32_t> num_told(uint64_t public_id) const;

  /// Whether anybody has ever told anything: not every postprocessing does.
  bool in_use() const { return in_use_; }

 private:
  static constexpr uint64_t kNumSlots = 4096;

  uint64_t number_ = 0;
  std::string path_;
  uint64_t* slots_ = nullptr;
  mutable std::atomic<bool> in_use_ = false;
};

}  // namespace inflight::triton
