#include "backend/bindings/bind_submit.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include "kernels/core/check.h"

namespace py = pybind11;

namespace inflight::bindings {
namespace {

using executor::Request;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

/// Python integers have no bounds; ours that are limits or counts do.
int to_int(const char* key, const py::int_& value) {
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
  if (overflow != 0 || number < std::numeric_limits<int>::min() ||
      number > std::numeric_limits<int>::max()) {
    throw Error(ErrorCode::kInvalidArgument,
                concat(key, " is ", py::str(value).cast<std::string>(), ", must fit in 32 bits"));
  }
  return static_cast<int>(number);
}

uint64_t to_seed(const py::int_& value) {
  const uint64_t seed = PyLong_AsUnsignedLongLong(value.ptr());
  if (PyErr_Occurred()) {
    PyErr_Clear();
    throw Error(ErrorCode::kInvalidArgument,
                concat("seed is ", py::str(value).cast<std::string>(), ", must be in [0, 2^64)"));
  }
  return seed;
}

int32_t to_id(const char* key, size_t index, long long id) {
  if (id < std::numeric_limits<int32_t>::min() || id > std::numeric_limits<int32_t>::max()) {
    throw Error(ErrorCode::kInvalidArgument,
                concat(key, "[", index, "] is ", id, ", must fit in 32 bits"));
  }
  return static_cast<int32_t>(id);
}

/// Ids of any integer array or sequence.
std::vector<int32_t> to_ids(const char* key, const py::object& ids) {
  std::vector<int32_t> result;
  if (py::isinstance<py::array>(ids)) {
    const auto array = py::reinterpret_borrow<py::array>(ids);
    const char kind = array.dtype().kind();
    if (array.ndim() != 1 || (kind != 'i' && kind != 'u')) {
      throw Error(ErrorCode::kInvalidArgument,
                  concat(key, " must be a 1-D array of integers, it has ", array.ndim(),
                         " dimensions of dtype ", py::str(array.dtype()).cast<std::string>()));
    }
    const auto wide = py::array_t<int64_t, py::array::c_style | py::array::forcecast>(array);
    result.reserve(wide.size());
    for (py::ssize_t i = 0; i < wide.size(); ++i) result.push_back(to_id(key, i, wide.data()[i]));
    return result;
  }
  const auto fast = py::reinterpret_steal<py::object>(
      PySequence_Fast(ids.ptr(), concat(key, " must be a sequence of integers").c_str()));
  if (!fast) throw py::error_already_set();
  const Py_ssize_t length = PySequence_Fast_GET_SIZE(fast.ptr());
  result.reserve(length);
  for (Py_ssize_t i = 0; i < length; ++i) {
    int overflow = 0;
    const long long id =
        PyLong_AsLongLongAndOverflow(PySequence_Fast_GET_ITEM(fast.ptr(), i), &overflow);
    if (id == -1 && PyErr_Occurred()) throw py::error_already_set();
    const long long bound = overflow < 0 ? std::numeric_limits<long long>::min()
                                         : std::numeric_limits<long long>::max();
    result.push_back(to_id(key, i, overflow != 0 ? bound : id));
  }
  return result;
}

std::vector<std::vector<int32_t>> to_words(const char* key, const py::sequence& words) {
  std::vector<std::vector<int32_t>> result;
  for (const py::handle word : words) {
    result.push_back(to_ids(key, py::reinterpret_borrow<py::object>(word)));
  }
  return result;
}

std::vector<float> to_floats(const char* key, const std::optional<Floats>& given) {
  if (!given) return {};
  const Floats& values = *given;
  if (values.ndim() != 1) {
    throw Error(ErrorCode::kInvalidArgument, concat(key, " must be a 1-D array of numbers, it has ",
                                                    values.ndim(), " dimensions"));
  }
  return {values.data(), values.data() + values.size()};
}

std::vector<decoding::TokenBias> to_biases(const py::dict& biases) {
  std::vector<decoding::TokenBias> result;
  for (const auto& [id, bias] : biases) {
    if (!py::isinstance<py::int_>(id) || !PyNumber_Check(bias.ptr())) {
      throw Error(ErrorCode::kInvalidArgument,
                  concat("logit_bias must map token ids to numbers, it holds ",
                         py::str(py::make_tuple(id, bias)).cast<std::string>()));
    }
    result.push_back({to_int("a token id of logit_bias", py::reinterpret_borrow<py::int_>(id)),
                      bias.cast<float>()});
  }
  return result;
}

std::optional<std::chrono::milliseconds> to_duration(const py::object& milliseconds) {
  if (milliseconds.is_none()) return std::nullopt;
  return std::chrono::milliseconds(to_int("a duration of kv_retention", milliseconds));
}

/// {"ranges": [(begin, end | None, priority, duration_ms | None)], "decode_priority",
/// "decode_duration_ms" | None}.
std::optional<kv_cache::Retention> to_retention(const std::optional<py::dict>& given) {
  if (!given) return std::nullopt;
  kv_cache::Retention retention;
  for (const py::handle each : py::list((*given)["ranges"])) {
    const auto [begin, end, priority, duration] =
        each.cast<std::tuple<py::int_, py::object, py::int_, py::object>>();
    kv_cache::RetentionRange& range = retention.ranges.emplace_back();
    range.begin = to_int("the begin of a range of kv_retention", begin);
    if (!end.is_none()) range.end = to_int("the end of a range of kv_retention", end);
    range.priority = to_int("a priority of kv_retention", priority);
    range.duration = to_duration(duration);
  }
  retention.decode_priority = to_int("decode_priority", (*given)["decode_priority"]);
  retention.decode_duration = to_duration((*given)["decode_duration_ms"]);
  return retention;
}

}  // namespace

void bind_submit(py::class_<PyEngine, std::shared_ptr<PyEngine>>& engine) {
  engine.def(
      "submit",
      [](PyEngine& self, const py::object& input_ids, int64_t tag, bool streaming,
         const py::int_& priority, std::string client_id, const py::int_& max_new_tokens,
         const py::int_& min_new_tokens, const py::object& end_ids, const py::sequence& stop_words,
         const py::sequence& bad_words, bool greedy, float temperature, const py::int_& top_k,
         float top_p, float min_p, float repetition_penalty, float presence_penalty,
         float frequency_penalty, const py::int_& seed, const py::int_& num_logprobs,
         float top_p_decay, float top_p_min, const py::int_& top_p_reset_ids,
         const py::int_& prompt_ignore_length, const py::int_& no_repeat_ngram_size,
         const std::optional<Floats>& embedding_bias, const py::dict& logit_bias,
         bool normalize_log_probs, bool return_context_logits, bool return_generation_logits,
         const py::int_& timeout_ms, std::string tenant, std::string cache_salt,
         const std::optional<py::dict>& kv_retention) {
        auto request = std::make_shared<Request>();
        request->client_id = std::move(client_id);
        request->cache_scope.cache_salt = std::move(cache_salt);
        request->kv_retention = to_retention(kv_retention);
        request->input_ids = to_ids("input_ids", input_ids);
        request->streaming = streaming;
        request->tenant = std::move(tenant);
        request->return_context_logits = return_context_logits;
        request->return_generation_logits = return_generation_logits;
        request->priority = to_int("priority", priority);
        if (const int timeout = to_int("timeout_ms", timeout_ms); timeout != 0) {
          check(timeout > 0, "timeout_ms is ", timeout, ", expected at least 0");
          request->deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout);
        }
        request->stop = {.max_new_tokens = to_int("max_new_tokens", max_new_tokens),
                         .min_new_tokens = to_int("min_new_tokens", min_new_tokens),
                         .end_ids = to_ids("end_ids", end_ids),
                         .stop_words = to_words("stop_words", stop_words),
                         .bad_words = to_words("bad_words", bad_words)};
        request->sampling = {
            .temperature = temperature,
            .top_k = to_int("top_k", top_k),
            .top_p = top_p,
            .min_p = min_p,
            .greedy = greedy,
            .top_p_decay = top_p_decay,
            .top_p_min = top_p_min,
            .top_p_reset_id = to_int("top_p_reset_ids", top_p_reset_ids),
            .repetition_penalty = repetition_penalty,
            .presence_penalty = presence_penalty,
            .frequency_penalty = frequency_penalty,
            .prompt_ignore_length = to_int("prompt_ignore_length", prompt_ignore_length),
            .no_repeat_ngram_size = to_int("no_repeat_ngram_size", no_repeat_ngram_size),
            .seed = to_seed(seed),
            .num_logprobs = to_int("num_logprobs", num_logprobs),
            .normalize_log_probs = normalize_log_probs,
            .embedding_bias = to_floats("embedding_bias", embedding_bias),
            .logit_bias = to_biases(logit_bias)};
        const py::gil_scoped_release release;
        return self.submit(std::move(request), tag);
      },
      py::arg("input_ids"), py::kw_only(), py::arg("tag") = 0, py::arg("streaming") = false,
      py::arg("priority") = 0, py::arg("client_id") = "", py::arg("max_new_tokens") = 16,
      py::arg("min_new_tokens") = 0, py::arg("end_ids") = py::tuple(),
      py::arg("stop_words") = py::tuple(), py::arg("bad_words") = py::tuple(),
      py::arg("greedy") = false, py::arg("temperature") = 1.0f, py::arg("top_k") = 0,
      py::arg("top_p") = 1.0f, py::arg("min_p") = 0.0f, py::arg("repetition_penalty") = 1.0f,
      py::arg("presence_penalty") = 0.0f, py::arg("frequency_penalty") = 0.0f, py::arg("seed") = 0,
      py::arg("num_logprobs") = -1, py::arg("top_p_decay") = 1.0f, py::arg("top_p_min") = 0.0f,
      py::arg("top_p_reset_ids") = -1, py::arg("prompt_ignore_length") = 0,
      py::arg("no_repeat_ngram_size") = 0, py::arg("embedding_bias") = py::none(),
      py::arg("logit_bias") = py::dict(), py::arg("normalize_log_probs") = true,
      py::arg("return_context_logits") = false, py::arg("return_generation_logits") = false,
      py::arg("timeout_ms") = 0, py::arg("tenant") = "", py::arg("cache_salt") = "",
      py::arg("kv_retention") = py::none());
}

}  // namespace inflight::bindings
