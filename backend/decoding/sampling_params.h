// How one request wants its tokens chosen. Pure values; validated once when a request is submitted.
#pragma once

#include <cstdint>
#include <vector>

namespace inflight::decoding {

/// What is added to the logit of one id.
struct TokenBias {
  int32_t id = 0;
  float bias = 0.0f;  // -infinity bans the id
};

struct SamplingParams {
  float temperature = 1.0f;  // 0 = greedy
  int top_k = 0;             // 0 = off; 1 = greedy
  float top_p = 1.0f;        // (0, 1]; 1 = off
  float min_p = 0.0f;        // [0, 1]; 0 = off: drops tokens below min_p times the likeliest
  bool greedy = false;       // true when the request asked for no sampling at all
  // Factual nucleus sampling: top_p_decay.h.
  float top_p_decay = 1.0f;         // (0, 1]; 1 = off: top_p shrinks by it with each token
  float top_p_min = 0.0f;           // [0, 1]: but not below this
  int32_t top_p_reset_id = -1;      // after this id top_p is the first one again; -1 = none
  float repetition_penalty = 1.0f;  // > 0; over prompt and generated tokens
  float presence_penalty = 0.0f;    // over generated tokens
  float frequency_penalty = 0.0f;   // over generated tokens
  int prompt_ignore_length = 0;     // so many first tokens of the prompt count for no penalty
  int no_repeat_ngram_size = 0;     // 0 = off: no n-gram of prompt and output comes twice
  uint64_t seed = 0;                // of the counter-based generator; same seed, same tokens
  int num_logprobs = -1;  // -1 = none; 0 = the chosen token's; n > 0 = and the n likeliest
  bool normalize_log_probs = true;    // of the distribution drawn from; false: before the filters
  std::vector<float> embedding_bias;  // at most [V]: added to the logits of every step
  std::vector<TokenBias> logit_bias;  // the same for some ids, each at most once

  bool is_greedy() const { return greedy || temperature == 0.0f || top_k == 1; }
};

/// When a sequence ends and what it may not say. Token ids only: text-level stop strings are
/// Python's.
struct StopParams {
  int max_new_tokens = 16;                       // >= 1
  int min_new_tokens = 0;                        // end ids and stop words are held back until then
  std::vector<int32_t> end_ids;                  // not part of the output
  std::vector<std::vector<int32_t>> stop_words;  // part of the output
  std::vector<std::vector<int32_t>> bad_words;   // the last id is banned once the others match
};

/// Raise invalid_argument naming the field, its value and its limit. Non-finite values are errors.
void validate(const SamplingParams& params, int vocab_size);
void validate(const StopParams& params, int vocab_size);

}  // namespace inflight::decoding
