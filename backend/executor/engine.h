// The public face of the C++ core: an engine directory loaded on a device, requests in, tokens out.
// Owns the engine thread and the response thread. Knows nothing of Triton, Python or text.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/executor/request.h"
#include "backend/kv_cache/cache_events.h"
#include "backend/kv_cache/prefix.h"

namespace inflight::executor {

/// Run-time choices; what is absent is taken from the engine directory or the machine.
struct EngineConfig {
  std::filesystem::path engine_dir;
  std::string device = "auto";        // "auto": a CUDA device if one is usable; "cpu", "cuda:1"
  std::string load_format = "auto";   // "dummy": random weights, no checkpoint is opened
  std::optional<int> max_batch_size;  // sequences in a step; at most the engine's limit
  std::optional<int> max_num_tokens;  // tokens in a step; at most the engine's limit
  std::optional<int> max_seq_len;     // prompt + output; at most the engine's limit
  int max_queue_size = 0;             // waiting requests; 0 = unbounded
  // Who may hold cache: "guaranteed_no_evict", "max_utilization" (preempts when blocks run out) or
  // "static_batch" (a batch runs to its end before the next begins).
  std::string batch_scheduler_policy = "guaranteed_no_evict";
  // What a token of those that generate may take while prompts run beside them; 0 = no bound.
  double max_time_per_output_token_ms = 0.0;
  // Requests that have waited longer end with an error; 0 = none do.
  std::chrono::milliseconds queue_timeout{0};
  // A step that takes longer ends the engine: its requests fail, it takes no more. 0 = wait
  // forever.
  std::chrono::milliseconds step_timeout{0};
  bool enable_chunked_context = true;
  bool enable_kv_cache_reuse = true;  // prompts that begin like earlier ones find blocks of those
  bool enable_cuda_graphs = true;  // on a CUDA device generation, and short prompts, are recorded
  int num_threads = 0;             // CPU ops; 0 = all cores this process may use
  // KV pool: the smallest of the caps that are given.
  std::optional<int64_t> kv_cache_max_tokens;
  std::optional<int64_t> kv_cache_max_bytes;
  double kv_cache_free_memory_fraction = 0.9;  // of what is free after loading (on the CPU only if
                                               // neither cap is given, see config.h)
  int64_t kv_cache_host_memory_bytes = 0;      // host tier: evicted blocks; 0 = none
  // Blocks of the host tier that a prompt meets come back into the pool; else they are computed
  // again.
  bool kv_cache_onboard_blocks = true;
  // How keys and values are stored: "auto" is the engine's; "fp8", "int8" need kernels that this
  // version has not.
  std::string kv_cache_dtype = "auto";
  int64_t kv_cache_event_buffer_max_size = 0;  // events that are kept for readers; 0 = none are
  // Host memory that logits of requests under way may take together; 0 = a quarter of what is free
  // at load.
  int64_t max_logits_bytes = 0;
  bool check_invariants = false;  // snapshot checks after every step, for tests
  // The engine's thread may call back itself where it is little: a thread fewer to wake before an
  // answer is there.
  bool callbacks_return_at_once = false;
};

/// Layers that see the same share a pool and have block tables of their own.
struct KvGroupInfo {
  int window = 0;     // tokens that a token sees, itself included; 0: all before it
  int num_sinks = 0;  // first tokens of a sequence that it sees besides
  int num_layers = 0;
  int64_t bytes_per_block = 0;  // of its layers
  int64_t num_blocks = 0;
};

/// Facts fixed at load.
struct EngineInfo {
  std::string architecture;
  std::string dtype;
  std::string device;  // "cpu", "cuda:0"
  int vocab_size = 0;
  int max_batch_size = 0;
  int max_num_tokens = 0;
  int max_seq_len = 0;
  int max_prompt_len = 0;  // longest prompt accepted
  int tokens_per_block = 0;
  std::vector<int32_t> end_ids;  // the model's own, from its generation_config
  /// Whether prompts that begin alike share blocks.
  bool enable_kv_cache_reuse = false;
  std::vector<KvGroupInfo> kv_groups;  // in the plan's order; none: one that sees everything
  int64_t num_blocks = 0;  // of the pool of layers that see everything, else of the first group
  int64_t num_host_blocks = 0;
  int64_t block_bytes = 0;  // of all layers
  bool kv_cache_onboard_blocks = true;
  double onboard_bytes_per_second = 0;  // from the host tier into the pool, measured at load
  std::string kv_cache_dtype;
  std::string cache_layout;            // what engines must have in common that exchange blocks
  int64_t weight_bytes_mapped = 0;     // read in place from the memory-mapped checkpoint
  int64_t weight_bytes_allocated = 0;  // assembled or copied into memory of our own
  int64_t arena_bytes = 0;             // activations and workspace
  int64_t workspace_bytes = 0;         // of them, the scratch memory of ops
  int64_t kv_cache_bytes = 0;
  int64_t kv_cache_host_bytes = 0;  // page-locked for a CUDA device
  int64_t reserved_bytes = 0;       // CUDA: left free for recorded graphs and code loaded late
  int64_t pinned_bytes = 0;         // CUDA: page-locked host memory for the inputs of steps
};

/// A snapshot, consistent in itself, taken after the newest step.
struct EngineStats {
  bool is_healthy = true;  // false: the engine has died and takes no requests
  int64_t iteration = 0;
  int64_t timestamp_us = 0;  // since the Unix epoch
  int active_requests = 0;   // running + waiting
  int running_requests = 0;  // hold cache
  int waiting_requests = 0;
  int scheduled_requests = 0;  // in the newest step; 0 when idle
  int context_requests = 0;    // of them, still reading their prompt
  int generation_requests = 0;
  int context_tokens = 0;   // prompt tokens in the newest step
  int paused_requests = 0;  // of the waiting, preempted: they have run before
  int64_t max_blocks = 0;
  int64_t free_blocks = 0;  // those that hold what may be used again included
  int64_t used_blocks = 0;
  int64_t cached_blocks = 0;  // of the free ones, those that hold what may be used again
  int64_t reused_blocks = 0;  // since load: found in the cache at the start of prompts
  int tokens_per_block = 0;
  int64_t prefix_queried_tokens = 0;   // since load: of prompts that began to run
  int64_t prefix_hit_tokens = 0;       // of them, found in the cache
  int64_t prefix_host_hit_tokens = 0;  // of these, in the host tier
  int64_t stored_blocks = 0;           // since load: could be found from then on
  int64_t copied_blocks = 0;           // since load: of the reused ones, those that match in part
  int64_t evicted_blocks = 0;          // since load: were cached, and were needed
  int64_t max_host_blocks = 0;         // of the host tier
  int64_t cached_host_blocks = 0;      // of them, those that hold something
  int64_t offloaded_blocks = 0;        // since load: of those evicted, went to the host tier
  int64_t onboarded_blocks = 0;        // since load: came back from there
  int64_t copied_to_host_bytes = 0;    // since load, as the two below
  int64_t copied_from_host_bytes = 0;
  int64_t copied_on_device_bytes = 0;  // parts of blocks, and blocks shared until written to
  int64_t finished_requests = 0;       // since load, by reason below
  int64_t cancelled_requests = 0;
  int64_t timed_out_requests = 0;
  int64_t failed_requests = 0;
  int64_t preemptions = 0;  // one request may be preempted several times
  int64_t generated_tokens = 0;
  int64_t prompt_tokens = 0;
  // Since load. With steps overlapped the two run beside each other: their sum is no duration.
  double host_seconds = 0;    // the engine thread's work: scheduling, batch building, commit, and
                              // launching where the device runs by itself
  double device_seconds = 0;  // while a step was launched and its tokens not yet there
};

class ModelExecutor;

/// The start of a sequence outside of any engine.
struct ExportedPrefix {
  std::string layout;  // EngineInfo::cache_layout
  std::vector<int32_t> token_ids;
  std::vector<std::byte> blocks;  // of these tokens, each of block_bytes; the last may be part full
};

/// A request and who hears its parts.
struct Submission {
  std::shared_ptr<const Request> request;
  ResponseCallback callback;
};

class Engine {
 public:
  /// Loads weights, makes the KV pool, starts the threads. Raises Error with the file and key.
  explicit Engine(const EngineConfig& config);
  /// Over a model that is already there; of `config` only what concerns the loop is read. For
  /// tests.
  Engine(const EngineInfo& info, const EngineConfig& config,
         std::unique_ptr<ModelExecutor> executor);
  /// Ends every request with a final cancelled part, then joins the threads. If the engine thread
  /// hangs, it is left behind with all it uses, which goes when it comes back.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Validates against the limits and queues; any thread. Raises invalid_argument (which value,
  /// which limit) or resource_exhausted ("Maximum queue size of N ... Exceeds maximum queue
  /// size", or max_logits_bytes). After a normal return `callback` gets exactly one final part.
  RequestId submit(std::shared_ptr<const Request> request, ResponseCallback callback);
  /// Several at once, answered in order with their ids: all are queued, or none and the first error
  /// is raised.
  std::vector<RequestId> submit(std::vector<Submission> submissions);
  /// Asks for an early end; any thread; unknown or finished ids are ignored. The request's final
  /// part comes as all others do, with kCancelled.
  void cancel(RequestId id);

