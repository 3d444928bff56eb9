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

#include "kernels/core/buffer.h"
#include "kernels/core/check.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/registry.h"

namespace py = pybind11;

namespace inflight::bindings {
namespace {

using Arrays = std::map<std::string, py::array>;

TensorView view_of(const std::string& name, const py::array& array) {
  const auto dtype_name = py::str(array.dtype().attr("name")).cast<std::string>();
  const auto dtype = dtype_from_name(dtype_name);
  check(dtype.has_value(), name, ": dtype ", dtype_name, " has no counterpart");
  check(array.ndim() <= kMaxRank, name, ": rank ", array.ndim(), " > ", kMaxRank);
  TensorView view;
  view.data = const_cast<void*>(array.data());
  view.dtype = *dtype;
  view.rank = static_cast<int>(array.ndim());
  for (int i = 0; i < view.rank; ++i) {
    view.shape[i] = array.shape(i);
    view.strides[i] = array.strides(i) / array.itemsize();
  }
  return view;
}

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

/// An op bound to arrays, with the threads and the workspace to run it.
class BoundCall {
 public:
  BoundCall(std::shared_ptr<cpu::ThreadPool> pool, const std::string& name, Arrays inputs,
            Arrays outputs, const py::dict& attributes)
      : pool_(std::move(pool)), inputs_(std::move(inputs)), outputs_(std::move(outputs)) {
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
    std::map<std::string, const TensorView*, std::less<>> tensors;
    for (const auto& [tensor, view] : views_) tensors.emplace(tensor, &view);
    const OpArgs args(std::move(tensors), std::move(parsed));
    op->check(args);
    workspace_ = Buffer(op->workspace_bytes(args, Device{}, pool_->num_threads()));
    bound_ = op->bind(args);
  }

  void run() {
    py::gil_scoped_release release;
    run_once();
  }

  /// Seconds that one of `repeat` runs took, for each of `rounds` rounds.
  std::vector<double> time(int repeat, int rounds) {
    py::gil_scoped_release release;
    std::vector<double> seconds;
    for (int round = 0; round < rounds; ++round) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < repeat; ++i) run_once();
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      seconds.push_back(elapsed.count() / repeat);
    }
    return seconds;
  }

  size_t workspace_bytes() const { return workspace_.bytes(); }

 private:
  void run_once() {
    OpContext context;
    context.pool = pool_.get();
    context.workspace = {workspace_.data(), workspace_.bytes()};
    bound_(context);
  }

  std::shared_ptr<cpu::ThreadPool> pool_;
  Arrays inputs_, outputs_;  // keep the memory alive
  std::map<std::string, TensorView> views_;
  Buffer workspace_;
  BoundOp bound_;
};

class OpRunner {
 public:
  OpRunner(const std::string& device, int num_threads) {
    if (device != "cpu")
      throw Error(ErrorCode::kUnsupported, concat("device ", device, " is not in this build"));
    pool_ = std::make_shared<cpu::ThreadPool>(num_threads);
  }

  std::unique_ptr<BoundCall> bind(const std::string& op, Arrays inputs, Arrays outputs,
                                  const py::dict& attributes) {
    return std::make_unique<BoundCall>(pool_, op, std::move(inputs), std::move(outputs),
                                       attributes);
  }

  void run(const std::string& op, Arrays inputs, Arrays outputs, const py::dict& attributes) {
    bind(op, std::move(inputs), std::move(outputs), attributes)->run();
  }

  int num_threads() const { return pool_->num_threads(); }

  /// Bytes a second that the threads read from memory: the best of `rounds` sweeps of an array.
  double read_bandwidth(size_t bytes, int rounds) {
    const auto count = static_cast<int64_t>(bytes / sizeof(uint64_t));
    std::vector<uint64_t> data(count, 1);
    std::atomic<uint64_t> total{0};
    double best = 0;
    for (int round = 0; round < rounds; ++round) {
      const auto start = std::chrono::steady_clock::now();
      pool_->parallel_for(count, [&](int64_t begin, int64_t end, int) {
        total += std::accumulate(data.begin() + begin, data.begin() + end, uint64_t{0});
      });
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      best = std::max(best, static_cast<double>(bytes) / elapsed.count());
    }
    return best;
  }

 private:
  std::shared_ptr<cpu::ThreadPool> pool_;
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
      .def(py::init<const std::string&, int>(), py::arg("device") = "cpu",
           py::arg("num_threads") = 0)
      .def("bind", &OpRunner::bind, py::arg("op"), py::arg("inputs"), py::arg("outputs"),
           py::arg("attributes") = py::dict())
      .def("run", &OpRunner::run, py::arg("op"), py::arg("inputs"), py::arg("outputs"),
           py::arg("attributes") = py::dict())
      .def("read_bandwidth", &OpRunner::read_bandwidth, py::arg("bytes") = size_t{256} << 20,
           py::arg("rounds") = 8, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("num_threads", &OpRunner::num_threads);
  module.def(
      "op_devices", [] { return std::vector<std::string>{"cpu"}; },
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
