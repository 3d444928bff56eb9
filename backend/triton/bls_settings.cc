#include "backend/triton/bls_settings.h"

#include <nlohmann/json.hpp>
#include <sstream>

#include "backend/triton/config_parameters.h"
#include "backend/triton/parameters.h"
#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

using Json = nlohmann::json;

std::vector<BlsLink> read_links(Parameters& parameters, const std::string& key) {
  std::vector<BlsLink> links;
  std::istringstream words(parameters.text(key, "none").value_or(""));
  for (std::string word; words >> word;) {
    const size_t middle = word.find('=');
    if (middle == std::string::npos) {
      links.push_back({word, word});
      continue;
    }
    links.push_back({word.substr(0, middle), word.substr(middle + 1)});
    check(!links.back().model_tensor.empty() && !links.back().bls_tensor.empty(), "parameter ", key,
          ": \"", word, "\" lacks a name, expected model_tensor=bls_tensor");
  }
  check(!links.empty(), "parameter ", key, " names no tensor, expected model_tensor=bls_tensor or ",
        "names, with blanks between");
  return links;
}

BlsStep read_step(Parameters& parameters, const std::string& step) {
  return {.model = parameters.text(step + "_model_name", step).value_or(step),
          .inputs = read_links(parameters, step + "_inputs"),
          .outputs = read_links(parameters, step + "_outputs")};
}

}  // namespace

BlsSettings parse_bls_config(std::string_view config_json, const std::string& name) {
  const Json config = Json::parse(config_json, nullptr, /*allow_exceptions=*/false);
  check(config.is_object(), "the configuration of model ", name, " is not a JSON object");
  BlsSettings settings;
  Parameters parameters(given_parameters(config), settings.warnings);
  parameters.text("role", "");
  for (const char* key : {"tensorrt_llm_draft_model_name", "multimodal_encoders_name"}) {
    const std::optional<std::string> other = parameters.text(key, "none");
    if (other)
      throw Error(ErrorCode::kUnsupported,
                  concat("parameter ", key, " = \"", *other,
                         "\": draft models and encoders are not supported yet"));
  }
  settings.preprocessing = read_step(parameters, "preprocessing");
  settings.generation = read_step(parameters, "tensorrt_llm");
  settings.postprocessing = read_step(parameters, "postprocessing");
  settings.accumulate_tokens = parameters.flag("accumulate_tokens", false);
  const auto policy = config.value("model_transaction_policy", Json::object());
  settings.decoupled = policy.value("decoupled", false);
  parameters.judge_the_rest(settings.notes);
  return settings;
}

}  // namespace inflight::triton
