#include "backend/triton/receipts.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>

#include "kernels/core/log.h"

namespace inflight::triton {

Receipts::Receipts() {
  int file = -1;
  do {
    number_ = std::random_device{}() & 0x7fffffff;  // ids are signed in tensors
    char name[64];
    std::snprintf(name, sizeof(name), "/dev/shm/inflight-%llx",
                  static_cast<unsigned long long>(number_));
    path_ = name;
    file = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  } while (file < 0 && errno == EEXIST);
  constexpr size_t kNumBytes = kNumSlots * sizeof(uint64_t);
  if (file >= 0 && ftruncate(file, kNumBytes) == 0) {
    void* memory = mmap(nullptr, kNumBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED) slots_ = static_cast<uint64_t*>(memory);
  }
  if (slots_ == nullptr)
    log(LogLevel::kWarning, path_, ": ", std::strerror(errno),
        ": every generated id goes to postprocessing by itself");
  if (file >= 0) close(file);
}

Receipts::~Receipts() {
  if (slots_ != nullptr) munmap(slots_, kNumSlots * sizeof(uint64_t));
  unlink(path_.c_str());
}

std::optional<uint32_t> Receipts::num_told(uint64_t public_id) const {
  if (slots_ == nullptr) return std::nullopt;
  const uint64_t id = public_id & 0xffffffff;
  const uint64_t slot = std::atomic_ref(slots_[id % kNumSlots]).load(std::memory_order_relaxed);
  if (slot == 0 || slot >> 32 != id) return std::nullopt;
  in_use_ = true;
  return static_cast<uint32_t>(slot);
}

}  // namespace inflight::triton
