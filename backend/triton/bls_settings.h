// The configuration of a model of role "bls": the steps that it walks for each request, by name.
// Knows no server.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace inflight::triton {

/// A tensor of one step: its name in the step's model and among the BLS's.
struct BlsLink {
  std::string model_tensor;
  std::string bls_tensor;
};

struct BlsStep {
  std::string model;
  std::vector<BlsLink> inputs, outputs;
};

struct BlsSettings {
  BlsStep preprocessing, generation, postprocessing;
  bool accumulate_tokens = false;  // every piece of a stream is the whole text so far
  bool decoupled = false;
  std::vector<std::string> warnings, notes;  // for the log
};

/// `config_json` is Triton's model configuration. The parameters <step>_inputs and <step>_outputs
/// hold a step's links, model_tensor=bls_tensor or one name for both, with blanks between. Raises
/// Error naming key and value.
BlsSettings parse_bls_config(std::string_view config_json, const std::string& name);

}  // namespace inflight::triton
