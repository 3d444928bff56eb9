// inflight._core.planning: the planner that the engine plans with, without an engine, for property
// tests.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/kv_cache/invariants.h"
#include "backend/kv_cache/kv_cache_manager.h"
#include "backend/planning/planner.h"

namespace inflight::bindings {
namespace py = pybind11;
namespace {

using planning::PlannedSequence;
using planning::PlannedStep;

/// A planner with its cache, its sequences and its steps in flight; sequences go by id.
class Planning {
 public:
  Planning(const scheduler::Limits& limits, int32_t tokens_per_block, int32_t num_blocks,
           bool enable_reuse, int32_t num_host_blocks)
      : cache_(kv_cache::Geometry(tokens_per_block), num_blocks,
               {.enable_reuse = enable_reuse, .num_host_blocks = num_host_blocks}),
        planner_(limits, cache_) {}

  uint64_t arrive(std::vector<int32_t> prompt, int32_t max_new_tokens, int32_t priority,
                  const std::string& tenant, bool needs_newest_token) {
    Owned& owned = sequences_[++last_id_];
    owned.prompt = std::move(prompt);
    owned.sequence = std::make_unique<PlannedSequence>(
        planning::SequenceFacts{.id = last_id_,
                                .priority = priority,
                                .prompt_ids = owned.prompt,
                                .max_new_tokens = max_new_tokens,
                                .needs_newest_token = needs_newest_token});
    planner_.arrive(*owned.sequence, tenant);
    return last_id_;
  }
  /// The step, which is in flight then; None if there is none to be made now.
  std::optional<scheduler::Step> plan() {
    auto step = std::make_unique<PlannedStep>();
    if (!planner_.plan(*step, !in_flight_.empty())) return std::nullopt;
    cache_.clear_copies();
    in_flight_.push_back(std::move(step));
    return in_flight_.back()->step;
  }
  /// Row of the step before that makes the newest token, for each sequence of the newest step.
  std::vector<int32_t> in_flight_tokens() const { return in_flight_.back()->in_flight_tokens; }
  /// The oldest step has run: ids of those that it made a token for.
  std::vector<uint64_t> commit() {
    const std::unique_ptr<PlannedStep> step = std::move(in_flight_.front());
    in_flight_.pop_front();
    planner_.commit(*step);
    std::vector<uint64_t> ids;
    for (size_t i = 0; i < step->sequences.size(); ++i) {
      if (step->step.sequences[i].makes_token()) ids.push_back(step->sequences[i]->id());
    }
    return ids;
  }
  /// The newest step does not run: ids of those that it names.
  std::vector<uint64_t> fail() {
    const std::unique_ptr<PlannedStep> step = std::move(in_flight_.back());
    in_flight_.pop_back();
    planner_.give_back(*step);
    planner_.forget_cached();
    std::vector<uint64_t> ids;
    for (const PlannedSequence* sequence : step->sequences) ids.push_back(sequence->id());
    return ids;
  }
  void append(uint64_t id, int32_t token) { at(id).append(token); }
  void end(uint64_t id) { planner_.end(at(id)); }
  std::vector<uint64_t> release() {
    std::vector<PlannedSequence*> gone;
    planner_.release(gone);
    std::vector<uint64_t> ids;
    for (const PlannedSequence* sequence : gone) ids.push_back(sequence->id());
    for (const uint64_t id : ids) sequences_.erase(id);
    return ids;
  }
  PlannedSequence& at(uint64_t id) { return *sequences_.at(id).sequence; }
  void check() {
    kv_cache::check_invariants(cache_.snapshot());
    planner_.check_kept();
  }
  const kv_cache::KvCacheManager& cache() const { return cache_; }
  const planning::Planner& planner() const { return planner_; }
  std::vector<uint64_t> running() const {
    std::vector<uint64_t> ids;
    for (const PlannedSequence* sequence : planner_.running().sequences())
      ids.push_back(sequence->id());
    return ids;
  }

