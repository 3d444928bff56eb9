#include "kernels/core/file_lease.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace inflight {
namespace {

/// -1 if there is no such file and none can be made, or it is no plain file.
int open_or_make(const std::filesystem::path& file) {
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
  constexpr mode_t kMode = 0666;
  int descriptor = open(file.c_str(), kFlags);
  if (descriptor < 0 && errno == ENOENT) {
    // Another user's file in a sticky folder must not be opened with O_CREAT.
    descriptor = open(file.c_str(), kFlags | O_CREAT | O_EXCL, kMode);
    if (descriptor >= 0) {
      fchmod(descriptor, kMode);  // whatever the umask
    } else if (errno == EEXIST) {
      descriptor = open(file.c_str(), kFlags);
    }
  }
  struct stat facts;
  if (descriptor >= 0 && (fstat(descriptor, &facts) != 0 || !S_ISREG(facts.st_mode))) {
    close(descriptor);
    descriptor = -1;
  }
  return descriptor;
}

}  // namespace

bool FileLease::take(Time now) {
  if (is_held() || file_.empty() || now < next_) return false;
  next_ = now + kPause;
  const int descriptor = open_or_make(file_);
  if (descriptor < 0) return false;
  // The lock is the open file's, not the process's: two holders of one process exclude each other.
  if (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    close(descriptor);
    return false;
  }
  descriptor_ = descriptor;
  return true;
}

void FileLease::release() noexcept {
  if (descriptor_ < 0) return;
  flock(descriptor_, LOCK_UN);  // a child of this process may have inherited the open file
  close(descriptor_);
  descriptor_ = -1;
}

std::filesystem::path runtime_directory() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  return runtime != nullptr && *runtime != '\0' ? runtime : "/tmp";
}

}  // namespace inflight
