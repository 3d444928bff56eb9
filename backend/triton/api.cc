// The entry points Triton calls. Each finds its state and calls one method; nothing else happens
// here, and no exception leaves.
#include <memory>

#include "backend/triton/backend_state.h"
#include "backend/triton/instance_state.h"
#include "backend/triton/model_state.h"
#include "backend/triton/triton_c_api.h"
#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"
#include "kernels/core/log.h"

#define INFLIGHT_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using inflight::triton::BackendState;
using inflight::triton::check_triton;
using inflight::triton::guarded;
using inflight::triton::InstanceState;
using inflight::triton::ModelState;

}  // namespace

INFLIGHT_EXPORT TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend* backend) {
  return guarded([&] {
    uint32_t major = 0, minor = 0;
    check_triton(TRITONBACKEND_ApiVersion(&major, &minor), "ApiVersion");
    inflight::check(
        major == TRITONBACKEND_API_VERSION_MAJOR && minor >= TRITONBACKEND_API_VERSION_MINOR,
        "the server's backend interface is version ", major, ".", minor, ", expected ",
        int{TRITONBACKEND_API_VERSION_MAJOR}, ".", int{TRITONBACKEND_API_VERSION_MINOR},
        " or later");
    inflight::set_log_sink(inflight::triton::write_to_server_log);
    auto state = std::make_unique<BackendState>();
    check_triton(TRITONBACKEND_BackendSetState(backend, state.get()), "BackendSetState");
    state.release();
  });
}

INFLIGHT_EXPORT TRITONSERVER_Error* TRITONBACKEND_Finalize(TRITONBACKEND_Backend* backend) {
  return guarded([&] {
    void* state = nullptr;
    check_triton(TRITONBACKEND_BackendState(backend, &state), "BackendState");
    delete static_cast<BackendState*>(state);
    inflight::set_log_sink({});
  });
}

INFLIGHT_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  return guarded([&] {
    auto state = std::make_unique<ModelState>(model);
    check_triton(TRITONBACKEND_ModelSetState(model, state.get()), "ModelSetState");
    state.release();
  });
}

INFLIGHT_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return guarded([&] {
    void* state = nullptr;
    check_triton(TRITONBACKEND_ModelState(model, &state), "ModelState");
    delete static_cast<ModelState*>(state);
  });
}

INFLIGHT_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(
    TRITONBACKEND_ModelInstance* instance) {
  return guarded([&] {
    TRITONBACKEND_Model* model = nullptr;
    TRITONBACKEND_Backend* backend = nullptr;
    TRITONSERVER_Server* server = nullptr;
    void *model_state = nullptr, *backend_state = nullptr;
    check_triton(TRITONBACKEND_ModelInstanceModel(instance, &model), "ModelInstanceModel");
    check_triton(TRITONBACKEND_ModelBackend(model, &backend), "ModelBackend");
    check_triton(TRITONBACKEND_BackendState(backend, &backend_state), "BackendState");
    check_triton(TRITONBACKEND_ModelServer(model, &server), "ModelServer");
    check_triton(TRITONBACKEND_ModelState(model, &model_state), "ModelState");
    auto& of_model = *static_cast<ModelState*>(model_state);
    const auto& settings = of_model.settings();
    auto& shared = *static_cast<BackendState*>(backend_state);
    auto state = std::make_unique<InstanceState>(
        instance, settings, shared.families(),
        std::make_unique<inflight::executor::Engine>(of_model.next_engine()),
        [&shared, server, &settings] { shared.take_out_of_service(server, settings.name); });
    check_triton(TRITONBACKEND_ModelInstanceSetState(instance, state.get()),
                 "ModelInstanceSetState");
    state.release();
  });
}

INFLIGHT_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(
    TRITONBACKEND_ModelInstance* instance) {
  return guarded([&] {
    void* state = nullptr;
    check_triton(TRITONBACKEND_ModelInstanceState(instance, &state), "ModelInstanceState");
    delete static_cast<InstanceState*>(state);
  });
}

INFLIGHT_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, uint32_t count) {
  return guarded([&] {
    void* state = nullptr;
    check_triton(TRITONBACKEND_ModelInstanceState(instance, &state), "ModelInstanceState");
    static_cast<InstanceState*>(state)->execute(requests, count);
  });
}

// Servers from release 26.01 on ask, for the readiness of the model and of the server.
INFLIGHT_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReady(
    TRITONBACKEND_ModelInstance* instance) {
  return guarded([&] {
    void* state = nullptr;
    check_triton(TRITONBACKEND_ModelInstanceState(instance, &state), "ModelInstanceState");
    static_cast<InstanceState*>(state)->check_ready();
  });
}
