// device.h on the CUDA runtime, which is linked statically and looks for the driver when first
// asked: a machine without one has no CUDA devices.
#include "kernels/core/check.h"
#include "kernels/core/cuda/cublaslt.h"
#include "kernels/core/cuda/error.h"
#include "kernels/core/device.h"
#include "kernels/core/device_memory.h"

namespace inflight {

using cuda::check_cuda;

namespace {

constexpr int kMinComputeCapability = 80;

cudaStream_t handle_of(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

int attribute(cudaDeviceAttr which, Device device) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, which, device.index), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace

int num_cuda_devices() noexcept {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

DeviceFacts device_facts(Device device) {
  const int count = num_cuda_devices();
  check(device.index >= 0 && device.index < count, "there is no CUDA device ", device.index,
        ": this machine has ", count);
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, device.index), "cudaGetDeviceProperties");
  DeviceFacts facts;
  facts.name = properties.name;
  facts.num_multiprocessors = properties.multiProcessorCount;
  facts.compute_capability = properties.major * 10 + properties.minor;
  facts.l2_bytes = properties.l2CacheSize;
  facts.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  for (const char byte : properties.uuid.bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    const auto value = static_cast<unsigned char>(byte);
    facts.uuid += {kDigits[value / 16], kDigits[value % 16]};
  }
  int is_shared = 1;  // to a driver that cannot say
  if (cudaDeviceGetAttribute(&is_shared, cudaDevAttrMpsEnabled, device.index) != cudaSuccess)
    cudaGetLastError();
  facts.is_shared = is_shared != 0;
  if (facts.compute_capability < kMinComputeCapability) {
    throw Error(ErrorCode::kUnsupported,
                concat("CUDA device ", device.index, " (", facts.name, ") has compute capability ",
                       properties.major, ".", properties.minor, ", at least 8.0 is needed"));
  }
  return facts;
}

void use_device(Device device) { check_cuda(cudaSetDevice(device.index), "cudaSetDevice"); }

DeviceMemory device_memory(Device device) {
  use_device(device);
  size_t free_bytes = 0, total_bytes = 0;
  check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return {static_cast<int64_t>(free_bytes), static_cast<int64_t>(total_bytes)};
}

Stream::Stream(Device device) : device_(device) {
  use_device(device);
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  handle_ = stream;
}
Stream::~Stream() {
  if (handle_ != nullptr) cudaStreamDestroy(static_cast<cudaStream_t>(handle_));
}
void Stream::synchronize() const {
  check_cuda(cudaStreamSynchronize(handle_of(*this)), "cudaStreamSynchronize");
}

Event::Event(Device device, bool timing) {
  use_device(device);
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, timing ? cudaEventDefault : cudaEventDisableTiming),
             "cudaEventCreate");
  handle_ = event;
}
Event::~Event() {
  if (handle_ != nullptr) cudaEventDestroy(static_cast<cudaEvent_t>(handle_));
}
void Event::record(const Stream& stream) {
  check_cuda(cudaEventRecord(static_cast<cudaEvent_t>(handle_), handle_of(stream)),
             "cudaEventRecord");
}
void Event::wait() const {
  check_cuda(cudaEventSynchronize(static_cast<cudaEvent_t>(handle_)), "cudaEventSynchronize");
}
void Event::make_wait(const Stream& stream) const {
  check_cuda(cudaStreamWaitEvent(handle_of(stream), static_cast<cudaEvent_t>(handle_)),
             "cudaStreamWaitEvent");
}
double Event::seconds_since(const Event& start) const {
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(start.handle_),
                                  static_cast<cudaEvent_t>(handle_)),
             "cudaEventElapsedTime");
  return milliseconds * 1e-3;
}

void copy_async(void* to, const void* from, size_t bytes, const Stream& stream) {
  if (bytes == 0) return;
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, handle_of(stream)),
             "cudaMemcpyAsync");
}

void fill_async(void* to, int byte, size_t bytes, const Stream& stream) {
  if (bytes == 0) return;
  check_cuda(cudaMemsetAsync(to, byte, bytes, handle_of(stream)), "cudaMemsetAsync");
}

Graph::~Graph() {
  if (handle_ != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(handle_));
}
void Graph::launch(const Stream& stream) const {
  check_cuda(cudaGraphLaunch(static_cast<cudaGraphExec_t>(handle_), handle_of(stream)),
             "cudaGraphLaunch");
}
void Graph::begin(const Stream& stream) {
  check_cuda(cudaStreamBeginCapture(handle_of(stream), cudaStreamCaptureModeThreadLocal),
             "cudaStreamBeginCapture");
}
void Graph::abandon(const Stream& stream) noexcept {
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(handle_of(stream), &graph);
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();
}
Graph Graph::end(const Stream& stream) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(handle_of(stream), &graph), "cudaStreamEndCapture");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t code = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(code, "cudaGraphInstantiate");
  return Graph(exec);
}

DeviceContext::DeviceContext(Device device, cpu::ThreadPool* pool) : device_(device), pool_(pool) {
  if (!is_cuda()) return;
  facts_ = std::make_unique<DeviceFacts>(device_facts(device));
  stream_ = std::make_unique<Stream>(device);
  cublaslt_ = cuda::CublasLt::load().release();
  counters_ = Buffer(kNumCounters * sizeof(uint32_t), device);
  fill_async(counters_.data(), 0, counters_.bytes(), *stream_);
}
DeviceContext::~DeviceContext() {
  if (stream_) cudaStreamSynchronize(handle_of(*stream_));
  delete cublaslt_;
}

void* allocate_device(size_t bytes, Device device) {
  use_device(device);
  void* data = nullptr;
  const cudaError_t code = cudaMalloc(&data, bytes);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw Error(ErrorCode::kResourceExhausted,
                concat("cannot allocate ", bytes, " bytes on CUDA device ", device.index, ", ",
                       device_memory(device).free_bytes, " are free"));
  }
  check_cuda(code, "cudaMalloc");
  return data;
}
void free_device(void* data, Device) noexcept { cudaFree(data); }

void* allocate_pinned(size_t bytes) {
  if (num_cuda_devices() == 0) return nullptr;
  void* data = nullptr;
  check_cuda(cudaHostAlloc(&data, bytes, cudaHostAllocPortable), "cudaHostAlloc");
  return data;
}
void free_pinned(void* data) noexcept { cudaFreeHost(data); }

}  // namespace inflight
