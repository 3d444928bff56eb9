// One holder of a file lease at a time, of one process too; given back by its end; asked for again
// no more often than each second; never held where there is no file to be had.
#include "backend/executor/grid_lease.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/core/log.h"
#include "tests/cpp/testing.h"

namespace inflight {
namespace {

using executor::GridLease;
using std::chrono::milliseconds;

/// A folder that goes with the object.
struct Folder {
  std::filesystem::path path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "lease-XXXXXX").string();
    EXPECT(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

FileLease::Time at(int ms) { return FileLease::Time(milliseconds(ms)); }

void check_one_holder() {
  const Folder folder;
  std::optional<FileLease> first(folder.path / "gpu");
  FileLease second(folder.path / "gpu"), other(folder.path / "another gpu");
  EXPECT(first->take(at(0)));
  EXPECT(first->is_held());
  EXPECT(!first->take(at(5000)));  // it has it
  EXPECT(!second.take(at(0)));
  EXPECT(!second.is_held());
  EXPECT(other.take(at(0)));
  first.reset();
  EXPECT(!second.take(at(999)));  // too soon after it was refused
  EXPECT(second.take(at(1000)));
  second.release();
  EXPECT(!second.is_held());
  FileLease third(folder.path / "gpu");
  EXPECT(third.take(at(1000)));
}

void check_other_processes() {
  const Folder folder;
  const std::filesystem::path file = folder.path / "gpu";
  int ready[2], end[2];
  EXPECT(pipe(ready) == 0 && pipe(end) == 0);
  const pid_t child = fork();
  if (child == 0) {
    FileLease lease(file);
    char byte = lease.take(at(0)) ? 'y' : 'n';
    if (write(ready[1], &byte, 1) != 1) _exit(2);
    close(end[1]);
    while (read(end[0], &byte, 1) > 0) {
    }
    _exit(0);  // no destructor: as if it was killed
  }
  char byte = 0;
  EXPECT(read(ready[0], &byte, 1) == 1);
  EXPECT_EQ(byte, 'y');
  FileLease lease(file);
  EXPECT(!lease.take(at(0)));
  close(end[0]);
  close(end[1]);
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT(lease.take(at(2000)));
}

/// A child that lives on with what it inherited does not keep the lease.
void check_children() {
  const Folder folder;
  std::optional<FileLease> first(folder.path / "gpu");
  EXPECT(first->take(at(0)));
  int end[2];
  EXPECT(pipe(end) == 0);
  const pid_t child = fork();
  if (child == 0) {
    char byte;
    close(end[1]);
    while (read(end[0], &byte, 1) > 0) {
    }
    _exit(0);
  }
  first.reset();
  FileLease second(folder.path / "gpu");
  EXPECT(second.take(at(0)));
  close(end[0]);
  close(end[1]);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
}

void check_files() {
  const Folder folder;
  const mode_t umask_before = umask(077);
  FileLease open_to_all(folder.path / "gpu");
  EXPECT(open_to_all.take(at(0)));
  umask(umask_before);
  struct stat facts;
  EXPECT_EQ(stat((folder.path / "gpu").c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 0777, 0666u);

  EXPECT(!FileLease({}).take(at(0)));
  EXPECT(!FileLease(folder.path / "no" / "such folder").take(at(0)));
  EXPECT(!FileLease(folder.path).take(at(0)));
  std::filesystem::create_symlink(folder.path / "gpu", folder.path / "link");
  EXPECT(!FileLease(folder.path / "link").take(at(0)));
  EXPECT_EQ(mkfifo((folder.path / "fifo").c_str(), 0666), 0);
  EXPECT(!FileLease(folder.path / "fifo").take(at(0)));
}

void check_directory() {
  setenv("XDG_RUNTIME_DIR", "/run/somebody", 1);
  EXPECT_EQ(runtime_directory(), "/run/somebody");
  setenv("XDG_RUNTIME_DIR", "", 1);
  EXPECT_EQ(runtime_directory(), "/tmp");
  unsetenv("XDG_RUNTIME_DIR");
  EXPECT_EQ(runtime_directory(), "/tmp");
}

/// What came of it is said once, and again when it changes.
void check_log() {
  const Folder folder;
  std::vector<std::string> lines;
  set_log_sink([&](LogLevel, std::string_view line) { lines.emplace_back(line); });
  {
    GridLease none({});
    EXPECT(!none.take(at(0)));
    EXPECT_EQ(lines.size(), 0u);
    std::optional<GridLease> first(folder.path / "gpu");
    GridLease second(folder.path / "gpu");
    EXPECT(first->take(at(0)));
    EXPECT(!first->take(at(9000)));
    EXPECT_EQ(lines.size(), 1u);
    for (int ms = 0; ms < 5000; ms += 500) EXPECT(!second.take(at(ms)));
    EXPECT_EQ(lines.size(), 2u);
    EXPECT(lines.back().find("another engine holds") == 0);
    first.reset();
    EXPECT(second.take(at(9000)));
    EXPECT(second.is_held());
    EXPECT_EQ(lines.size(), 3u);
    EXPECT(lines.back().find("this engine holds") == 0);
  }
  set_log_sink({});
}

void check_devices() {
  EXPECT(GridLease::file_for({DeviceType::kCpu, 0}, DType::kBFloat16).empty());
#ifdef INFLIGHT_CUDA
  if (num_cuda_devices() == 0) return;
  const Device gpu{DeviceType::kCuda, 0};
  EXPECT(GridLease::file_for(gpu, DType::kFloat32).empty());
  const DeviceFacts facts = device_facts(gpu);
  EXPECT_EQ(facts.uuid.size(), 32u);
  EXPECT_EQ(GridLease::file_for(gpu, DType::kBFloat16).empty(),
            facts.compute_capability != 90 || facts.is_shared);
#endif
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  using namespace inflight;
  return testing::run_cases({{"one_holder", check_one_holder},
                             {"other_processes", check_other_processes},
                             {"children", check_children},
                             {"files", check_files},
                             {"directory", check_directory},
                             {"log", check_log},
                             {"devices", check_devices}},
                            argc, argv);
}
