// inflight._core.decoding: the sampler on numpy logits and the stop rules, for tests and figures.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "backend/bindings/device_arrays.h"
#include "backend/decoding/biases.h"
#include "backend/decoding/sampler.h"
#include "backend/decoding/stop.h"
#include "backend/decoding/top_p_decay.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/core/device.h"
#include "kernels/core/philox.h"
#include "kernels/core/staging.h"

namespace inflight::bindings {
namespace py = pybind11;
namespace {

using namespace decoding;
using Ids = std::vector<int32_t>;
using Biases = std::vector<std::pair<int32_t, float>>;
using Logits = py::array_t<float, py::array::c_style>;

/// A sampler with the device and the threads it runs on. Steps alternate between two slots, so that
/// a row may point at a token of the step before.
class OwnedSampler {
 public:
  OwnedSampler(int vocab_size, int max_batch_size, int num_threads, const std::string& device)
      : pool_(num_threads),
        context_(device_of(device), &pool_),
        sampler_(context_, vocab_size, max_batch_size, 2),
        staging_(context_.device(), 4096) {}

  /// One (id, status, log_prob, [(id, log_prob), ...]) a row. `logits` may be changed.
  py::list sample(Logits& logits, const std::vector<SampleRow>& rows) {
    check(logits.ndim() == 2, "logits must have rank 2, not ", logits.ndim());
    TensorView view = TensorView::dense(logits.mutable_data(), DType::kFloat32,
                                        {logits.shape(0), logits.shape(1)});
    std::span<const SampledToken> tokens;
    {
      py::gil_scoped_release release;
      DeviceArrays arrays;
      if (context_.is_cuda()) {
        arrays.add(view, true);
        arrays.place(context_.stream());
      }
      start(rows, view);
      tokens = sampler_.results(slot_);
      if (context_.is_cuda()) {
        arrays.copy_out(context_.stream());
        context_.stream().synchronize();
      }
    }
    py::list answers;
    for (const SampledToken& token : tokens) {
      py::list top;
      for (size_t i = 0; i < token.top_ids.size(); ++i)
        top.append(py::make_tuple(token.top_ids[i], token.top_log_probs[i]));
      answers.append(py::make_tuple(token.id, token.status, token.log_prob, top));
    }
    return answers;
  }

  /// Seconds that the kernels of a step took in each of `rounds` rounds, by replay of a graph of
  /// steps on `copies` copies of the logits in turn, so that caches do not hold them.
  std::vector<double> time(Logits& logits, const std::vector<SampleRow>& rows, int copies,
                           int rounds) {
    check(context_.is_cuda() && logits.ndim() == 2, "time needs a GPU and logits of rank 2");
    const auto bytes = static_cast<size_t>(logits.nbytes());
    py::gil_scoped_release release;
    const Stream& stream = context_.stream();
    Buffer memory(bytes * copies, context_.device());
    std::vector<TensorView> views;
    for (int i = 0; i < copies; ++i) {
      void* copy = static_cast<std::byte*>(memory.data()) + i * bytes;
      copy_async(copy, logits.data(), bytes, stream);
      views.push_back(TensorView::dense(copy, DType::kFloat32, {logits.shape(0), logits.shape(1)},
                                        context_.device()));
    }
    start(rows, views[0]);
    sampler_.results(slot_);
    const int steps = std::max(copies, 20);
    const Graph graph = Graph::record(stream, [&] {
      for (int i = 0; i < steps; ++i) sampler_.enqueue(views[i % copies], {}, slot_);
    });
    Event begin(stream.device(), true), end(stream.device(), true);
    std::vector<double> seconds;
    for (int round = 0; round < rounds; ++round) {
      begin.record(stream);
      graph.launch(stream);
      end.record(stream);
      end.wait();
      seconds.push_back(end.seconds_since(begin) / steps);
    }
    return seconds;
  }

 private:
  static Device device_of(const std::string& name) {
    check(name == "cpu" || name == "cuda", "device is '", name, "'; it must be 'cpu' or 'cuda'");
    return {name == "cuda" ? DeviceType::kCuda : DeviceType::kCpu, 0};
  }

