#include "backend/triton/model_state.h"

#include <memory>

#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"

namespace inflight::triton {

namespace fs = std::filesystem;

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

  TRITONSERVER_Message* message = nullptr;
  check_triton(TRITONBACKEND_ModelConfig(model, /*config_version=*/1, &message), "ModelConfig");
  const std::unique_ptr<TRITONSERVER_Message, TRITONSERVER_Error* (*)(TRITONSERVER_Message*)> owned(
      message, TRITONSERVER_MessageDelete);
  const char* text = nullptr;
  size_t length = 0;
  check_triton(TRITONSERVER_MessageSerializeToJson(message, &text, &length),
               "MessageSerializeToJson");
  settings_ = parse_model_config(std::string_view(text, length), name, version,
                                 fs::path(location) / std::to_string(version));
  for (const std::string& warning : settings_.warnings)
    log(LogLevel::kWarning, name, ": ", warning);
}

}  // namespace inflight::triton
