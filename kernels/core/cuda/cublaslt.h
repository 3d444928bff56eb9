// cuBLASLt as a library found at run time: the toolkit's, the NGC image's or the PyPI wheel's. Owns
// the handle; the products themselves are kernels/gemm's.
#pragma once

#include <memory>

namespace inflight::cuda {

class LibraryProducts;  // kernels/gemm's: the functions it uses and the algorithms it has chosen

class CublasLt {
 public:
  /// Null, with a warning in the log, if the library is not found. Looks at
  /// INFLIGHT_CUBLASLT (a path), then where the loader looks, then beside the toolkit.
  static std::unique_ptr<CublasLt> load();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  void* handle() const { return handle_; }  // cublasLtHandle_t
  void* symbol(const char* name) const;     // raises internal if the library lacks it
  /// Null until the first product makes it.
  std::unique_ptr<LibraryProducts, void (*)(LibraryProducts*)>& products() { return products_; }

 private:
  CublasLt(void* library, void* handle) : library_(library), handle_(handle) {}
  void* library_;
  void* handle_;
  std::unique_ptr<LibraryProducts, void (*)(LibraryProducts*)> products_{nullptr, nullptr};
};

}  // namespace inflight::cuda
