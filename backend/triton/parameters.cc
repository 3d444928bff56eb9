#include "backend/triton/parameters.h"

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/core/error.h"

namespace inflight::triton {

namespace {

// Keys of the former backend that change nothing here.
constexpr std::array kHarmless = {
    "FORCE_CPU_ONLY_INPUT_TENSORS",
    "batch_scheduler_policy",
    "cuda_graph_cache_size",
    "enable_context_fmha_fp32_acc",
    "enable_kv_cache_reuse",
    "enable_trt_overlap",
    "executor_worker_path",
    "gpu_weights_percent",
    "iter_stats_max_iterations",
    "multi_block_mode",
    "recv_poll_period_ms",
    "request_stats_max_iterations",
    "speculative_decoding_fast_logits",
    "tokenizer_dir",
    "xgrammar_tokenizer_info_path",
    "cross_kv_cache_fraction",
    "kv_cache_host_memory_bytes",
    "kv_cache_onboard_blocks",
    "lora_cache_optimal_adapter_size",
    "lora_cache_max_adapter_size",
    "lora_cache_gpu_memory_fraction",
    "lora_cache_host_memory_bytes",
    "num_nodes",
};

bool is_harmless(const std::string& key) {
  return std::find(kHarmless.begin(), kHarmless.end(), key) != kHarmless.end();
}

bool counts_as_absent(const std::string& value) {
  return value.empty() || value.rfind("${", 0) == 0;
}

}  // namespace

Parameters::Parameters(std::map<std::string, std::string> given, std::vector<std::string>& warnings)
    : given_(std::move(given)), warnings_(warnings) {
  std::erase_if(given_, [](const auto& entry) { return counts_as_absent(entry.second); });
}

std::optional<std::string> Parameters::text(const std::string& key, const std::string& otherwise) {
  const auto found = given_.find(key);
  const bool is_given = found != given_.end();
  asked_.push_back({key, is_given ? found->second : otherwise,
                    is_given ? ParameterUse::Source::kGiven : ParameterUse::Source::kDefault});
  return is_given ? std::optional(found->second) : std::nullopt;
}

bool Parameters::flag(const std::string& key, bool otherwise) {
  const char* const name = otherwise ? "true" : "false";
  const std::optional<std::string> value = text(key, name);
  if (!value) return otherwise;
  for (const char* yes : {"true", "True", "TRUE", "1"})
    if (*value == yes) return true;
  for (const char* no : {"false", "False", "FALSE", "0"})
    if (*value == no) return false;
  unreadable("true or false", name);
  return otherwise;
}

void Parameters::unreadable(const char* expected, const std::string& otherwise) {
  ParameterUse& use = asked_.back();
  warnings_.push_back(concat("parameter ", use.key, " = \"", use.value, "\" is not ", expected,
                             "; its default is used"));
  use.value = otherwise;
  use.source = ParameterUse::Source::kDefault;
}

std::vector<ParameterUse> Parameters::uses() const {
  std::vector<ParameterUse> uses = asked_;
  for (const auto& [key, value] : given_) {
    const auto is_this = [&key](const ParameterUse& use) { return use.key == key; };
    if (std::ranges::any_of(asked_, is_this)) continue;
    uses.push_back(
        {key, value,
         is_harmless(key) ? ParameterUse::Source::kNoEffect : ParameterUse::Source::kUnknown});
  }
  return uses;
}

void Parameters::warn_of_unknown() {
  for (const ParameterUse& use : uses())
    if (use.source == ParameterUse::Source::kUnknown)
      warnings_.push_back(concat("parameter ", use.key, " = \"", use.value, "\" has no effect"));
}

}  // namespace inflight::triton