  /// What has happened to reusable blocks since the last call, oldest first; any thread. Waits for
  /// something, no longer than `timeout`. Raises invalid_argument if no events are kept.
  kv_cache::CacheEvents kv_cache_events(std::chrono::nanoseconds timeout = {});
  /// Those of the ids from `first_id` on, which stay where they are (CacheEventLog::read); for any
  /// number of readers, who do not take. Raises likewise.
  kv_cache::CacheEvents read_kv_cache_events(int64_t first_id, int64_t max_tokens);

  /// Keys and values of the leading `token_ids` that the cache holds, at most all but the last; any
  /// thread but a callback's, waits for the engine thread. Raises resource_exhausted if it needs a
  /// block and there is none, unavailable once the engine has ended, unsupported where layers see
  /// windows.
  ExportedPrefix export_prefix(std::span<const int32_t> token_ids,
                               const kv_cache::PrefixScope& scope = {});
  /// Into the cache, where prompts find it until it is evicted. Raises what export_prefix does, and
  /// invalid_argument if it is of another engine's layout.
  void import_prefix(const ExportedPrefix& prefix, const kv_cache::PrefixScope& scope = {});

  /// What the destructor does first: ends every request with a final cancelled part and stops the
  /// threads. submit raises afterwards; the rest may still be asked. Any thread but a callback's.
  void shut_down();

  const EngineInfo& info() const;
  /// What takes how much memory, as a table; also logged at load. Empty over a test's model.
  const std::string& memory_plan() const;
  EngineStats stats() const;
  /// False once the engine loop has died or hangs; every request then ended with an error.
  bool is_healthy() const;
  /// Called once, on a thread of the engine's that must not be kept, when it becomes unhealthy. At
  /// most one; set before the first submit.
  void on_failure(std::function<void(const std::string& why)> callback);

  /// Called on the response thread after a step that brought somebody something, and every few
  /// milliseconds while none does (metrics, cancellation polls). At most one; set before the first
  /// submit.
  void on_step(std::function<void(const EngineStats&)> callback);

  /// Called on the response thread every few milliseconds while there are requests and nothing is
  /// told of them, as during a long step (cancellation polls). At most one; set before the first
  /// submit.
  void on_wait(std::function<void()> callback);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace inflight::executor
