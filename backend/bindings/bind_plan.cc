// inflight._core.plan: safetensors, engine files, recipes and plans with numpy in and out, for
// tests. bfloat16 is ml_dtypes'.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <cstring>

#include "backend/bindings/numpy_view.h"
#include "backend/executor/config.h"
#include "backend/plan/checkpoint.h"
#include "backend/plan/engine_file.h"
#include "backend/plan/plan_runner.h"
#include "backend/plan/safetensors.h"
#include "backend/plan/weights.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/core/device.h"

namespace inflight::bindings {
namespace py = pybind11;
namespace {

using namespace plan;

/// A copy of a dense view, whatever its device.
py::array array_of(const TensorView& view) {
  const py::object type = view.dtype == DType::kBFloat16
                              ? py::module_::import("ml_dtypes").attr("bfloat16")
                              : py::object(py::str(std::string(name_of(view.dtype))));
  const std::vector<py::ssize_t> shape(view.shape.begin(), view.shape.begin() + view.rank);
  py::array array(py::dtype::from_args(type), shape);
  if (view.device.type == DeviceType::kCuda) {
    const Stream stream(view.device);
    copy_async(array.mutable_data(), view.data, view.bytes(), stream);
    stream.synchronize();
  } else if (view.bytes() > 0) {
    std::memcpy(array.mutable_data(), view.data, view.bytes());
  }
  return array;
}

py::dict tensors_of(const SafetensorsHeader& header) {
  py::dict tensors;
  for (const auto& [name, tensor] : header.tensors) {
    tensors[py::str(name)] =
        py::make_tuple(tensor.stored_dtype, tensor.shape, tensor.begin, tensor.end);
  }
  return tensors;
}

/// An engine file, the weights of one rank and the pool that made them.
struct LoadedWeights {
  LoadedWeights(const EngineFile& file, int rank_index, int num_threads, const std::string& where,
                const std::string& load_format)
      : engine(file),
        rank(rank_index),
        device(executor::parse_device(where)),
        pool(num_threads),
        weights(engine, rank, device, pool, executor::parse_load_format(load_format)) {}
  const EngineFile engine;
  const int rank;
  const Device device;
  cpu::ThreadPool pool;
  const Weights weights;
};

struct NumpyRunner {
  NumpyRunner(const LoadedWeights& loaded, std::vector<py::array> kv_arrays,
              std::optional<int> max_batch_size, std::optional<int> max_num_tokens,
              std::optional<int> max_seq_len, int num_threads)
      : caches(std::move(kv_arrays)),
        pool(num_threads),
        context({}, &pool),
        runner(loaded.engine, loaded.rank, loaded.weights, context,
               {max_batch_size.value_or(loaded.engine.limits.max_batch_size),
                max_num_tokens.value_or(loaded.engine.limits.max_num_tokens),
                max_seq_len.value_or(loaded.engine.limits.max_seq_len)},
               views_of(caches)) {}

  static std::vector<TensorView> views_of(const std::vector<py::array>& arrays) {
    std::vector<TensorView> views;
    for (const py::array& array : arrays) views.push_back(view_of("KV cache", array));
    return views;
  }

  py::array run(const std::map<std::string, py::array>& arrays) {
    StepInputs inputs;
    const auto view = [&arrays](const std::string& name) {
      const auto found = arrays.find(name);
      check(found != arrays.end(), "step input ", name, " is missing");
      return view_of(found->first, found->second);
    };
    for (const StepInputSpec& spec : kStepInputs) inputs.*spec.view = view(std::string(spec.name));
    for (int group = 1; arrays.contains(group_input_name("slots", group)); ++group) {
      inputs.more_groups.push_back(
          {view(group_input_name("slots", group)), view(group_input_name("block_tables", group))});
    }
    inputs.num_tokens = static_cast<int>(inputs.input_ids.shape[0]);
    inputs.num_sequences = static_cast<int>(inputs.kv_lengths.shape[0]);
    TensorView logits;
    {
      py::gil_scoped_release release;
      logits = runner.run(inputs);
    }
    return array_of(logits);
  }

