#include <dlfcn.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/core/cuda/cublaslt.h"
#include "kernels/core/log.h"

namespace inflight::cuda {

std::unique_ptr<CublasLt> CublasLt::load() {
  std::vector<std::string> names;
  if (const char* path = std::getenv("INFLIGHT_CUBLASLT")) names.emplace_back(path);
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    names.emplace_back(name);
    names.emplace_back(std::string("/usr/local/cuda/lib64/") + name);
  }
  for (const std::string& name : names) {
    void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) continue;
    using Create = int (*)(void**);
    auto create = reinterpret_cast<Create>(dlsym(library, "cublasLtCreate"));
    void* handle = nullptr;
    const int status = create == nullptr ? -1 : create(&handle);
    if (status == 0) return std::unique_ptr<CublasLt>(new CublasLt(library, handle));
    log(LogLevel::kWarning, name, " does not start: cublasLtCreate answered ", status);
    dlclose(library);
  }
  log(LogLevel::kWarning,
      "libcublasLt.so was not found (INFLIGHT_CUBLASLT may name it): matrix "
      "products of many rows use a slower kernel");
  return nullptr;
}

CublasLt::~CublasLt() {
  using Destroy = int (*)(void*);
  if (auto destroy = reinterpret_cast<Destroy>(dlsym(library_, "cublasLtDestroy")))
    destroy(handle_);
  // The library stays loaded: CUDA's own libraries do not survive being unloaded and loaded again.
}

void* CublasLt::symbol(const char* name) const {
  void* address = dlsym(library_, name);
  check_internal(address != nullptr, "cuBLASLt has no ", name);
  return address;
}

}  // namespace inflight::cuda
