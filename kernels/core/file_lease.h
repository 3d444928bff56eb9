// What one of several holders may have at a time, of this process or others: a lock on a file,
// given back when its holder goes or its process ends. One thread at a time.
#pragma once

#include <chrono>
#include <filesystem>

namespace inflight {

class FileLease {
 public:
  using Time = std::chrono::steady_clock::time_point;
  /// While others hold it, it is asked for no more often than this.
  static constexpr std::chrono::seconds kPause{1};

  /// Of `file`, which is made where it is missing, for all users, and stays. An empty path, or one
  /// that cannot be opened, is never held.
  explicit FileLease(std::filesystem::path file) : file_(std::move(file)) {}
  ~FileLease() { release(); }
  FileLease(const FileLease&) = delete;
  FileLease& operator=(const FileLease&) = delete;

  bool is_held() const { return descriptor_ >= 0; }
  /// Asks for it unless it is held or was asked for less than kPause before `now`. True if this
  /// call got it.
  bool take(Time now);
  void release() noexcept;

  const std::filesystem::path& file() const { return file_; }

 private:
  std::filesystem::path file_;
  int descriptor_ = -1;
  Time next_ = Time::min();
};

/// Where files are for what is shared on this machine: $XDG_RUNTIME_DIR, or else /tmp.
std::filesystem::path runtime_directory();

}  // namespace inflight