  void start(const std::vector<SampleRow>& rows, const TensorView& logits) {
    const bool any_in_flight =
        std::ranges::any_of(rows, [](const SampleRow& row) { return row.in_flight_token >= 0; });
    const TensorView previous_tokens = any_in_flight ? sampler_.tokens(slot_) : TensorView{};
    slot_ = 1 - slot_;
    staging_.reset();
    sampler_.prepare(rows, staging_, slot_);
    if (context_.is_cuda()) staging_.upload(context_.stream());
    sampler_.enqueue(logits, previous_tokens, slot_);
    sampler_.fetch(slot_);
  }

  cpu::ThreadPool pool_;
  DeviceContext context_;
  Sampler sampler_;
  Staging staging_;
  int slot_ = 0;
};

std::vector<TokenBias> biases_from(const Biases& pairs) {
  std::vector<TokenBias> biases;
  for (const auto& [id, bias] : pairs) biases.push_back({id, bias});
  return biases;
}

/// A SampleRow with what it points to.
struct OwnedRow {
  int row;
  SamplingParams sampling;
  StopParams stop;
  std::vector<TokenBias> biases;
  Ids prompt_ids;
  Ids generated_ids;
  int in_flight_token;
};

std::vector<SampleRow> views_of(const py::list& rows) {
  std::vector<SampleRow> views;
  for (const py::handle item : rows) {
    const OwnedRow& row = item.cast<const OwnedRow&>();
    views.push_back({row.row, &row.sampling, &row.stop, row.biases, row.prompt_ids,
                     row.generated_ids, row.in_flight_token});
  }
  return views;
}

void bind_params(py::module_& module) {
  py::class_<SamplingParams>(module, "SamplingParams")
      .def(py::init([](float temperature, int top_k, float top_p, float min_p, bool greedy,
                       float repetition_penalty, float presence_penalty, float frequency_penalty,
                       uint64_t seed, int num_logprobs, float top_p_decay, float top_p_min,
                       int top_p_reset_id, int prompt_ignore_length, int no_repeat_ngram_size,
                       bool normalize_log_probs, std::vector<float> embedding_bias,
                       const Biases& logit_bias) {
             return SamplingParams{.temperature = temperature,
                                   .top_k = top_k,
                                   .top_p = top_p,
                                   .min_p = min_p,
                                   .greedy = greedy,
                                   .top_p_decay = top_p_decay,
                                   .top_p_min = top_p_min,
                                   .top_p_reset_id = top_p_reset_id,
                                   .repetition_penalty = repetition_penalty,
                                   .presence_penalty = presence_penalty,
                                   .frequency_penalty = frequency_penalty,
                                   .prompt_ignore_length = prompt_ignore_length,
                                   .no_repeat_ngram_size = no_repeat_ngram_size,
                                   .seed = seed,
                                   .num_logprobs = num_logprobs,
                                   .normalize_log_probs = normalize_log_probs,
                                   .embedding_bias = std::move(embedding_bias),
                                   .logit_bias = biases_from(logit_bias)};
           }),
           py::kw_only(), py::arg("temperature") = 1.0f, py::arg("top_k") = 0,
           py::arg("top_p") = 1.0f, py::arg("min_p") = 0.0f, py::arg("greedy") = false,
           py::arg("repetition_penalty") = 1.0f, py::arg("presence_penalty") = 0.0f,
           py::arg("frequency_penalty") = 0.0f, py::arg("seed") = 0, py::arg("num_logprobs") = -1,
           py::arg("top_p_decay") = 1.0f, py::arg("top_p_min") = 0.0f,
           py::arg("top_p_reset_id") = -1, py::arg("prompt_ignore_length") = 0,
           py::arg("no_repeat_ngram_size") = 0, py::arg("normalize_log_probs") = true,
           py::arg("embedding_bias") = std::vector<float>{}, py::arg("logit_bias") = Biases{})
      .def(
          "validate",
          [](const SamplingParams& params, int vocab_size) { validate(params, vocab_size); },
          py::arg("vocab_size"));
  py::class_<StopParams>(module, "StopParams")
      .def(py::init([](int max_new_tokens, int min_new_tokens, Ids end_ids,
                       std::vector<Ids> stop_words, std::vector<Ids> bad_words) {
             return StopParams{max_new_tokens, min_new_tokens, std::move(end_ids),
                               std::move(stop_words), std::move(bad_words)};
           }),
           py::kw_only(), py::arg("max_new_tokens") = 16, py::arg("min_new_tokens") = 0,
           py::arg("end_ids") = Ids{}, py::arg("stop_words") = std::vector<Ids>{},
           py::arg("bad_words") = std::vector<Ids>{})
      .def(
          "validate",
          [](const StopParams& params, int vocab_size) { validate(params, vocab_size); },
          py::arg("vocab_size"));
}

void bind_sampler(py::module_& module) {
  py::enum_<SampleStatus>(module, "SampleStatus")
      .value("ok", SampleStatus::kOk)
      .value("nan_logits", SampleStatus::kNanLogits)
      .value("no_token", SampleStatus::kNoToken);
  module.def("message_of", &message_of, py::arg("status"));
  py::class_<OwnedRow>(module, "SampleRow")
      .def(py::init([](int row, const SamplingParams& sampling, const StopParams& stop,
                       Ids prompt_ids, Ids generated_ids, int in_flight_token) {
             return OwnedRow{row,
                             sampling,
                             stop,
                             biases_of(sampling),
                             std::move(prompt_ids),
                             std::move(generated_ids),
                             in_flight_token};
           }),
           py::arg("row"), py::arg("sampling"), py::arg("stop") = StopParams{},
           py::arg("prompt_ids") = Ids{}, py::arg("generated_ids") = Ids{},
           py::arg("in_flight_token") = -1);
  py::class_<OwnedSampler>(module, "Sampler")
      .def(py::init<int, int, int, const std::string&>(), py::arg("vocab_size"),
           py::arg("max_batch_size"), py::arg("num_threads") = 1, py::arg("device") = "cpu")
      .def(
          "sample",
          [](OwnedSampler& sampler, Logits logits, const py::list& rows) {
            return sampler.sample(logits, views_of(rows));
          },
          py::arg("logits").noconvert(), py::arg("rows"))
      .def(
          "time",
          [](OwnedSampler& sampler, Logits logits, const py::list& rows, int copies, int rounds) {
            return sampler.time(logits, views_of(rows), copies, rounds);
          },
          py::arg("logits").noconvert(), py::arg("rows"), py::arg("copies"), py::arg("rounds"));
  module.def(
      "philox4x32_10",
      [](PhiloxCounter counter, PhiloxKey key) { return philox4x32_10(counter, key); },
      py::arg("counter"), py::arg("key"));
  module.def("philox_uniform", &philox_uniform, py::arg("seed"), py::arg("position"));
}

}  // namespace

void register_decoding(py::module_& module) {
  py::module_ decoding = module.def_submodule("decoding");
  bind_params(decoding);
  bind_sampler(decoding);
  py::enum_<StopReason>(decoding, "StopReason")
      .value("none", StopReason::kNone)
      .value("end_id", StopReason::kEndId)
      .value("stop_word", StopReason::kStopWord)
      .value("length", StopReason::kLength);
  decoding.def(
      "stop_after",
      [](const StopParams& params, const Ids& generated_ids, int max_new_tokens) {
        return stop_after(params, generated_ids, max_new_tokens).reason;
      },
      py::arg("params"), py::arg("generated_ids"), py::arg("max_new_tokens"));
  decoding.def(
      "top_p_after",
      [](const SamplingParams& params, const Ids& generated_ids, int num_unknown) {
        return top_p_after(params, generated_ids, num_unknown);
      },
      py::arg("params"), py::arg("generated_ids"), py::arg("num_unknown") = 0);
  decoding.def(
      "banned_ids",
      [](const StopParams& params, const Ids& generated_ids) {
        Ids banned;
        append_banned_ids(params, generated_ids, banned);
        return banned;
      },
      py::arg("params"), py::arg("generated_ids"));
}

}  // namespace inflight::bindings