 private:
  struct Owned {
    std::vector<int32_t> prompt;
    std::unique_ptr<PlannedSequence> sequence;
  };
  kv_cache::KvCacheManager cache_;
  planning::Planner planner_;
  std::map<uint64_t, Owned> sequences_;
  std::deque<std::unique_ptr<PlannedStep>> in_flight_;  // reservations end before the cache
  uint64_t last_id_ = 0;
};

void register_step_time(py::module_& module) {
  using namespace scheduler;
  py::class_<StepWork>(module, "StepWork")
      .def(py::init<>())
      .def("add_generating", &StepWork::add_generating, py::arg("position"))
      .def("add_chunk", &StepWork::add_chunk, py::arg("first_position"), py::arg("count"))
      .def_readonly("num_tokens", &StepWork::num_tokens)
      .def_readonly("num_prompt_tokens", &StepWork::num_prompt_tokens)
      .def_readonly("generation_keys", &StepWork::generation_keys)
      .def_readonly("prompt_pairs", &StepWork::prompt_pairs);
  py::class_<StepTime>(module, "StepTime")
      .def_readonly("ms_per_step", &StepTime::ms_per_step)
      .def_readonly("ms_per_token", &StepTime::ms_per_token)
      .def_readonly("ms_per_generation_key", &StepTime::ms_per_generation_key)
      .def_readonly("ms_per_prompt_pair", &StepTime::ms_per_prompt_pair)
      .def_readonly("most_prompt_tokens", &StepTime::most_prompt_tokens)
      .def("predict", &StepTime::predict, py::arg("work"))
      .def("tokens_within", &StepTime::tokens_within, py::arg("ms"), py::arg("first_position"),
           py::arg("most"));
  py::class_<StepTimeModel>(module, "StepTimeModel")
      .def(py::init<>())
      .def("observe", &StepTimeModel::observe, py::arg("work"), py::arg("ms"))
      .def("fit", &StepTimeModel::fit);
}

void register_ledger(py::module_& module) {
  using scheduler::ServiceLedger;
  py::class_<ServiceLedger>(module, "ServiceLedger")
      .def(py::init<>())
      .def_readonly_static("MAX_IDLE", &ServiceLedger::kMaxIdle)
      .def("enter", &ServiceLedger::enter, py::arg("name"))
      .def("leave", &ServiceLedger::leave, py::arg("tenant"))
      .def("begins_to_wait", &ServiceLedger::begins_to_wait, py::arg("tenant"))
      .def("starts", &ServiceLedger::starts, py::arg("tenant"))
      .def("charge", &ServiceLedger::charge, py::arg("tenant"), py::arg("weighted_tokens"))
      .def("served", &ServiceLedger::served, py::arg("tenant"))
      .def_property_readonly("num_remembered", &ServiceLedger::num_remembered);
}

}  // namespace

void register_planning(py::module_& parent) {
  py::module_ module = parent.def_submodule("planning", "The planner, without an engine.");
  register_step_time(module);
  register_ledger(module);
  py::class_<Planning>(module, "Planning")
      .def(py::init<const scheduler::Limits&, int32_t, int32_t, bool, int32_t>(), py::arg("limits"),
           py::arg("tokens_per_block"), py::arg("num_blocks"), py::arg("enable_reuse") = false,
           py::arg("num_host_blocks") = 0)
      .def("arrive", &Planning::arrive, py::arg("prompt"), py::arg("max_new_tokens"),
           py::arg("priority") = 0, py::arg("tenant") = "", py::arg("needs_newest_token") = false)
      .def("plan", &Planning::plan)
      .def("in_flight_tokens", &Planning::in_flight_tokens)
      .def("commit", &Planning::commit)
      .def("fail", &Planning::fail)
      .def("append", &Planning::append, py::arg("id"), py::arg("token"))
      .def("end", &Planning::end, py::arg("id"))
      .def("release", &Planning::release)
      .def("check", &Planning::check)
      .def(
          "tokens",
          [](Planning& self, uint64_t id) {
            const auto tokens = self.at(id).generated();
            return std::vector<int32_t>(tokens.begin(), tokens.end());
          },
          py::arg("id"))
      .def(
          "block_table",
          [](Planning& self, uint64_t id) {
            const auto ids = self.cache().block_table(self.at(id).table);
            return std::vector<int32_t>(ids.begin(), ids.end());
          },
          py::arg("id"))
      .def(
          "num_preemptions",
          [](Planning& self, uint64_t id) { return self.at(id).num_preemptions(); }, py::arg("id"))
      .def_property_readonly("running", &Planning::running)
      .def_property_readonly("num_waiting",
                             [](const Planning& p) { return p.planner().num_waiting(); })
      .def_property_readonly("num_paused",
                             [](const Planning& p) { return p.planner().num_paused(); })
      .def_property_readonly("num_leaving",
                             [](const Planning& p) { return p.planner().num_leaving(); })
      .def_property_readonly("is_idle", [](const Planning& p) { return p.planner().is_idle(); })
      .def_property_readonly("num_used_blocks",
                             [](const Planning& p) { return p.cache().num_used_blocks(); })
      .def_property_readonly("num_tables",
                             [](const Planning& p) { return p.cache().num_tables(); });
}

}  // namespace inflight::bindings
