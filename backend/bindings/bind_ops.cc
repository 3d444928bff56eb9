// Runs any registered op on numpy arrays: how kernels are tested and measured. Outputs are written
// in place. bfloat16 arrays are those of ml_dtypes.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "backend/bindings/device_arrays.h"
#include "backend/bindings/numpy_view.h"
#include "kernels/core/buffer.h"
#include "kernels/core/check.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/core/device.h"
#include "kernels/registry.h"

namespace py = pybind11;

namespace inflight::bindings {
namespace {

using Arrays = std::map<std::string, py::array>;

Attribute attribute_of(const std::string& name, const py::handle& value) {
  if (py::isinstance<py::bool_>(value)) return value.cast<bool>();
  if (py::isinstance<py::int_>(value)) return value.cast<int64_t>();
  if (py::isinstance<py::float_>(value)) return value.cast<double>();
  if (py::isinstance<py::str>(value)) return value.cast<std::string>();
  check(py::isinstance<py::sequence>(value), "attribute ", name,
        " must be a bool, int, float, str or a list of floats");
  return value.cast<std::vector<double>>();
}

void check_names(const OpDef& op, const Arrays& inputs, const Arrays& outputs,
                 const Attributes& attributes) {
  const auto check_known = [&](const auto& given, const auto& specs, std::string_view kind) {
    for (const auto& [name, value] : given) {
      bool known = false;
      for (const auto& spec : specs) known = known || spec.name == name;
      check(known, op.name, ": unknown ", kind, " ", name);
    }
  };
  check_known(inputs, op.signature.inputs, "input");
  check_known(outputs, op.signature.outputs, "output");
  check_known(attributes, op.signature.attributes, "attribute");
}

/// The device and the threads that ops run on.
struct Machine {
  Machine(Device device, int num_threads, bool grids_may_wait)
      : pool(num_threads), context(device, &pool), grids_may_wait(grids_may_wait) {}
  cpu::ThreadPool pool;
  DeviceContext context;
  bool grids_may_wait;
};

/// An op bound to arrays, with the workspace to run it. On a GPU it works on copies of the arrays
/// and `run` copies back whatever may be written.
class BoundCall {
 public:
  BoundCall(std::shared_ptr<Machine> machine, const std::string& name, Arrays inputs,
            Arrays outputs, const py::dict& attributes)
      : machine_(std::move(machine)), inputs_(std::move(inputs)), outputs_(std::move(outputs)) {
    const OpDef* op = find_op(name);
    check(op != nullptr, "no op is called ", name);
    Attributes parsed;
    for (const auto& [key, value] : attributes) {
      const auto attribute_name = key.cast<std::string>();
      parsed.emplace(attribute_name, attribute_of(attribute_name, value));
    }
    check_names(*op, inputs_, outputs_, parsed);
    for (const auto& [tensor, array] : inputs_) views_.emplace(tensor, view_of(tensor, array));
    for (const auto& [tensor, array] : outputs_) {
      check(array.writeable(), name, ": output ", tensor, " is read-only");
      views_.emplace(tensor, view_of(tensor, array));
    }
    if (machine_->context.is_cuda()) {
      for (auto& [tensor, view] : views_) {
        const auto given = inputs_.find(tensor);
        const py::array& array = given == inputs_.end() ? outputs_.at(tensor) : given->second;
        device_arrays_.add(view, array.writeable());
      }
      device_arrays_.place(machine_->context.stream());
    }
    std::map<std::string, const TensorView*, std::less<>> tensors;
    for (const auto& [tensor, view] : views_) tensors.emplace(tensor, &view);
    const OpArgs args(std::move(tensors), std::move(parsed));
    op->check(args);
    const Device device = machine_->context.device();
    workspace_ = Buffer(op->workspace_bytes(args, device, machine_->pool.num_threads()), device);
    if (device.type == DeviceType::kCuda)
      fill_async(workspace_.data(), 0, workspace_.bytes(), machine_->context.stream());
    bound_ = op->bind(args);
  }

  void run() {
    py::gil_scoped_release release;
    if (machine_->context.is_cuda()) device_arrays_.copy_in(machine_->context.stream());
    run_once();
    if (machine_->context.is_cuda()) {
      device_arrays_.copy_out(machine_->context.stream());
      machine_->context.stream().synchronize();
    }
  }

  /// Seconds that one of `repeat` runs took, for each of `rounds` rounds.
  std::vector<double> time(int repeat, int rounds) {
    py::gil_scoped_release release;
    if (machine_->context.is_cuda())
      return time_on_gpu(std::vector<BoundCall*>(repeat, this), rounds);
    std::vector<double> seconds;
    for (int round = 0; round < rounds; ++round) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < repeat; ++i) run_once();
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      seconds.push_back(elapsed.count() / repeat);
    }
    return seconds;
  }

  /// The same for calls one after another on a GPU, recorded as one graph, so that the host's
  /// launches do not count.
  static std::vector<double> time_on_gpu(const std::vector<BoundCall*>& calls, int rounds) {
    check(!calls.empty() && calls[0]->machine_->context.is_cuda(), "no calls on a GPU to time");
    const Stream& stream = calls[0]->machine_->context.stream();
    for (BoundCall* call : calls) {
      check(call->machine_ == calls[0]->machine_, "the calls are not of one runner");
      call->run_once();
    }
    const Graph graph = Graph::record(stream, [&] {
      for (BoundCall* call : calls) call->run_once();
    });
    graph.launch(stream);
    Event start(stream.device(), true), end(stream.device(), true);
    std::vector<double> seconds;
    for (int round = 0; round < rounds; ++round) {
      start.record(stream);
      graph.launch(stream);
      end.record(stream);
      end.wait();
      seconds.push_back(end.seconds_since(start) / static_cast<double>(calls.size()));
    }
    return seconds;
  }

