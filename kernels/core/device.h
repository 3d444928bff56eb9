// Devices as callers of ops see them: what is there, how much memory is free, streams, events,
// copies and recorded graphs. The only door to the CUDA runtime outside of .cu files; in a build
// without CUDA there are no CUDA devices and everything here but the questions raises unsupported.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/core/buffer.h"
#include "kernels/core/op.h"
#include "kernels/core/tensor_view.h"

namespace inflight {

/// CUDA devices that this build can use on this machine; 0 without CUDA, driver or GPU.
int num_cuda_devices() noexcept;

struct DeviceFacts {
  std::string name;         // "NVIDIA H200"
  int num_multiprocessors;  // 132
  int compute_capability;   // major * 10 + minor: 90
  int64_t l2_bytes;
  int64_t shared_bytes;  // most shared memory a thread block can have
  std::string uuid;      // 32 hexadecimal digits, the same in each process
  bool is_shared;        // processes run on it at the same time (MPS), not in turns
};
/// Raises invalid_argument if there is no such device, unsupported for one older than this build.
DeviceFacts device_facts(Device device);

struct DeviceMemory {
  int64_t free_bytes;
  int64_t total_bytes;
};
DeviceMemory device_memory(Device device);

/// Makes it the calling thread's device. A thread that launches work calls this first; what
/// allocates or makes streams here does so itself.
void use_device(Device device);

/// Work of one stream runs in order. Any thread may hold it, one at a time.
class Stream {
 public:
  explicit Stream(Device device);
  ~Stream();
  Stream(Stream&& other) noexcept : handle_(other.handle_), device_(other.device_) {
    other.handle_ = nullptr;
  }
  Stream& operator=(Stream&&) = delete;

  void* handle() const { return handle_; }  // cudaStream_t
  Device device() const { return device_; }
  void synchronize() const;

 private:
  void* handle_ = nullptr;
  Device device_;
};

/// A point in a stream's work.
class Event {
 public:
  /// With `timing` seconds_since works; without it an event costs less.
  explicit Event(Device device, bool timing = false);
  ~Event();
  Event(Event&& other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }
  Event& operator=(Event&&) = delete;

  void record(const Stream& stream);
  void wait() const;                               // the calling thread
  void make_wait(const Stream& stream) const;      // the stream's later work
  double seconds_since(const Event& start) const;  // both done

 private:
  void* handle_ = nullptr;
};

/// Host and device memory in any combination, in stream order. Pinned host memory copies without
/// stopping the caller.
void copy_async(void* to, const void* from, size_t bytes, const Stream& stream);
/// Sets bytes of device memory, in stream order.
void fill_async(void* to, int byte, size_t bytes, const Stream& stream);

/// A recorded sequence of launches that costs one launch to run again, with the same addresses.
class Graph {
 public:
  /// Records what `work` puts into `stream` instead of running it. Rethrows what it raises.
  template <typename Work>
  static Graph record(const Stream& stream, const Work& work) {
    begin(stream);
    try {
      work();
    } catch (...) {
      abandon(stream);
      throw;
    }
    return end(stream);
  }
  ~Graph();
  Graph(Graph&& other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }
  Graph& operator=(Graph&&) = delete;

  void launch(const Stream& stream) const;

 private:
  explicit Graph(void* handle) : handle_(handle) {}
  static void begin(const Stream& stream);
  static void abandon(const Stream& stream) noexcept;
  static Graph end(const Stream& stream);

  void* handle_ = nullptr;  // cudaGraphExec_t
};

/// What ops on one device are given: its stream, facts and libraries. Owned by whoever runs ops;
/// one thread at a time.
class DeviceContext {
 public:
  /// `pool` serves ops on the CPU and host work; it outlives the context.
  DeviceContext(Device device, cpu::ThreadPool* pool);
  ~DeviceContext();
  DeviceContext(const DeviceContext&) = delete;
  DeviceContext& operator=(const DeviceContext&) = delete;

  Device device() const { return device_; }
  bool is_cuda() const { return device_.type == DeviceType::kCuda; }
  const Stream& stream() const { return *stream_; }  // CUDA only
  /// A context for one call or for many; the workspace is the caller's to add.
  OpContext op_context() const;

 private:
  Device device_;
  cpu::ThreadPool* pool_;
  std::unique_ptr<DeviceFacts> facts_;
  std::unique_ptr<Stream> stream_;
  Buffer counters_;                     // OpContext::counters
  cuda::CublasLt* cublaslt_ = nullptr;  // owned; null where the library is not found
};

}  // namespace inflight
