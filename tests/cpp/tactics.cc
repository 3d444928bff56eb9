// The file of raced algorithms: found again, merged, and ignored when it is not wholly ours.
#include "kernels/gemm/tactics.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "tests/cpp/testing.h"

namespace inflight {
namespace {

namespace fs = std::filesystem;

const Tactics::Problem kProblem{128, 4096, 14336, 2, 2, -1, 1};
const Tactics::Algorithm kAlgorithm{1, 0xffffffffffffffff, 0, 42, 5, 6, 7, 8};

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "tactics_XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string text_of(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

void check_found_again() {
  const Folder folder;
  const fs::path inside = folder.path() / "a" / "b";  // is made
  Tactics first(inside, "one GPU");
  EXPECT(first.find(kProblem) == nullptr);
  first.add(kProblem, kAlgorithm);
  EXPECT(first.find(kProblem) != nullptr && *first.find(kProblem) == kAlgorithm);

  const Tactics again(inside, "one GPU");
  EXPECT(again.find(kProblem) != nullptr && *again.find(kProblem) == kAlgorithm);
  Tactics::Problem other = kProblem;
  other[6] = 0;
  EXPECT(again.find(other) == nullptr);
  const Tactics elsewhere(inside, "another GPU");
  EXPECT(elsewhere.find(kProblem) == nullptr);
  EXPECT_EQ(std::distance(fs::directory_iterator(inside), fs::directory_iterator()), 1);
}

void check_processes_add_to_each_other() {
  const Folder folder;
  Tactics first(folder.path(), "one GPU"), second(folder.path(), "one GPU");
  Tactics::Problem other = kProblem;
  other[0] = 256;
  first.add(kProblem, kAlgorithm);
  second.add(other, kAlgorithm);
  const Tactics both(folder.path(), "one GPU");
  EXPECT(both.find(kProblem) != nullptr && both.find(other) != nullptr);
}

void check_broken_files_are_none() {
  const Folder folder;
  Tactics tactics(folder.path(), "one GPU");
  tactics.add(kProblem, kAlgorithm);
  const std::string whole = text_of(tactics.path());
  const auto known = [&](const std::string& text) {
    std::ofstream(tactics.path(), std::ios::binary | std::ios::trunc) << text;
    return Tactics(folder.path(), "one GPU").find(kProblem) != nullptr;
  };
  EXPECT(known(whole));
  for (size_t length = 0; length < whole.size(); ++length) EXPECT(!known(whole.substr(0, length)));
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] ^= 1;
    EXPECT(!known(changed));
  }
  EXPECT(!known(whole + "more\n"));
  EXPECT(!known(std::string(1 << 16, '\n')));
  // A broken file is written anew.
  tactics.add(kProblem, kAlgorithm);
  EXPECT_EQ(text_of(tactics.path()), whole);
}

void check_no_place_for_it() {
  const Folder folder;
  std::ofstream(folder.path() / "file") << "not a folder";
  Tactics nowhere(folder.path() / "file", "one GPU"), memory;
  for (Tactics* tactics : {&nowhere, &memory}) {
    tactics->add(kProblem, kAlgorithm);
    EXPECT(tactics->find(kProblem) != nullptr);
  }
}

void check_folder() {
  setenv("XDG_CACHE_HOME", "/some/cache", 1);
  setenv("HOME", "/home/me", 1);
  unsetenv("INFLIGHT_TACTICS");
  EXPECT_EQ(tactics_folder(), fs::path("/some/cache/inflight/tactics"));
  unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(tactics_folder(), fs::path("/home/me/.cache/inflight/tactics"));
  unsetenv("HOME");
  EXPECT(tactics_folder().empty());
  setenv("INFLIGHT_TACTICS", "/elsewhere", 1);
  EXPECT_EQ(tactics_folder(), fs::path("/elsewhere"));
  setenv("INFLIGHT_TACTICS", "", 1);
  EXPECT(tactics_folder().empty());
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  using namespace inflight;
  return testing::run_cases({{"found_again", check_found_again},
                             {"processes", check_processes_add_to_each_other},
                             {"broken", check_broken_files_are_none},
                             {"no_place", check_no_place_for_it},
                             {"folder", check_folder}},
                            argc, argv);
}
