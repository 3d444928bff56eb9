// The engine for Python: submit, cancel, and one queue of response parts that Python waits on
// without the GIL. The engine's threads never take the GIL, so nothing here can deadlock with it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <utility>

#include "backend/bindings/bind_cache.h"
#include "backend/bindings/bind_errors.h"
#include "backend/bindings/bind_submit.h"
#include "backend/bindings/py_engine.h"

namespace py = pybind11;

namespace inflight::bindings {
namespace {

using executor::EngineConfig;
using executor::EngineInfo;
using executor::EngineStats;
using executor::FinishReason;
using executor::TokenLogProbs;

const char* name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kEndId:
      return "end_id";
    case FinishReason::kStopWord:
      return "stop_word";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "?";
}

void register_facts(py::module_& module) {
  py::class_<EngineInfo>(module, "EngineInfo")
      .def_readonly("architecture", &EngineInfo::architecture)
      .def_readonly("dtype", &EngineInfo::dtype)
      .def_readonly("device", &EngineInfo::device)
      .def_readonly("vocab_size", &EngineInfo::vocab_size)
      .def_readonly("max_batch_size", &EngineInfo::max_batch_size)
      .def_readonly("max_num_tokens", &EngineInfo::max_num_tokens)
      .def_readonly("max_seq_len", &EngineInfo::max_seq_len)
      .def_readonly("max_prompt_len", &EngineInfo::max_prompt_len)
      .def_readonly("tokens_per_block", &EngineInfo::tokens_per_block)
      .def_readonly("num_blocks", &EngineInfo::num_blocks)
      .def_readonly("num_host_blocks", &EngineInfo::num_host_blocks)
      .def_readonly("enable_kv_cache_reuse", &EngineInfo::enable_kv_cache_reuse)
      .def_readonly("block_bytes", &EngineInfo::block_bytes)
      .def_readonly("kv_cache_dtype", &EngineInfo::kv_cache_dtype)
      .def_readonly("cache_layout", &EngineInfo::cache_layout)
      .def_readonly("weight_bytes_mapped", &EngineInfo::weight_bytes_mapped)
      .def_readonly("weight_bytes_allocated", &EngineInfo::weight_bytes_allocated)
      .def_readonly("arena_bytes", &EngineInfo::arena_bytes)
      .def_readonly("workspace_bytes", &EngineInfo::workspace_bytes)
      .def_readonly("kv_cache_bytes", &EngineInfo::kv_cache_bytes)
      .def_readonly("kv_cache_host_bytes", &EngineInfo::kv_cache_host_bytes)
      .def_readonly("reserved_bytes", &EngineInfo::reserved_bytes)
      .def_readonly("onboard_bytes_per_second", &EngineInfo::onboard_bytes_per_second)
      .def_readonly("pinned_bytes", &EngineInfo::pinned_bytes);
  py::class_<EngineStats>(module, "EngineStats")
      .def_readonly("iteration", &EngineStats::iteration)
      .def_readonly("timestamp_us", &EngineStats::timestamp_us)
      .def_readonly("active_requests", &EngineStats::active_requests)
      .def_readonly("running_requests", &EngineStats::running_requests)
      .def_readonly("waiting_requests", &EngineStats::waiting_requests)
      .def_readonly("scheduled_requests", &EngineStats::scheduled_requests)
      .def_readonly("context_requests", &EngineStats::context_requests)
      .def_readonly("generation_requests", &EngineStats::generation_requests)
      .def_readonly("context_tokens", &EngineStats::context_tokens)
      .def_readonly("paused_requests", &EngineStats::paused_requests)
      .def_readonly("max_blocks", &EngineStats::max_blocks)
      .def_readonly("free_blocks", &EngineStats::free_blocks)
      .def_readonly("used_blocks", &EngineStats::used_blocks)
      .def_readonly("cached_blocks", &EngineStats::cached_blocks)
      .def_readonly("copied_blocks", &EngineStats::copied_blocks)
      .def_readonly("evicted_blocks", &EngineStats::evicted_blocks)
      .def_readonly("stored_blocks", &EngineStats::stored_blocks)
      .def_readonly("prefix_host_hit_tokens", &EngineStats::prefix_host_hit_tokens)
      .def_readonly("max_host_blocks", &EngineStats::max_host_blocks)
      .def_readonly("cached_host_blocks", &EngineStats::cached_host_blocks)
      .def_readonly("offloaded_blocks", &EngineStats::offloaded_blocks)
      .def_readonly("onboarded_blocks", &EngineStats::onboarded_blocks)
      .def_readonly("copied_to_host_bytes", &EngineStats::copied_to_host_bytes)
      .def_readonly("copied_from_host_bytes", &EngineStats::copied_from_host_bytes)
      .def_readonly("copied_on_device_bytes", &EngineStats::copied_on_device_bytes)
      .def_readonly("reused_blocks", &EngineStats::reused_blocks)
      .def_readonly("tokens_per_block", &EngineStats::tokens_per_block)
      .def_readonly("prefix_queried_tokens", &EngineStats::prefix_queried_tokens)
      .def_readonly("prefix_hit_tokens", &EngineStats::prefix_hit_tokens)
      .def_readonly("finished_requests", &EngineStats::finished_requests)
      .def_readonly("cancelled_requests", &EngineStats::cancelled_requests)
      .def_readonly("timed_out_requests", &EngineStats::timed_out_requests)
      .def_readonly("failed_requests", &EngineStats::failed_requests)
      .def_readonly("generated_tokens", &EngineStats::generated_tokens)
      .def_readonly("preemptions", &EngineStats::preemptions)
      .def_readonly("prompt_tokens", &EngineStats::prompt_tokens)
      .def_readonly("host_seconds", &EngineStats::host_seconds)
      .def_readonly("device_seconds", &EngineStats::device_seconds);
}

template <typename Get>
auto of_part(Get get) {
  return [get](const TaggedResponse& response) { return get(response.part); };
}

/// [n, V] that owns what was the part's; None where it has none.
py::object to_rows(std::vector<float>& values, int vocab_size) {
  if (values.empty()) return py::none();
  auto* const owned = new std::vector<float>(std::exchange(values, {}));
  const py::capsule owner(owned, [](void* data) { delete static_cast<std::vector<float>*>(data); });
  const auto num_rows = static_cast<py::ssize_t>(owned->size() / vocab_size);
  return py::array_t<float>({num_rows, static_cast<py::ssize_t>(vocab_size)}, owned->data(), owner);
}

void register_response(py::module_& module) {
  using executor::Response;
  py::class_<TokenLogProbs>(module, "TokenLogProbs")
      .def_readonly("chosen", &TokenLogProbs::chosen)
      .def_readonly("top", &TokenLogProbs::top);
  py::class_<TaggedResponse>(module, "Response")
      .def_readonly("tag", &TaggedResponse::tag)
      .def_property_readonly("id", of_part([](const Response& part) { return part.id; }))
      .def_property_readonly("token_ids",
                             of_part([](const Response& part) { return part.token_ids; }))
      .def_property_readonly("log_probs",
                             of_part([](const Response& part) { return part.log_probs; }))
      .def_property_readonly("cumulative_log_prob",
                             of_part([](const Response& part) { return part.cumulative_log_prob; }))
      .def_property_readonly("context_logits",
                             [](TaggedResponse& response) {
                               return to_rows(response.part.context_logits, response.vocab_size);
                             })
      .def_property_readonly("generation_logits",
                             [](TaggedResponse& response) {
                               return to_rows(response.part.generation_logits, response.vocab_size);
                             })
      .def_property_readonly("is_final",
                             of_part([](const Response& part) { return part.is_final; }))
      .def_property_readonly("finish_reason", of_part([](const Response& part) {
                               return name_of(part.finish_reason);
                             }))
      .def_property_readonly("error", of_part([](const Response& part) -> py::object {
                               return part.error ? make_exception(*part.error) : py::none();
                             }))
      .def_property_readonly("arrival_ns",
                             of_part([](const Response& part) { return part.times.arrival_ns; }))
      .def_property_readonly("first_scheduled_ns", of_part([](const Response& part) {
                               return part.times.first_scheduled_ns;
                             }))
      .def_property_readonly(
          "first_token_ns", of_part([](const Response& part) { return part.times.first_token_ns; }))
      .def_property_readonly(
          "last_token_ns", of_part([](const Response& part) { return part.times.last_token_ns; }));
}

/// Ending an engine waits for its step; Python's last reference goes with the GIL held.
void destroy(PyEngine* engine) {
  if (PyGILState_Check() != 0) {
    const py::gil_scoped_release release;
    delete engine;
  } else {
    delete engine;
  }
}

}  // namespace

