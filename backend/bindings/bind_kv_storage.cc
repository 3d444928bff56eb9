// inflight._core.kv_cache.KvStorage: the cache's memory and the copies in it, without an engine,
// for tests against numpy.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/bindings/numpy_view.h"
#include "backend/kv_cache/block_copier.h"
#include "backend/kv_cache/copy_order.h"
#include "backend/kv_cache/kv_storage.h"
#include "kernels/core/check.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/core/device.h"

namespace py = pybind11;

namespace inflight::bindings {
namespace {

using kv_cache::BlockCopier;
using kv_cache::BlockCopy;
using kv_cache::KvStorage;
using kv_cache::Tier;

Tier tier_of(const std::string& name) {
  check(name == "device" || name == "host", "a tier is \"device\" or \"host\", got '", name, "'");
  return name == "host" ? Tier::kHost : Tier::kDevice;
}

const char* name_of(Tier tier) { return tier == Tier::kHost ? "host" : "device"; }

using Place = std::pair<std::string, int32_t>;
using Copy = std::tuple<Place, Place, int32_t>;

std::vector<BlockCopy> copies_of(const std::vector<Copy>& copies) {
  std::vector<BlockCopy> result;
  for (const auto& [from, to, num_tokens] : copies)
    result.push_back({tier_of(from.first), from.second, tier_of(to.first), to.second, num_tokens});
  return result;
}

std::vector<Copy> to_python(const std::vector<BlockCopy>& copies) {
  std::vector<Copy> result;
  for (const BlockCopy& copy : copies)
    result.push_back({{name_of(copy.from_tier), copy.from_block},
                      {name_of(copy.to_tier), copy.to_block},
                      copy.num_tokens});
  return result;
}

/// A storage with what copies in it.
class PyKvStorage {
 public:
  PyKvStorage(const std::vector<std::pair<int32_t, int32_t>>& layers, int32_t tokens_per_block,
              const std::string& dtype, int32_t num_blocks, int32_t num_host_blocks,
              const std::string& device, int num_threads)
      : pool_(num_threads),
        context_({device == "cuda" ? DeviceType::kCuda : DeviceType::kCpu, 0}, &pool_),
        storage_(specs_of(layers), kv_cache::Geometry(tokens_per_block), parsed(dtype), num_blocks,
                 context_.device(), num_host_blocks),
        copier_(storage_, context_) {}

  void copy(const std::vector<Copy>& copies) { copier_.launch(copies_of(copies)); }
  void write(const Place& place, const py::array_t<uint8_t, py::array::c_style>& bytes) {
    copier_.write(tier_of(place.first), place.second,
                  std::as_bytes(std::span(bytes.data(), bytes.size())));
  }
  py::array_t<uint8_t> read(const Place& place) const {
    py::array_t<uint8_t> bytes(storage_.block_bytes());
    copier_.read(tier_of(place.first), place.second,
                 std::as_writable_bytes(std::span(bytes.mutable_data(), bytes.size())));
    return bytes;
  }
  /// First byte, shape and strides in bytes of a layer's view or scales, from the pool's start.
  py::object layout(const TensorView& view) const {
    if (!view) return py::none();
    const auto* start = static_cast<std::byte*>(storage_.block(Tier::kDevice, 0));
    std::vector<int64_t> shape, strides;
    for (int i = 0; i < view.rank; ++i) {
      shape.push_back(view.shape[i]);
      strides.push_back(view.strides[i] * static_cast<int64_t>(size_of(view.dtype)));
    }
    return py::make_tuple(static_cast<std::byte*>(view.data) - start, shape, strides);
  }
  const KvStorage& storage() const { return storage_; }

 private:
  static std::vector<kv_cache::LayerSpec> specs_of(
      const std::vector<std::pair<int32_t, int32_t>>& layers) {
    std::vector<kv_cache::LayerSpec> specs;
    for (const auto& [num_kv_heads, head_size] : layers) specs.push_back({num_kv_heads, head_size});
    return specs;
  }
  static DType parsed(const std::string& name) {
    const auto dtype = dtype_from_name(name);
    check(dtype.has_value(), "there is no dtype '", name, "'");
    return *dtype;
  }

  cpu::ThreadPool pool_;
  DeviceContext context_;
  KvStorage storage_;
  BlockCopier copier_;
};

}  // namespace

void register_kv_storage(py::module_& module) {
  py::module_ submodule = module.def_submodule("kv_cache");
  py::class_<PyKvStorage>(submodule, "KvStorage",
                          "A place is (\"device\" or \"host\", block), a copy (from, to, tokens).")
      .def(py::init<const std::vector<std::pair<int32_t, int32_t>>&, int32_t, const std::string&,
                    int32_t, int32_t, const std::string&, int>(),
           py::arg("layers"), py::kw_only(), py::arg("tokens_per_block"),
           py::arg("dtype") = "float32", py::arg("num_blocks") = 1, py::arg("num_host_blocks") = 0,
           py::arg("device") = "cpu", py::arg("num_threads") = 1)
      .def("copy", &PyKvStorage::copy, py::arg("copies"), py::call_guard<py::gil_scoped_release>())
      .def("write", &PyKvStorage::write, py::arg("place"), py::arg("bytes"))
      .def("read", &PyKvStorage::read, py::arg("place"))
      .def(
          "layer_layout",
          [](const PyKvStorage& self, int layer) {
            return self.layout(self.storage().layer_view(layer));
          },
          py::arg("layer"))
      .def(
          "scales_layout",
          [](const PyKvStorage& self, int layer) {
            return self.layout(self.storage().layer_scales(layer));
          },
          py::arg("layer"))
      .def_property_readonly("block_bytes",
                             [](const PyKvStorage& self) { return self.storage().block_bytes(); })
      .def_property_readonly("bytes",
                             [](const PyKvStorage& self) { return self.storage().bytes(); })
      .def_property_readonly("host_bytes",
                             [](const PyKvStorage& self) { return self.storage().host_bytes(); });
  submodule.def(
      "copy_phases",
      [](const std::vector<Copy>& copies) {
        kv_cache::CopyOrder order;
        std::vector<std::pair<std::vector<Copy>, std::vector<Copy>>> phases;
        for (const kv_cache::CopyPhase& phase : order.arrange(copies_of(copies)))
          phases.emplace_back(to_python(phase.between_tiers), to_python(phase.on_device));
        return phases;
      },
      py::arg("copies"), "(between the tiers, on the device) of each phase, in order.");
}

}  // namespace inflight::bindings
