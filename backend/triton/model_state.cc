#include "backend/triton/model_state.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/triton/engine_builder.h"
#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"

namespace inflight::triton {

namespace fs = std::filesystem;

namespace {

/// The limits that an engine to be built is asked for.
std::vector<std::string> build_options(const executor::EngineConfig& engine) {
  std::vector<std::string> options = {"--load-format", engine.load_format};
  const auto add = [&](const char* name, const std::optional<int>& limit) {
    if (!limit) return;
    options.push_back(name);
    options.push_back(std::to_string(*limit));
  };
  add("--max-batch-size", engine.max_batch_size);
  add("--max-seq-len", engine.max_seq_len);
  add("--max-num-tokens", engine.max_num_tokens);
  return options;
}

std::string backend_name(TRITONBACKEND_Model* model) {
  TRITONBACKEND_Backend* backend = nullptr;
  const char* name = nullptr;
  check_triton(TRITONBACKEND_ModelBackend(model, &backend), "ModelBackend");
  check_triton(TRITONBACKEND_BackendName(backend, &name), "BackendName");
  return name;
}

std::string config_json(TRITONBACKEND_Model* model) {
  TRITONSERVER_Message* message = nullptr;
  check_triton(TRITONBACKEND_ModelConfig(model, /*config_version=*/1, &message), "ModelConfig");
  const std::unique_ptr<TRITONSERVER_Message, TRITONSERVER_Error* (*)(TRITONSERVER_Message*)> owned(
      message, TRITONSERVER_MessageDelete);
  const char* text = nullptr;
  size_t length = 0;
  check_triton(TRITONSERVER_MessageSerializeToJson(message, &text, &length),
               "MessageSerializeToJson");
  return {text, length};
}

void log_all(const char* model, const std::vector<std::string>& warnings,
             const std::vector<std::string>& notes) {
  for (const std::string& warning : warnings) log(LogLevel::kWarning, model, ": ", warning);
  for (const std::string& note : notes) log(LogLevel::kInfo, model, ": ", note);
}

}  // namespace

ModelRole role_of(TRITONBACKEND_Model* model) { return role_of_config(config_json(model)); }

BlsSettings bls_settings_of(TRITONBACKEND_Model* model) {
  const char* name = nullptr;
  check_triton(TRITONBACKEND_ModelName(model, &name), "ModelName");
  BlsSettings settings = parse_bls_config(config_json(model), name);
  log_all(name, settings.warnings, settings.notes);
  return settings;
}

ModelState::ModelState(TRITONBACKEND_Model* model) {
  const char* name = nullptr;
  const char* location = nullptr;
  uint64_t version = 0;
  TRITONBACKEND_ArtifactType artifact = TRITONBACKEND_ARTIFACT_FILESYSTEM;
  check_triton(TRITONBACKEND_ModelName(model, &name), "ModelName");
  check_triton(TRITONBACKEND_ModelVersion(model, &version), "ModelVersion");
  check_triton(TRITONBACKEND_ModelRepository(model, &artifact, &location), "ModelRepository");
  check(artifact == TRITONBACKEND_ARTIFACT_FILESYSTEM, "model ", name,
        " does not lie in the file system");

  settings_ = parse_model_config(config_json(model), name, version,
                                 fs::path(location) / std::to_string(version), backend_name(model));
  log_all(name, settings_.warnings, settings_.notes);
  if (fs::path& dir = settings_.engine.engine_dir; !fs::exists(dir / "engine.json")) {
    log(LogLevel::kInfo, name, ": ", dir.string(), " is a checkpoint; its engine is looked for");
    dir = build_engine(find_compiler(), dir, build_options(settings_.engine));
  }
}

executor::EngineConfig ModelState::next_engine() {
  executor::EngineConfig engine = settings_.engine;
  engine.device = settings_.devices[num_engines_++ % settings_.devices.size()];
  return engine;
}

}  // namespace inflight::triton
