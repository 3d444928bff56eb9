// inflight._core.simulation: traces as columns in, replicas in virtual time, records as columns
// out.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/simulation/fleet.h"
#include "kernels/core/check.h"

namespace inflight::bindings {
namespace py = pybind11;
namespace {

using namespace simulation;

template <class T>
using Column = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <class T>
std::span<const T> values(const Column<T>& column, const char* name, py::ssize_t size) {
  check(column.ndim() == 1 && column.size() == size, "column ", name, " of ", column.size(),
        " values in ", column.ndim(), " dimensions, not ", size, " in one");
  return {column.data(), static_cast<size_t>(size)};
}

std::unique_ptr<Trace> make_trace(
    const Column<double>& arrival, const Column<int32_t>& priority,
    const Column<int32_t>& num_output, const Column<int32_t>& max_output,
    const Column<uint64_t>& output_stream, const Column<int32_t>& output_begin,
    const Column<int64_t>& first_segment, const Column<uint64_t>& segment_stream,
    const Column<int32_t>& segment_begin, const Column<int32_t>& segment_length,
    const Column<int32_t>& literal_ids, int32_t vocab_size) {
  const py::ssize_t count = arrival.size(), num_segments = segment_stream.size();
  const auto at = values(arrival, "arrival", count);
  const auto priorities = values(priority, "priority", count);
  const auto outputs = values(num_output, "num_output", count);
  const auto most = values(max_output, "max_output", count);
  const auto streams = values(output_stream, "output_stream", count);
  const auto begins = values(output_begin, "output_begin", count);
  const auto firsts = values(first_segment, "first_segment", count + 1);
  std::vector<TraceRequest> requests(count);
  for (py::ssize_t i = 0; i < count; ++i) {
    const int64_t first = firsts[i];
    check(first >= 0 && firsts[i + 1] >= first && firsts[i + 1] <= num_segments, "request ", i,
          ": segments ", first, " to ", firsts[i + 1], " of ", num_segments);
    requests[i] = {.arrival = at[i],
                   .priority = priorities[i],
                   .num_output = outputs[i],
                   .max_output = most[i],
                   .output = {streams[i], begins[i], most[i]},
                   .first_segment = first,
                   .num_segments = static_cast<int32_t>(firsts[i + 1] - first)};
  }
  const auto segment_streams = values(segment_stream, "segment_stream", num_segments);
  const auto segment_begins = values(segment_begin, "segment_begin", num_segments);
  const auto segment_lengths = values(segment_length, "segment_length", num_segments);
  std::vector<Segment> segments(num_segments);
  for (py::ssize_t i = 0; i < num_segments; ++i)
    segments[i] = {segment_streams[i], segment_begins[i], segment_lengths[i]};
  const auto ids = values(literal_ids, "literal_ids", literal_ids.size());
  return std::make_unique<Trace>(std::move(requests), std::move(segments),
                                 std::vector<int32_t>(ids.begin(), ids.end()), vocab_size);
}

/// One member of every row as a numpy array.
template <class Row, class Value>
py::array_t<Value> column(const std::vector<Row>& rows, Value Row::* member) {
  py::array_t<Value> result(static_cast<py::ssize_t>(rows.size()));
  Value* out = result.mutable_data();
  for (const Row& row : rows) *out++ = row.*member;
  return result;
}

py::dict records_of(const Fleet& fleet) {
  const std::vector<RequestRecord>& records = fleet.records();
  py::array_t<uint8_t> states(static_cast<py::ssize_t>(records.size()));
  for (size_t i = 0; i < records.size(); ++i)
    states.mutable_at(i) = static_cast<uint8_t>(records[i].state);
  py::dict result;
  result["state"] = states;
  result["replica"] = column(records, &RequestRecord::replica);
  result["num_preemptions"] = column(records, &RequestRecord::num_preemptions);
  result["num_cached"] = column(records, &RequestRecord::num_cached);
  result["num_generated"] = column(records, &RequestRecord::num_generated);
  result["arrival"] = column(records, &RequestRecord::arrival);
  result["admitted"] = column(records, &RequestRecord::admitted);
  result["first_token"] = column(records, &RequestRecord::first_token);
  result["finished"] = column(records, &RequestRecord::finished);
  result["longest_gap"] = column(records, &RequestRecord::longest_gap);
  return result;
}

py::dict timeline_of(const Fleet& fleet) {
  const std::vector<TimelineBin>& bins = fleet.timeline().bins();
  py::dict result;
  result["waiting"] = column(bins, &TimelineBin::waiting);
  result["running"] = column(bins, &TimelineBin::running);
  result["busy"] = column(bins, &TimelineBin::busy);
  result["used_blocks"] = column(bins, &TimelineBin::used_blocks);
  result["cached_blocks"] = column(bins, &TimelineBin::cached_blocks);
  result["generated_tokens"] = column(bins, &TimelineBin::generated_tokens);
  result["prompt_tokens"] = column(bins, &TimelineBin::prompt_tokens);
  result["cached_tokens"] = column(bins, &TimelineBin::cached_tokens);
  result["preemptions"] = column(bins, &TimelineBin::preemptions);
  result["steps"] = column(bins, &TimelineBin::steps);
  return result;
}

/// [num_replicas][4]: requests waiting, running, prompt tokens to do, context tokens.
py::array_t<int64_t> loads_of(const Fleet& fleet) {
  py::array_t<int64_t> result({static_cast<py::ssize_t>(fleet.num_replicas()), py::ssize_t{4}});
  int64_t* out = result.mutable_data();
  for (int32_t i = 0; i < fleet.num_replicas(); ++i) {
    const ReplicaLoad load = fleet.replica(i).load();
    *out++ = load.num_waiting;
    *out++ = load.num_running;
    *out++ = load.prompt_tokens_to_do;
    *out++ = load.context_tokens;
  }
  return result;
}

scheduler::CapacityPolicy policy_named(const std::string& name) {
  using enum scheduler::CapacityPolicy;
  if (name == "guaranteed_no_evict") return kGuaranteedNoEvict;
  if (name == "max_utilization") return kMaxUtilization;
  check(name == "static_batch", "capacity_policy '", name,
        "' is none of guaranteed_no_evict, max_utilization and static_batch");
  return kStaticBatch;
}

void register_cost(py::module_& module) {
  py::class_<StepWork>(module, "StepWork")
      .def(py::init([](int32_t rows, int32_t logits, int32_t sequences, int64_t generation_keys,
                       int64_t prompt_pairs, int64_t host_copy_bytes) {
             return StepWork{rows,         logits,         sequences, generation_keys,
                             prompt_pairs, host_copy_bytes};
           }),
           py::arg("num_rows"), py::arg("num_logits"), py::arg("num_sequences"),
           py::arg("generation_keys") = 0, py::arg("prompt_pairs") = 0,
           py::arg("host_copy_bytes") = 0);
  py::class_<SmallSteps>(module, "SmallSteps", "Of at most `max_rows` tokens; seconds.")
      .def(py::init([](int32_t max_rows, double fixed, double per_further_row) {
             return SmallSteps{max_rows, fixed, per_further_row};
           }),
           py::kw_only(), py::arg("max_rows"), py::arg("fixed"), py::arg("per_further_row"));
  py::class_<CostModel>(module, "CostModel", "Coefficients, in seconds or seconds per unit.")
      .def(py::init([](double fixed, double weights, double per_row, double sharpness,
                       double per_row_moved, double per_logits_row, double per_generation_key,
                       double per_prompt_pair, double per_host_copy_byte, double host_fixed,
                       double host_per_sequence, std::vector<SmallSteps> small_steps,
                       double launches, double head_weights, double per_logits_row_moved) {
             CostModel cost{.fixed = fixed,
                            .small_steps = std::move(small_steps),
                            .launches = launches,
                            .weights = weights,
                            .per_row = per_row,
                            .sharpness = sharpness,
                            .per_row_moved = per_row_moved,
                            .head_weights = head_weights,
                            .per_logits_row = per_logits_row,
                            .per_logits_row_moved = per_logits_row_moved,
                            .per_generation_key = per_generation_key,
                            .per_prompt_pair = per_prompt_pair,
                            .per_host_copy_byte = per_host_copy_byte,
                            .host_fixed = host_fixed,
                            .host_per_sequence = host_per_sequence};
             validate(cost);
             return cost;
           }),
           py::kw_only(), py::arg("fixed") = 0.0, py::arg("weights") = 0.0,
           py::arg("per_row") = 0.0, py::arg("sharpness") = 4.0, py::arg("per_row_moved") = 0.0,
           py::arg("per_logits_row") = 0.0, py::arg("per_generation_key") = 0.0,
           py::arg("per_prompt_pair") = 0.0, py::arg("per_host_copy_byte") = 0.0,
           py::arg("host_fixed") = 0.0, py::arg("host_per_sequence") = 0.0,
           py::arg("small_steps") = std::vector<SmallSteps>{}, py::arg("launches") = 0.0,
           py::arg("head_weights") = 0.0, py::arg("per_logits_row_moved") = 0.0)
      .def("device_seconds", &CostModel::device_seconds, py::arg("work"))
      .def("host_seconds", &CostModel::host_seconds, py::arg("work"));
}

void check_request(const Trace& trace, int64_t index) {
  check(index >= 0 && index < trace.size(), "request ", index, " of ", trace.size());
}

void register_trace(py::module_& module) {
  py::class_<Trace>(module, "Trace")
      .def(py::init(&make_trace), py::kw_only(), py::arg("arrival"), py::arg("priority"),
           py::arg("num_output"), py::arg("max_output"), py::arg("output_stream"),
           py::arg("output_begin"), py::arg("first_segment"), py::arg("segment_stream"),
           py::arg("segment_begin"), py::arg("segment_length"), py::arg("literal_ids"),
           py::arg("vocab_size"),
           "Columns of requests in order of arrival; request i has segments first_segment[i] to "
           "first_segment[i + 1].")
      .def("__len__", &Trace::size)
      .def(
          "prompt",
          [](const Trace& trace, int64_t index) {
            check_request(trace, index);
            std::vector<int32_t> ids;
            trace.append_prompt(index, ids);
            return py::array_t<int32_t>(static_cast<py::ssize_t>(ids.size()), ids.data());
          },
          py::arg("request"))
      .def(
          "arrivals",
          [](const Trace& trace) {
            py::array_t<double> result(trace.size());
            for (int64_t i = 0; i < trace.size(); ++i)
              result.mutable_at(i) = trace.request(i).arrival;
            return result;
          },
          "float64, seconds.")
      .def("prompt_lengths",
           [](const Trace& trace) {
             py::array_t<int32_t> result(trace.size());
             for (int64_t i = 0; i < trace.size(); ++i)
               result.mutable_at(i) = trace.request(i).prompt_len;
             return result;
           })
      .def("output_lengths",
           [](const Trace& trace) {
             py::array_t<int32_t> result(trace.size());
             for (int64_t i = 0; i < trace.size(); ++i)
               result.mutable_at(i) = trace.request(i).num_output;
             return result;
           })
      .def(
          "output_token",
          [](const Trace& trace, int64_t index, int32_t position) {
            check_request(trace, index);
            const int32_t length = trace.request(index).max_output;
            check(position >= 0 && position < length, "position ", position, " of ", length);
            return trace.output_token(index, position);
          },
          py::arg("request"), py::arg("position"))
      .def(
          "prefix_hashes",
          [](const Trace& trace, int64_t index, int32_t piece_len) {
            check_request(trace, index);
            return trace.prefix_hashes(index, piece_len);
          },
          py::arg("request"), py::arg("piece_len"));
  module.attr("LITERAL") = Segment::kLiteral;
}

void register_replica(py::module_& module) {
  py::enum_<RequestState>(module, "RequestState")
      .value("NOT_SENT", RequestState::kNotSent)
      .value("LIVE", RequestState::kLive)
      .value("FINISHED", RequestState::kFinished)
      .value("REFUSED", RequestState::kRefused);
  py::class_<ReplicaConfig>(module, "ReplicaConfig")
      .def(py::init([](int32_t tokens_per_block, int32_t num_blocks,
                       const scheduler::Limits& limits, const CostModel& cost,
                       const std::string& capacity_policy, double max_time_per_output_token_ms,
                       bool enable_reuse, int32_t num_host_blocks, double block_bytes,
                       int32_t max_steps_in_flight, bool check_invariants) {
             ReplicaConfig config;
             config.tokens_per_block = tokens_per_block;
             config.num_blocks = num_blocks;
             config.limits = limits;
             config.limits.capacity_policy = policy_named(capacity_policy);
             config.limits.max_time_per_output_token_ms = max_time_per_output_token_ms;
             config.cost = cost;
             config.enable_reuse = enable_reuse;
             config.num_host_blocks = num_host_blocks;
             config.block_bytes = block_bytes;
             config.max_steps_in_flight = max_steps_in_flight;
             config.check_invariants = check_invariants;
             validate(config);
             return config;
           }),
           py::kw_only(), py::arg("tokens_per_block"), py::arg("num_blocks"), py::arg("limits"),
           py::arg("cost"), py::arg("capacity_policy") = "guaranteed_no_evict",
           py::arg("max_time_per_output_token_ms") = 0.0, py::arg("enable_reuse") = true,
           py::arg("num_host_blocks") = 0, py::arg("block_bytes") = 0.0,
           py::arg("max_steps_in_flight") = 2, py::arg("check_invariants") = false);
}

void register_fleet(py::module_& module) {
  py::class_<Fleet>(module, "Fleet")
      .def(py::init<const Trace&, const ReplicaConfig&, int32_t, double>(), py::arg("trace"),
           py::arg("config"), py::arg("num_replicas"), py::arg("bin_seconds"),
           py::keep_alive<1, 2>())
      .def("advance_to", &Fleet::advance_to, py::arg("time"))
      .def("submit", &Fleet::submit, py::arg("replica"))
      .def(
          "submit_all",
          [](Fleet& fleet, const Column<int32_t>& replicas) {
            const auto chosen = values(replicas, "replicas", replicas.size());
            py::gil_scoped_release release;
            fleet.submit_all(chosen);
          },
          py::arg("replicas"))
      .def("drain", &Fleet::drain, py::call_guard<py::gil_scoped_release>())
      .def("loads", &loads_of,
           "int64 [num_replicas, 4]: requests waiting, running, prompt tokens to do, context "
           "tokens.")
      .def_property_readonly("num_submitted", &Fleet::num_submitted)
      .def_property_readonly("now", &Fleet::now)
      .def("records", &records_of, "Columns of all requests, in the trace's order.")
      .def("timeline", &timeline_of, "Columns of sums per bin of time.");
}

}  // namespace

void register_simulation(py::module_& parent) {
  py::module_ module =
      parent.def_submodule("simulation", "Scheduler and cache manager in virtual time.");
  register_cost(module);
  register_trace(module);
  register_replica(module);
  register_fleet(module);
}

}  // namespace inflight::bindings
