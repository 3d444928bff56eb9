#include "backend/executor/grid_lease.h"

#include "kernels/core/device.h"
#include "kernels/core/log.h"

namespace inflight::executor {

std::filesystem::path GridLease::file_for(Device device, DType dtype) {
  if (device.type != DeviceType::kCuda || dtype == DType::kFloat32) return {};
  const DeviceFacts facts = device_facts(device);
  if (facts.compute_capability != 90 || facts.is_shared) return {};
  return runtime_directory() / concat("inflight-", facts.uuid, ".lock");
}

bool GridLease::take(FileLease::Time now) {
  if (lease_.file().empty() || lease_.is_held()) return false;
  if (lease_.take(now)) {
    log(LogLevel::kInfo, "this engine holds ", lease_.file().string(),
        ": steps of few rows go as one launch");
    return true;
  }
  if (!was_refused_) {
    log(LogLevel::kInfo, "another engine holds ", lease_.file().string(),
        ", or it cannot be opened: steps of few rows go op by op until that changes");
  }
  was_refused_ = true;
  return false;
}

}  // namespace inflight::executor
