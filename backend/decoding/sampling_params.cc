#include "backend/decoding/sampling_params.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "kernels/core/check.h"

namespace inflight::decoding {
namespace {

constexpr std::string_view kSampling = "Incorrect sampling config: ";

void check_finite(std::string_view field, float value) {
  check(std::isfinite(value), kSampling, field, " is ", value, "; it must be a finite number");
}

void check_id(std::string_view field, int32_t id, int vocab_size) {
  check(id >= 0 && id < vocab_size, field, " holds token id ", id,
        ", which is outside the vocabulary [0, ", vocab_size, ")");
}

/// -infinity is a ban; a sum with the other two would be no number, or the only choice.
void check_bias(std::string_view field, int64_t id, float bias) {
  check(std::isfinite(bias) || bias == -INFINITY, kSampling, field, " of token id ", id, " is ",
        bias, "; it must be a finite number or -infinity");
}

void check_biases(const SamplingParams& params, int vocab_size) {
  const auto& dense = params.embedding_bias;
  // A tokenizer's vocabulary may end before the model's, which is often padded.
  check(dense.size() <= static_cast<size_t>(vocab_size), kSampling, "embedding_bias has ",
        dense.size(), " values; it must have at most ", vocab_size, ", the size of the vocabulary");
  for (size_t id = 0; id < dense.size(); ++id)
    check_bias("embedding_bias", static_cast<int64_t>(id), dense[id]);
  std::vector<int32_t> ids;
  for (const TokenBias& entry : params.logit_bias) {
    check_id("logit_bias", entry.id, vocab_size);
    check_bias("logit_bias", entry.id, entry.bias);
    ids.push_back(entry.id);
  }
  std::ranges::sort(ids);
  const auto twice = std::ranges::adjacent_find(ids);
  check(twice == ids.end(), kSampling, "logit_bias names token id ",
        twice == ids.end() ? 0 : *twice, " twice");
}

void check_words(std::string_view field, const std::vector<std::vector<int32_t>>& words,
                 int vocab_size) {
  for (size_t i = 0; i < words.size(); ++i) {
    check(!words[i].empty(), field, " holds an empty word (number ", i,
          "); a word has at least 1 token id");
    for (int32_t id : words[i]) check_id(field, id, vocab_size);
  }
}

}  // namespace

void validate(const SamplingParams& params, int vocab_size) {
  check_finite("temperature", params.temperature);
  check(params.temperature >= 0.0f, kSampling, "temperature is ", params.temperature,
        "; it must be at least 0");
  check(params.top_k >= 0, kSampling, "top_k is ", params.top_k,
        "; it must be at least 0 (0 = off)");
  check_finite("top_p", params.top_p);
  check(params.top_p > 0.0f && params.top_p <= 1.0f, kSampling, "top_p is ", params.top_p,
        "; it must be greater than 0 and at most 1");
  check_finite("min_p", params.min_p);
  check(params.min_p >= 0.0f && params.min_p <= 1.0f, kSampling, "min_p is ", params.min_p,
        "; it must be at least 0 and at most 1");
  check_finite("top_p_decay", params.top_p_decay);
  check(params.top_p_decay > 0.0f && params.top_p_decay <= 1.0f, kSampling, "top_p_decay is ",
        params.top_p_decay, "; it must be greater than 0 and at most 1");
  check_finite("top_p_min", params.top_p_min);
  check(params.top_p_min >= 0.0f && params.top_p_min <= 1.0f, kSampling, "top_p_min is ",
        params.top_p_min, "; it must be at least 0 and at most 1");
  check(params.top_p_reset_id >= -1 && params.top_p_reset_id < vocab_size, kSampling,
        "top_p_reset_ids is ", params.top_p_reset_id, "; it must be -1 (none) or in [0, ",
        vocab_size, "), the vocabulary");
  check_finite("repetition_penalty", params.repetition_penalty);
  check(params.repetition_penalty > 0.0f, kSampling, "repetition_penalty is ",
        params.repetition_penalty, "; it must be greater than 0");
  check_finite("presence_penalty", params.presence_penalty);
  check_finite("frequency_penalty", params.frequency_penalty);
  check(params.prompt_ignore_length >= 0, kSampling, "prompt_ignore_length is ",
        params.prompt_ignore_length, "; it must be at least 0");
  check(params.no_repeat_ngram_size >= 0, kSampling, "no_repeat_ngram_size is ",
        params.no_repeat_ngram_size, "; it must be at least 0 (0 = off)");
  check_biases(params, vocab_size);
  check(params.num_logprobs >= -1 && params.num_logprobs <= vocab_size, kSampling,
        "num_logprobs is ", params.num_logprobs, "; it must be at least -1 (none) and at most ",
        vocab_size, ", the vocabulary");
}

void validate(const StopParams& params, int vocab_size) {
  check(params.max_new_tokens >= 1, "max_new_tokens is ", params.max_new_tokens,
        "; it must be at least 1");
  check(params.min_new_tokens >= 0, "min_new_tokens is ", params.min_new_tokens,
        "; it must be at least 0");
  for (int32_t id : params.end_ids) check_id("end_ids", id, vocab_size);
  check_words("stop_words", params.stop_words, vocab_size);
  check_words("bad_words", params.bad_words, vocab_size);
}

}  // namespace inflight::decoding
