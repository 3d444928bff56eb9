#include "backend/executor/admission.h"

#include <cstddef>
#include <string>

#include "backend/executor/cache_groups.h"
#include "backend/kv_cache/retention.h"
#include "backend/scheduler/schedule.h"
#include "kernels/core/check.h"
#include "kernels/core/log.h"

namespace inflight::executor {
namespace {

/// What a message of gRPC can be.
constexpr int64_t kMaxLogitsBytes = (int64_t{1} << 31) - 1;

int64_t bytes_per_row(const EngineInfo& info) { return info.vocab_size * int64_t{sizeof(float)}; }

/// A caller's own words are kept for as long as something of theirs is.
void check_words(const Request& request) {
  constexpr size_t kMaxTenantBytes = 256, kMaxSaltBytes = 1024;
  const auto check_length = [](const char* name, const std::string& word, size_t most) {
    check(word.size() <= most, name, " has ", word.size(), " bytes; at most ", most,
          " are possible");
  };
  check_length("tenant", request.tenant, kMaxTenantBytes);
  check_length("cache_salt", request.cache_scope.cache_salt, kMaxSaltBytes);
}

}  // namespace

int64_t logits_bytes(const Request& request, const EngineInfo& info, int max_new_tokens) {
  const auto prompt_len = static_cast<int64_t>(request.input_ids.size());
  const int64_t rows = (request.return_context_logits ? prompt_len : 0) +
                       (!request.return_generation_logits ? 0
                        : request.streaming               ? 1
                                                          : int64_t{max_new_tokens});
  return rows * bytes_per_row(info);
}

int admit(const Request& request, const EngineInfo& info, const scheduler::Limits& limits) {
  check(!request.input_ids.empty(), "The prompt is empty: input_ids must hold at least 1 token");
  const size_t prompt_len = request.input_ids.size();
  check(prompt_len <= static_cast<size_t>(info.max_prompt_len), "Prompt length (", prompt_len,
        ") exceeds maximum input length (", info.max_prompt_len, ")");
  for (size_t i = 0; i < prompt_len; ++i) {
    const int32_t id = request.input_ids[i];
    check(id >= 0 && (id < info.vocab_size || request.allow_unknown_ids), "input_ids[", i, "] is ",
          id, ", outside the vocabulary [0, ", info.vocab_size, ")");
  }
  decoding::validate(request.sampling, info.vocab_size);
  decoding::validate(request.stop, info.vocab_size);
  check_words(request);
  if (request.kv_retention) kv_cache::validate(*request.kv_retention);

  int max_new_tokens = request.stop.max_new_tokens;
  const int room = info.max_seq_len - static_cast<int>(prompt_len);
  if (max_new_tokens > room) {
    log(LogLevel::kWarning, "request '", request.client_id, "': max_new_tokens ", max_new_tokens,
        " shortened to ", room, " (prompt of ", prompt_len, " tokens, max_seq_len ",
        info.max_seq_len, ")");
    max_new_tokens = room;
  }
  const int64_t logits = logits_bytes(request, info, max_new_tokens);
  check(logits <= kMaxLogitsBytes, "the logits asked for, ", logits / bytes_per_row(info),
        " rows of ", info.vocab_size, ", are ", logits, " bytes in one response; at most ",
        kMaxLogitsBytes, " are possible");
  const int32_t num_blocks = manager_blocks(info);
  const std::vector<scheduler::WindowGroupView> windows = window_views(info);
  scheduler::check_can_run(static_cast<int32_t>(prompt_len),
                           static_cast<int32_t>(prompt_len) + max_new_tokens,
                           {.geometry = kv_cache::Geometry(info.tokens_per_block),
                            .num_blocks = num_blocks,
                            .free_blocks = num_blocks,
                            .windows = windows},
                           limits);
  return max_new_tokens;
}

}  // namespace inflight::executor