void register_engine(py::module_& module) {
  register_facts(module);
  register_response(module);
  const auto open_engines = std::make_shared<OpenEngines>();
  module.attr("_close_engines") = py::cpp_function([open_engines] { open_engines->close(); },
                                                   py::call_guard<py::gil_scoped_release>());
  py::module_::import("atexit").attr("register")(module.attr("_close_engines"));

  const auto released = py::call_guard<py::gil_scoped_release>();
  py::class_<PyEngine, std::shared_ptr<PyEngine>> engine(module, "Engine");
  bind_submit(engine);
  bind_cache(module, engine);
  engine
      .def(py::init(
               [open_engines](
                   const std::filesystem::path& engine_dir, const std::string& device,
                   std::optional<int> max_batch_size, std::optional<int> max_num_tokens,
                   std::optional<int> max_seq_len, int max_queue_size, bool enable_chunked_context,
                   int num_threads, std::optional<int64_t> kv_cache_max_tokens,
                   std::optional<int64_t> kv_cache_max_bytes, double kv_cache_free_memory_fraction,
                   bool check_invariants, const std::string& load_format, bool enable_cuda_graphs,
                   int64_t kv_cache_host_memory_bytes, bool kv_cache_onboard_blocks,
                   const std::string& kv_cache_dtype, bool enable_kv_cache_reuse,
                   const std::string& batch_scheduler_policy, double max_time_per_output_token_ms,
                   int64_t kv_cache_event_buffer_max_size, int64_t max_logits_bytes) {
                 EngineConfig config;
                 config.engine_dir = engine_dir;
                 config.device = device;
                 config.max_batch_size = max_batch_size;
                 config.max_num_tokens = max_num_tokens;
                 config.max_seq_len = max_seq_len;
                 config.max_queue_size = max_queue_size;
                 config.enable_chunked_context = enable_chunked_context;
                 config.num_threads = num_threads;
                 config.kv_cache_max_tokens = kv_cache_max_tokens;
                 config.kv_cache_max_bytes = kv_cache_max_bytes;
                 config.kv_cache_free_memory_fraction = kv_cache_free_memory_fraction;
                 config.check_invariants = check_invariants;
                 config.load_format = load_format;
                 config.enable_cuda_graphs = enable_cuda_graphs;
                 config.kv_cache_host_memory_bytes = kv_cache_host_memory_bytes;
                 config.kv_cache_onboard_blocks = kv_cache_onboard_blocks;
                 config.kv_cache_dtype = kv_cache_dtype;
                 config.enable_kv_cache_reuse = enable_kv_cache_reuse;
                 config.batch_scheduler_policy = batch_scheduler_policy;
                 config.max_time_per_output_token_ms = max_time_per_output_token_ms;
                 config.kv_cache_event_buffer_max_size = kv_cache_event_buffer_max_size;
                 config.max_logits_bytes = max_logits_bytes;
                 const py::gil_scoped_release release;
                 const std::shared_ptr<PyEngine> engine(new PyEngine(config), destroy);
                 open_engines->add(engine);
                 return engine;
               }),
           py::arg("engine_dir"), py::kw_only(), py::arg("device") = "auto",
           py::arg("max_batch_size") = py::none(), py::arg("max_num_tokens") = py::none(),
           py::arg("max_seq_len") = py::none(), py::arg("max_queue_size") = 0,
           py::arg("enable_chunked_context") = true, py::arg("num_threads") = 0,
           py::arg("kv_cache_max_tokens") = py::none(), py::arg("kv_cache_max_bytes") = py::none(),
           py::arg("kv_cache_free_memory_fraction") = 0.9, py::arg("check_invariants") = false,
           py::arg("load_format") = "auto", py::arg("enable_cuda_graphs") = true,
           py::arg("kv_cache_host_memory_bytes") = 0, py::arg("kv_cache_onboard_blocks") = true,
           py::arg("kv_cache_dtype") = "auto", py::arg("enable_kv_cache_reuse") = true,
           py::arg("batch_scheduler_policy") = "guaranteed_no_evict",
           py::arg("max_time_per_output_token_ms") = 0.0,
           py::arg("kv_cache_event_buffer_max_size") = 0, py::arg("max_logits_bytes") = 0)
      .def("cancel", &PyEngine::cancel, py::arg("request_id"), released)
      .def(
          "next_responses",
          [](PyEngine& self, std::optional<double> timeout, double spin) {
            const PyEngine::Reader reader(self);  // until the GIL is held again
            const py::gil_scoped_release release;
            return self.next_responses(timeout, spin);
          },
          py::arg("timeout") = py::none(), py::arg("spin") = 0.0)
      .def("close", &PyEngine::close, released)
      .def_property_readonly("info", &PyEngine::info)
      .def_property_readonly("memory_plan", &PyEngine::memory_plan)
      .def("stats", &PyEngine::stats, released)
      .def_property_readonly("is_healthy", py::cpp_function(&PyEngine::is_healthy, released))
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](PyEngine& self, const py::args&) {
        const py::gil_scoped_release release;
        self.close();
      });
}

}  // namespace inflight::bindings
