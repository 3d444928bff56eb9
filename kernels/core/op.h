// What the plan runner and the tests know of an op: its signature and how to check, size and bind
// it. An op allocates nothing, owns nothing, reads no configuration and keeps no state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/core/tensor_view.h"

namespace inflight {

namespace cpu {
class ThreadPool;  // kernels/core/cpu/parallel.h
}
namespace cuda {
class CublasLt;  // kernels/core/cuda/cublaslt.h
}

/// Scratch memory on the op's device, at least the bytes that the op asked for at load.
struct Workspace {
  void* data = nullptr;
  size_t bytes = 0;
};

/// OpContext::counters has so many.
inline constexpr int kNumCounters = 1024;

/// Where and with what an op runs; the same for every op of a step.
struct OpContext {
  Device device;
  cpu::ThreadPool* pool = nullptr;  // the rank's threads, CPU only
  // CUDA only.
  void* stream = nullptr;  // cudaStream_t
  int num_multiprocessors = 0;
  int compute_capability = 0;          // major * 10 + minor: 90
  cuda::CublasLt* cublaslt = nullptr;  // null where the library was not found
  // [kNumCounters] on the device, zero between kernels: one that counts there leaves zeros. For
  // thread blocks of a launch that wait for each other; of one stream, like the workspace.
  uint32_t* counters = nullptr;
  // No other grids whose thread blocks wait for each other run on the device but this stream's: a
  // grid as large as the device may be such a one (kernels/gemm/narrow.cuh says why that is safe).
  bool grids_may_wait = false;
  Workspace workspace;
};

using Attribute = std::variant<bool, int64_t, double, std::string, std::vector<double>>;
using Attributes = std::map<std::string, Attribute, std::less<>>;

/// An op's arguments by name. Views are references into the runner's table: the runner rewrites
/// their shapes (T, B) before each step, so a bound op holds references, never copies.
class OpArgs {
 public:
  OpArgs(std::map<std::string, const TensorView*, std::less<>> tensors, Attributes attributes)
      : tensors_(std::move(tensors)), attributes_(std::move(attributes)) {}

  /// The tensor called `name`; raises invalid_argument if the row does not give it.
  const TensorView& tensor(std::string_view name) const;
  /// The same, or a view without data if an optional tensor is absent.
  const TensorView& optional_tensor(std::string_view name) const;
  /// Attribute `name` as T (bool, int64_t, double, std::string, std::vector<double>); an integer is
  /// accepted where a double is asked. Raises invalid_argument if absent or of another type.
  template <typename T>
  T attribute(std::string_view name) const;
  /// The same with a default for an absent attribute.
  template <typename T>
  T attribute_or(std::string_view name, T fallback) const;
  bool has_attribute(std::string_view name) const { return attributes_.contains(name); }

 private:
  std::map<std::string, const TensorView*, std::less<>> tensors_;
  Attributes attributes_;
};

struct TensorSpec {
  std::string_view name;
  bool optional = false;
};
struct AttributeSpec {
  std::string_view name;
  std::string_view type;  // "bool", "int", "float", "string", "floats"
  bool optional = false;
};
/// Held equal to the Python op table by a test.
struct OpSignature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::vector<AttributeSpec> attributes;
};

using BoundOp = std::function<void(OpContext&)>;

/// The four answers an op gives the runner.
struct OpDef {
  std::string_view name;
  OpSignature signature;
  /// Raises Error if shapes, dtypes or attributes do not fit. Called at load, with T and B at
  /// their largest.
  void (*check)(const OpArgs& largest);
  /// Scratch bytes needed for any step up to `largest`, with `num_threads` CPU threads.
  size_t (*workspace_bytes)(const OpArgs& largest, Device device, int num_threads);
  /// Parses attributes once and returns the call that each step makes.
  BoundOp (*bind)(const OpArgs& args);
  /// Where given, the same for rows of this op that follow each other in a plan: one call for all.
  BoundOp (*bind_run)(std::span<const OpArgs> run) = nullptr;
};

/// OpDef::workspace_bytes of an op that needs none.
inline size_t no_workspace(const OpArgs&, Device, int) { return 0; }

}  // namespace inflight