  std::vector<py::array> caches;  // the memory of the layers, written by run
  cpu::ThreadPool pool;
  DeviceContext context;
  PlanRunner runner;
};

void register_files(py::module_& module) {
  module.def(
      "parse_safetensors",
      [](const py::bytes& bytes) {
        const std::string_view view(bytes);
        return tensors_of(parse_safetensors(
            {reinterpret_cast<const uint8_t*>(view.data()), view.size()}, "bytes"));
      },
      py::arg("file"), "Name -> (stored dtype, shape, begin, end) of a whole file's bytes.");
  module.def(
      "read_safetensors",
      [](const std::filesystem::path& path) {
        const MappedFile file(path);
        return tensors_of(parse_safetensors(file.bytes(), path.string()));
      },
      py::arg("path"));
  module.def(
      "fingerprint",
      [](const std::filesystem::path& path) {
        const MappedFile file(path);
        return fingerprint(file.bytes(), safetensors_header_end(file.bytes(), path.string()));
      },
      py::arg("path"));
  py::class_<EngineFile>(module, "EngineFile")
      .def(py::init(&load_engine_file), py::arg("directory"))
      .def_property_readonly("architecture",
                             [](const EngineFile& file) { return file.model.architecture; })
      .def_property_readonly("eos_token_ids",
                             [](const EngineFile& file) { return file.model.eos_token_ids; })
      .def_property_readonly("bos_token_id",
                             [](const EngineFile& file) { return file.model.bos_token_id; })
      .def_property_readonly(
          "dtype", [](const EngineFile& file) { return std::string(name_of(file.dtype)); })
      .def_property_readonly("ops", [](const EngineFile& file) {
        std::vector<std::string> ops;
        for (const OpRow& row : file.ranks.at(0).rows) ops.push_back(row.op);
        return ops;
      });
}

}  // namespace

void register_plan(py::module_& parent) {
  py::module_ module = parent.def_submodule("plan", "Engine directories, weights, plans.");
  register_files(module);

  py::class_<LoadedWeights>(module, "Weights")
      .def(py::init<const EngineFile&, int, int, const std::string&, const std::string&>(),
           py::arg("engine"), py::arg("rank") = 0, py::arg("num_threads") = 1,
           py::arg("device") = "cpu", py::arg("load_format") = "auto",
           py::call_guard<py::gil_scoped_release>())
      .def_property_readonly(
          "names",
          [](const LoadedWeights& loaded) {
            std::vector<std::string> names;
            for (const auto& [name, spec] : loaded.engine.ranks[loaded.rank].weights) {
              names.push_back(name);
            }
            return names;
          })
      .def(
          "__getitem__",
          [](const LoadedWeights& loaded, const std::string& name) {
            return array_of(loaded.weights.view(name));
          },
          py::arg("name"))
      .def("address",
           [](const LoadedWeights& loaded, const std::string& name) {
             return reinterpret_cast<uintptr_t>(loaded.weights.view(name).data);
           })
      .def_property_readonly(
          "bytes_mapped", [](const LoadedWeights& loaded) { return loaded.weights.bytes_mapped(); })
      .def_property_readonly("bytes_allocated", [](const LoadedWeights& loaded) {
        return loaded.weights.bytes_allocated();
      });

  py::class_<NumpyRunner>(module, "PlanRunner")
      .def(py::init<const LoadedWeights&, std::vector<py::array>, std::optional<int>,
                    std::optional<int>, std::optional<int>, int>(),
           py::arg("weights"), py::arg("kv_layers"), py::kw_only(),
           py::arg("max_batch_size") = py::none(), py::arg("max_num_tokens") = py::none(),
           py::arg("max_seq_len") = py::none(), py::arg("num_threads") = 1, py::keep_alive<1, 2>())
      .def("run", &NumpyRunner::run, py::arg("inputs"),
           "Step inputs by name (int32 arrays) -> logits [B, V] float32.")
      .def_property_readonly(
          "max_blocks_per_sequence",
          [](const NumpyRunner& self) { return self.runner.max_blocks_per_sequence(); })
      .def_property_readonly("arena_bytes",
                             [](const NumpyRunner& self) { return self.runner.arena_bytes(); });
}

}  // namespace inflight::bindings
