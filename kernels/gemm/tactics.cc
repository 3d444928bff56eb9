#include "kernels/gemm/tactics.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <system_error>

namespace inflight {
namespace {

// A file: this line, the machine's, a line per problem with its numbers and the algorithm's in
// hexadecimal, and how many they are with the hash of all lines before.
constexpr std::string_view kHeader = "inflight tactics 2";

uint64_t hash_of(std::string_view text) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211u;
  return hash;
}

using Known = std::map<Tactics::Problem, Tactics::Algorithm>;

std::string text_of(const Known& known, const std::string& machine) {
  std::ostringstream out;
  out << kHeader << '\n' << machine << '\n';
  for (const auto& [problem, algorithm] : known) {
    for (const int64_t number : problem) out << std::dec << number << ' ';
    for (const uint64_t word : algorithm) out << std::hex << word << ' ';
    out << '\n';
  }
  std::string text = out.str();
  std::ostringstream end;
  end << "end " << known.size() << ' ' << std::hex << hash_of(text) << '\n';
  return text + end.str();
}

std::optional<Known> parse(const std::string& text, const std::string& machine) {
  std::istringstream lines(text);
  std::string line;
  if (!std::getline(lines, line) || line != kHeader) return std::nullopt;
  if (!std::getline(lines, line) || line != machine) return std::nullopt;
  Known known;
  while (std::getline(lines, line) && !line.starts_with("end ")) {
    std::istringstream numbers(line);
    Tactics::Problem problem;
    Tactics::Algorithm algorithm;
    for (int64_t& number : problem) numbers >> std::dec >> number;
    for (uint64_t& word : algorithm) numbers >> std::hex >> word;
    if (!numbers) return std::nullopt;
    known.emplace(problem, algorithm);
  }
  // The last line, too: a file that ends early, or of which a bit has changed, is none.
  if (text_of(known, machine) != text) return std::nullopt;
  return known;
}

std::optional<Known> read(const std::filesystem::path& path, const std::string& machine) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return std::nullopt;
  return parse(text.str(), machine);
}

void write(const std::filesystem::path& path, const std::string& text) {
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  const std::filesystem::path beside = path.string() + "." + std::to_string(getpid());
  {
    std::ofstream file(beside, std::ios::binary | std::ios::trunc);
    if (!file.write(text.data(), static_cast<std::streamsize>(text.size())) || !file.flush()) {
      file.close();
      std::filesystem::remove(beside, error);
      return;
    }
  }
  std::filesystem::rename(beside, path, error);
  if (error) std::filesystem::remove(beside, error);
}

}  // namespace

Tactics::Tactics(const std::filesystem::path& folder, std::string_view machine)
    : machine_(machine) {
  if (folder.empty()) return;
  std::ostringstream name;
  name << std::hex << hash_of(machine_) << ".txt";
  path_ = folder / name.str();
  if (auto known = read(path_, machine_)) known_ = std::move(*known);
}

const Tactics::Algorithm* Tactics::find(const Problem& problem) const {
  const auto found = known_.find(problem);
  return found == known_.end() ? nullptr : &found->second;
}

void Tactics::add(const Problem& problem, const Algorithm& algorithm) {
  known_[problem] = algorithm;
  if (path_.empty()) return;
  if (auto others = read(path_, machine_)) known_.merge(*others);
  write(path_, text_of(known_, machine_));
}

std::filesystem::path tactics_folder() {
  if (const char* named = std::getenv("INFLIGHT_TACTICS")) return named;
  std::filesystem::path base;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0') {
    base = cache;
  } else if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') {
    base = std::filesystem::path(home) / ".cache";
  } else {
    return {};
  }
  return base / "inflight" / "tactics";
}

}  // namespace inflight
