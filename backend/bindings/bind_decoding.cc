// inflight._core.decoding: the sampler on numpy logits and the stop rules, for tests and figures.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "backend/decoding/sampler.h"
#include "backend/decoding/stop.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/sampling/philox.h"

namespace inflight::bindings {
namespace py = pybind11;
namespace {

using namespace decoding;
using Ids = std::vector<int32_t>;
using Logits = py::array_t<float, py::array::c_style>;

/// A sampler with the threads it runs on.
class SamplerOnCpu {
 public:
  SamplerOnCpu(int vocab_size, int max_batch_size, int num_threads)
      : pool_(num_threads), sampler_({}, &pool_, vocab_size, max_batch_size) {}

  /// One (id, status, log_prob, [(id, log_prob), ...]) a row. `logits` may be changed.
  py::list sample(Logits& logits, const std::vector<SampleRow>& rows) {
    check(logits.ndim() == 2, "logits must have rank 2, not ", logits.ndim());
    const TensorView view = TensorView::dense(logits.mutable_data(), DType::kFloat32,
                                              {logits.shape(0), logits.shape(1)});
    std::span<const SampledToken> tokens;
    {
      py::gil_scoped_release release;
      tokens = sampler_.sample(view, rows);
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

 private:
  cpu::ThreadPool pool_;
  Sampler sampler_;
};

/// A SampleRow with what it points to.
struct OwnedRow {
  int row;
  SamplingParams sampling;
  StopParams stop;
  Ids prompt_ids;
  Ids generated_ids;
};

void bind_params(py::module_& module) {
  py::class_<SamplingParams>(module, "SamplingParams")
      .def(py::init([](float temperature, int top_k, float top_p, float min_p, bool greedy,
                       float repetition_penalty, float presence_penalty, float frequency_penalty,
                       uint64_t seed, int num_logprobs) {
             return SamplingParams{.temperature = temperature,
                                   .top_k = top_k,
                                   .top_p = top_p,
                                   .min_p = min_p,
                                   .greedy = greedy,
                                   .repetition_penalty = repetition_penalty,
                                   .presence_penalty = presence_penalty,
                                   .frequency_penalty = frequency_penalty,
                                   .seed = seed,
                                   .num_logprobs = num_logprobs};
           }),
           py::kw_only(), py::arg("temperature") = 1.0f, py::arg("top_k") = 0,
           py::arg("top_p") = 1.0f, py::arg("min_p") = 0.0f, py::arg("greedy") = false,
           py::arg("repetition_penalty") = 1.0f, py::arg("presence_penalty") = 0.0f,
           py::arg("frequency_penalty") = 0.0f, py::arg("seed") = 0, py::arg("num_logprobs") = -1)
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
                       Ids prompt_ids, Ids generated_ids) {
             return OwnedRow{row, sampling, stop, std::move(prompt_ids), std::move(generated_ids)};
           }),
           py::arg("row"), py::arg("sampling"), py::arg("stop") = StopParams{},
           py::arg("prompt_ids") = Ids{}, py::arg("generated_ids") = Ids{});
  py::class_<SamplerOnCpu>(module, "Sampler")
      .def(py::init<int, int, int>(), py::arg("vocab_size"), py::arg("max_batch_size"),
           py::arg("num_threads") = 1)
      .def(
          "sample",
          [](SamplerOnCpu& sampler, Logits logits, const py::list& rows) {
            std::vector<SampleRow> views;
            for (const py::handle item : rows) {
              const OwnedRow& row = item.cast<const OwnedRow&>();
              views.push_back(
                  {row.row, &row.sampling, &row.stop, row.prompt_ids, row.generated_ids});
            }
            return sampler.sample(logits, views);
          },
          py::arg("logits").noconvert(), py::arg("rows"));
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
        return stop_after(params, generated_ids, max_new_tokens);
      },
      py::arg("params"), py::arg("generated_ids"), py::arg("max_new_tokens"));
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
