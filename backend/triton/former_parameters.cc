#include "backend/triton/former_parameters.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <vector>

namespace inflight::triton {

namespace {

using Kind = FormerParameter::Kind;

struct Row {
  std::string_view key;
  /// Values that ask for nothing; none listed: every value.
  std::vector<std::string_view> harmless;
  Kind otherwise = Kind::kNoEffect;
  const char* reason = "";
};

constexpr const char* kNoSpeculation = "speculative decoding is not supported yet";
constexpr const char* kNoLora = "LoRA is not supported yet; requests that ask for it are refused";
constexpr const char* kOneProcess = "one process on one host runs a model in this version";

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      // How work was laid out on the device, or between threads and processes.
      {"FORCE_CPU_ONLY_INPUT_TENSORS", {}},
      {"cuda_graph_cache_size", {}},
      {"enable_context_fmha_fp32_acc", {}},
      {"enable_trt_overlap", {}},
      {"executor_worker_path", {}},
      {"iter_stats_max_iterations", {}},
      {"multi_block_mode", {}},
      {"recv_poll_period_ms", {}},
      {"request_stats_max_iterations", {}},
      {"speculative_decoding_fast_logits", {}},
      {"tokenizer_dir", {}},  // of the former backend's Python runtime
      {"gpu_weights_percent", {"1", "1.0"}, Kind::kNoEffect, "all weights lie on the device"},
      {"num_nodes", {"1"}, Kind::kRefused, kOneProcess},
      {"participant_ids", {"0"}, Kind::kNoEffect, kOneProcess},
      // Scheduling and cache.
      {"cross_kv_cache_fraction", {}},
      {"sink_token_length", {"0"}, Kind::kRefused, "sink tokens are not supported"},
      // Kinds of models and of decoding.
      {"encoder_model_path", {""}, Kind::kRefused, "models with an encoder are not supported yet"},
      {"max_beam_width",
       {"0", "1"},
       Kind::kNoEffect,
       "beam search is not supported yet; requests that ask for it are refused"},
      {"lookahead_window_size", {"0"}, Kind::kNoEffect, kNoSpeculation},
      {"lookahead_ngram_size", {"0"}, Kind::kNoEffect, kNoSpeculation},
      {"lookahead_verification_set_size", {"0"}, Kind::kNoEffect, kNoSpeculation},
      {"medusa_choices", {""}, Kind::kNoEffect, kNoSpeculation},
      {"eagle_choices", {""}, Kind::kNoEffect, kNoSpeculation},
      {"guided_decoding_backend",
       {""},
       Kind::kNoEffect,
       "guided decoding is not supported yet; requests that ask for it are refused"},
      {"xgrammar_tokenizer_info_path", {}},
      {"lora_cache_gpu_memory_fraction", {}},
      {"lora_cache_host_memory_bytes", {}},
      {"lora_cache_max_adapter_size", {}},
      {"lora_cache_optimal_adapter_size", {}},
      {"lora_prefetch_dir", {""}, Kind::kNoEffect, kNoLora},
  };
  return table;
}

bool is_one_of(std::string_view value, std::initializer_list<std::string_view> list) {
  return std::ranges::find(list, value) != list.end();
}

FormerParameter judge_decoding_mode(std::string_view value) {
  if (is_one_of(value, {"auto", "top_k", "top_p", "top_k_top_p"})) return {Kind::kHarmless, ""};
  if (value == "beam_search")
    return {Kind::kNoEffect,
            "beam search is not supported yet; requests that ask for it are refused"};
  if (value == "lookahead") return {Kind::kNoEffect, kNoSpeculation};
  // Their engines hold other weights than a checkpoint of the model.
  if (is_one_of(value, {"medusa", "redrafter", "eagle", "explicit_draft_tokens"}))
    return {Kind::kRefused, kNoSpeculation};
  return {Kind::kNoEffect, "expected top_k_top_p, top_k, top_p or auto"};
}

}  // namespace

FormerParameter judge_former_parameter(std::string_view key, std::string_view value) {
  if (key == "decoding_mode") return judge_decoding_mode(value);
  const auto found = std::ranges::find(rows(), key, &Row::key);
  if (found == rows().end()) return {};
  const bool harmless =
      found->harmless.empty() || std::ranges::find(found->harmless, value) != found->harmless.end();
  return harmless ? FormerParameter{Kind::kHarmless, ""}
                  : FormerParameter{found->otherwise, found->reason};
}

}  // namespace inflight::triton
