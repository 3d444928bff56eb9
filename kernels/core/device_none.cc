// device.h in a build without CUDA.
#include "kernels/core/device.h"
#include "kernels/core/device_memory.h"
#include "kernels/core/no_cuda.h"

namespace inflight {

int num_cuda_devices() noexcept { return 0; }
DeviceFacts device_facts(Device) { no_cuda(); }
DeviceMemory device_memory(Device) { no_cuda(); }
void use_device(Device) { no_cuda(); }

Stream::Stream(Device) { no_cuda(); }
Stream::~Stream() = default;
void Stream::synchronize() const { no_cuda(); }

Event::Event(Device, bool) { no_cuda(); }
Event::~Event() = default;
void Event::record(const Stream&) { no_cuda(); }
void Event::wait() const { no_cuda(); }
void Event::make_wait(const Stream&) const { no_cuda(); }
double Event::seconds_since(const Event&) const { no_cuda(); }

void copy_async(void*, const void*, size_t, const Stream&) { no_cuda(); }
void fill_async(void*, int, size_t, const Stream&) { no_cuda(); }

Graph::~Graph() = default;
void Graph::launch(const Stream&) const { no_cuda(); }
void Graph::begin(const Stream&) { no_cuda(); }
void Graph::abandon(const Stream&) noexcept {}
Graph Graph::end(const Stream&) { no_cuda(); }

DeviceContext::DeviceContext(Device device, cpu::ThreadPool* pool) : device_(device), pool_(pool) {
  if (is_cuda()) no_cuda();
}
DeviceContext::~DeviceContext() = default;

void* allocate_device(size_t, Device) { no_cuda(); }
void free_device(void*, Device) noexcept {}
void* allocate_pinned(size_t) { return nullptr; }
void free_pinned(void*) noexcept {}

}  // namespace inflight
