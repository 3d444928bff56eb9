// Which of the library's algorithms won its race, kept in a file from one process to the next: a
// race of many rows takes as long as a dozen of the product. Knows neither CUDA nor the library:
// problems and algorithms are numbers. One thread.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace inflight {

class Tactics {
 public:
  using Problem = std::array<int64_t, 7>;
  using Algorithm = std::array<uint64_t, 8>;

  /// Keeps in memory only.
  Tactics() = default;
  /// `machine`: everything that a choice holds for (device, driver, library), in one line. The file
  /// is one of the folder's, named after it. One that is missing, broken or another machine's
  /// counts as empty.
  Tactics(const std::filesystem::path& folder, std::string_view machine);

  /// Null if unknown.
  const Algorithm* find(const Problem& problem) const;
  /// Writes the file, too: beside it, then renamed over it, with what another process has added
  /// meanwhile. Where that fails the choice is this process's alone.
  void add(const Problem& problem, const Algorithm& algorithm);

  const std::filesystem::path& path() const { return path_; }

 private:
  std::string machine_;
  std::filesystem::path path_;  // empty: memory only
  std::map<Problem, Algorithm> known_;
};

/// Where a user's tactics are: INFLIGHT_TACTICS, or inflight/tactics beside the cached engines.
/// Empty if there is no such place, or INFLIGHT_TACTICS is empty.
std::filesystem::path tactics_folder();

}  // namespace inflight