  size_t workspace_bytes() const { return workspace_.bytes(); }

 private:
  void run_once() {
    OpContext context = machine_->context.op_context();
    context.grids_may_wait = machine_->grids_may_wait;
    context.workspace = {workspace_.data(), workspace_.bytes()};
    bound_(context);
  }

  std::shared_ptr<Machine> machine_;
  Arrays inputs_, outputs_;  // keep the memory alive
  DeviceArrays device_arrays_;
  std::map<std::string, TensorView> views_;
  Buffer workspace_;
  BoundOp bound_;
};

class OpRunner {
 public:
  OpRunner(const std::string& device, int num_threads, bool grids_may_wait) {
    check(device == "cpu" || device == "cuda", "device is '", device,
          "', must be \"cpu\" or \"cuda\"");
    const Device where{device == "cuda" ? DeviceType::kCuda : DeviceType::kCpu, 0};
    machine_ = std::make_shared<Machine>(where, num_threads, grids_may_wait);
  }

  std::unique_ptr<BoundCall> bind(const std::string& op, Arrays inputs, Arrays outputs,
                                  const py::dict& attributes) {
    return std::make_unique<BoundCall>(machine_, op, std::move(inputs), std::move(outputs),
                                       attributes);
  }

  void run(const std::string& op, Arrays inputs, Arrays outputs, const py::dict& attributes) {
    bind(op, std::move(inputs), std::move(outputs), attributes)->run();
  }

  int num_threads() const { return machine_->pool.num_threads(); }

  /// Bytes a second that the threads read from memory: the best of `rounds` sweeps of an array.
  double read_bandwidth(size_t bytes, int rounds) {
    const auto count = static_cast<int64_t>(bytes / sizeof(uint64_t));
    std::vector<uint64_t> data(count, 1);
    std::atomic<uint64_t> total{0};
    double best = 0;
    for (int round = 0; round < rounds; ++round) {
      const auto start = std::chrono::steady_clock::now();
      machine_->pool.parallel_for(count, [&](int64_t begin, int64_t end, int) {
        total += std::accumulate(data.begin() + begin, data.begin() + end, uint64_t{0});
      });
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      best = std::max(best, static_cast<double>(bytes) / elapsed.count());
    }
    return best;
  }

 private:
  std::shared_ptr<Machine> machine_;
};

py::dict signature_of(const OpDef& op) {
  const auto tensors = [](const std::vector<TensorSpec>& specs) {
    py::list list;
    for (const TensorSpec& spec : specs) list.append(py::make_tuple(spec.name, spec.optional));
    return list;
  };
  py::list attributes;
  for (const AttributeSpec& spec : op.signature.attributes)
    attributes.append(py::make_tuple(spec.name, spec.type, spec.optional));
  py::dict result;
  result["inputs"] = tensors(op.signature.inputs);
  result["outputs"] = tensors(op.signature.outputs);
  result["attributes"] = attributes;
  return result;
}

}  // namespace

void register_ops(py::module_& module) {
  py::class_<BoundCall>(module, "BoundCall")
      .def("run", &BoundCall::run)
      .def("time", &BoundCall::time, py::arg("repeat"), py::arg("rounds") = 1)
      .def_property_readonly("workspace_bytes", &BoundCall::workspace_bytes);
  py::class_<OpRunner>(module, "OpRunner")
      .def(py::init<const std::string&, int, bool>(), py::arg("device") = "cpu",
           py::arg("num_threads") = 0, py::arg("grids_may_wait") = false,
           "grids_may_wait: see OpContext; no two such runners of a GPU may run at once.")
      .def("bind", &OpRunner::bind, py::arg("op"), py::arg("inputs"), py::arg("outputs"),
           py::arg("attributes") = py::dict())
      .def("run", &OpRunner::run, py::arg("op"), py::arg("inputs"), py::arg("outputs"),
           py::arg("attributes") = py::dict())
      .def("read_bandwidth", &OpRunner::read_bandwidth, py::arg("bytes") = size_t{256} << 20,
           py::arg("rounds") = 8, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("num_threads", &OpRunner::num_threads);
  module.def("time_calls", &BoundCall::time_on_gpu, py::arg("calls"), py::arg("rounds") = 1,
             py::call_guard<py::gil_scoped_release>(),
             "Seconds per call of calls bound on a GPU, run one after another, for each round.");
  module.def(
      "op_devices",
      [] {
        std::vector<std::string> devices{"cpu"};
        if (num_cuda_devices() > 0) devices.emplace_back("cuda");
        return devices;
      },
      "The devices that OpRunner takes in this build, on this machine.");
  module.def(
      "op_signatures",
      [] {
        py::dict result;
        for (const OpDef& op : all_ops()) result[py::str(std::string(op.name))] = signature_of(op);
        return result;
      },
      "Name -> {inputs: [(name, optional)], outputs: [(name, optional)], attributes: [(name, type, "
      "optional)]}");
}

}  // namespace inflight::bindings
