// inflight._core.scheduler: the decisions from numbers, without an engine, for property tests
// against Python models.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <vector>

#include "backend/scheduler/admission_order.h"
#include "backend/scheduler/preemption.h"
#include "backend/scheduler/schedule.h"

namespace inflight::bindings {
namespace py = pybind11;
namespace {

using namespace scheduler;

void register_limits(py::module_& module) {
  py::enum_<CapacityPolicy>(module, "CapacityPolicy")
      .value("GUARANTEED_NO_EVICT", CapacityPolicy::kGuaranteedNoEvict)
      .value("MAX_UTILIZATION", CapacityPolicy::kMaxUtilization)
      .value("STATIC_BATCH", CapacityPolicy::kStaticBatch);
  py::class_<Limits>(module, "Limits")
      .def(py::init([](int32_t max_batch_size, int32_t max_num_tokens, bool chunked,
                       CapacityPolicy policy, int32_t max_preemptions, double max_ms,
                       int32_t tile_rows) {
             const Limits limits{.max_batch_size = max_batch_size,
                                 .max_num_tokens = max_num_tokens,
                                 .enable_chunked_context = chunked,
                                 .capacity_policy = policy,
                                 .max_preemptions = max_preemptions,
                                 .max_time_per_output_token_ms = max_ms,
                                 .tile_rows = tile_rows};
             validate(limits);
             return limits;
           }),
           py::arg("max_batch_size"), py::arg("max_num_tokens"),
           py::arg("enable_chunked_context") = true,
           py::arg("capacity_policy") = CapacityPolicy::kGuaranteedNoEvict,
           py::arg("max_preemptions") = Limits().max_preemptions,
           py::arg("max_time_per_output_token_ms") = 0.0, py::arg("tile_rows") = 0)
      .def_readonly("max_batch_size", &Limits::max_batch_size)
      .def_readonly("max_num_tokens", &Limits::max_num_tokens)
      .def_readonly("enable_chunked_context", &Limits::enable_chunked_context)
      .def_readonly("capacity_policy", &Limits::capacity_policy)
      .def_readonly("max_preemptions", &Limits::max_preemptions)
      .def_readonly("max_time_per_output_token_ms", &Limits::max_time_per_output_token_ms)
      .def_readonly("tile_rows", &Limits::tile_rows)
      .def("max_running", &Limits::max_running);
}

void register_views(py::module_& module) {
  py::class_<SequenceView>(module, "SequenceView")
      .def(py::init([](uint64_t id, int32_t prompt_len, int32_t max_total_len, int32_t num_computed,
                       int32_t num_blocks, int32_t priority, bool logits_of_prompt,
                       int32_t num_preemptions, int32_t num_passes) {
             return SequenceView{
                 id,         priority,         prompt_len,      num_computed, max_total_len,
                 num_blocks, logits_of_prompt, num_preemptions, num_passes};
           }),
           py::arg("id"), py::arg("prompt_len"), py::arg("max_total_len"),
           py::arg("num_computed") = 0, py::arg("num_blocks") = 0, py::arg("priority") = 0,
           py::arg("logits_of_prompt") = false, py::arg("num_preemptions") = 0,
           py::arg("num_passes") = 0);
  py::class_<CacheView>(module, "CacheView")
      .def(py::init([](int32_t tokens_per_block, int32_t num_blocks, int32_t free_blocks,
                       int32_t evictable_blocks, int32_t leaving_blocks) {
             return CacheView{kv_cache::Geometry(tokens_per_block), num_blocks, free_blocks,
                              evictable_blocks, leaving_blocks};
           }),
           py::arg("tokens_per_block"), py::arg("num_blocks"), py::arg("free_blocks"),
           py::arg("evictable_blocks") = 0, py::arg("leaving_blocks") = 0);
}

void register_steps(py::module_& module) {
  py::class_<ScheduledSequence>(module, "ScheduledSequence")
      .def_readonly("id", &ScheduledSequence::id)
      .def_readonly("index", &ScheduledSequence::index)
      .def_readonly("first_position", &ScheduledSequence::first_position)
      .def_readonly("num_tokens", &ScheduledSequence::num_tokens)
      .def_readonly("is_prompt_chunk", &ScheduledSequence::is_prompt_chunk)
      .def_readonly("is_last_chunk", &ScheduledSequence::is_last_chunk)
      .def_readonly("logits_of_all", &ScheduledSequence::logits_of_all)
      .def("num_logits", &ScheduledSequence::num_logits)
      .def("makes_token", &ScheduledSequence::makes_token);
  py::class_<Step>(module, "Step")
      .def_readonly("sequences", &Step::sequences)
      .def_readonly("num_tokens", &Step::num_tokens)
      .def_readonly("num_generating", &Step::num_generating)
      .def_readonly("num_admitted", &Step::num_admitted)
      .def("is_empty", &Step::is_empty)
      .def(
          "__eq__", [](const Step& a, const Step& b) { return a == b; }, py::is_operator())
      .def("__repr__", [](const Step& step) { return concat(step); });
}

void register_decisions(py::module_& module) {
  module.def(
      "schedule",
      [](const std::vector<SequenceView>& running, const std::vector<SequenceView>& waiting,
         const CacheView& cache, const Limits& limits, uint64_t turn) {
        Step step;
        Scratch scratch;
        const EngineView view{.running = running, .waiting = waiting, .cache = cache, .turn = turn};
        schedule(step, scratch, view, limits);
        return step;
      },
      py::arg("running"), py::arg("waiting"), py::arg("cache"), py::arg("limits"),
      py::arg("turn") = 0);
  module.def(
      "choose_preempted",
      [](const std::vector<SequenceView>& running, const CacheView& cache, const Limits& limits) {
        std::vector<int32_t> chosen;
        choose_preempted(chosen, EngineView{.running = running, .cache = cache}, limits);
        return chosen;
      },
      py::arg("running"), py::arg("cache"), py::arg("limits"));
  module.def(
      "first_by_hits",
      [](const std::vector<SequenceView>& candidates) { return first_by_hits(candidates); },
      py::arg("candidates"));
  module.attr("MAX_PASSES") = kMaxPasses;
  module.def("check_can_run", &check_can_run, py::arg("prompt_len"), py::arg("max_total_len"),
             py::arg("cache"), py::arg("limits"));
}

}  // namespace

void register_scheduler(py::module_& parent) {
  py::module_ module = parent.def_submodule("scheduler", "Steps from numbers.");
  register_limits(module);
  register_views(module);
  register_steps(module);
  register_decisions(module);
}

}  // namespace inflight::bindings
