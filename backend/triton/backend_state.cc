#include "backend/triton/backend_state.h"

#include "backend/triton/triton_error.h"

namespace inflight::triton {

namespace {

void unload(TRITONSERVER_Server* server, const std::string& model) {
  TRITONSERVER_Error* error = TRITONSERVER_ServerUnloadModel(server, model.c_str());
  if (error == nullptr) {
    log(LogLevel::kWarning, model,
        " was unloaded since its engine has died; load it again to serve");
    return;
  }
  log(LogLevel::kError, model, " could not be unloaded (", TRITONSERVER_ErrorMessage(error),
      "): its requests are answered with UNAVAILABLE until the server is started again");
  TRITONSERVER_ErrorDelete(error);
}

}  // namespace

void BackendState::take_out_of_service(TRITONSERVER_Server* server, const std::string& model) {
  unloads_.add([server, model] { unload(server, model); });
}

}  // namespace inflight::triton
