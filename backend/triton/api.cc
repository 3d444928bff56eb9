// The entry points Triton calls. Each finds its state and calls one method; nothing else happens
// here, and no exception leaves.
#include <malloc.h>

#include <memory>

#include "backend/triton/backend_state.h"
#include "backend/triton/bls_instance.h"
#include "backend/triton/departures.h"
#include "backend/triton/instance_state.h"
#include "backend/triton/model_instance.h"
#include "backend/triton/model_state.h"
#include "backend/triton/relay_instance.h"
#include "backend/triton/triton_c_api.h"
#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"
#include "kernels/core/log.h"

#define INFLIGHT_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using inflight::triton::BackendState;
using inflight::triton::bls_settings_of;
using inflight::triton::BlsInstance;
using inflight::triton::check_triton;
using inflight::triton::Departures;
using inflight::triton::guarded;
using inflight::triton::InstanceState;
using inflight::triton::ModelInstance;
using inflight::triton::ModelRole;
using inflight::triton::ModelState;
using inflight::triton::RelayInstance;
using inflight::triton::role_of;

/// An engine's instance, which hears of clients that have left.
class ListeningInstance : public InstanceState {
 public:
  ListeningInstance(TRITONBACKEND_ModelInstance* instance, ModelState& model, BackendState& backend,
                    TRITONSERVER_Server* server)
      : InstanceState(instance, model.settings(), backend.families(),
                      std::make_unique<inflight::executor::Engine>(model.next_engine()),
                      [&backend, server, &model] {
                        backend.take_out_of_service(server, model.settings().name);
                      }),
        departures_(backend.departures()) {
    departures_.listen(id_base(), [this](uint64_t public_id) { client_left(public_id); });
  }
  ~ListeningInstance() override { departures_.forget(id_base()); }

 private:
  Departures& departures_;
};

BackendState& backend_state_of(TRITONBACKEND_Model* model) {
  TRITONBACKEND_Backend* backend = nullptr;
  void* state = nullptr;
  check_triton(TRITONBACKEND_ModelBackend(model, &backend), "ModelBackend");
  check_triton(TRITONBACKEND_BackendState(backend, &state), "BackendState");
  return *static_cast<BackendState*>(state);
}

TRITONBACKEND_Model* model_of(TRITONBACKEND_ModelInstance* instance) {
  TRITONBACKEND_Model* model = nullptr;
  check_triton(TRITONBACKEND_ModelInstanceModel(instance, &model), "ModelInstanceModel");
  return model;
}

void* state_of(TRITONBACKEND_ModelInstance* instance) {
  void* state = nullptr;
  check_triton(TRITONBACKEND_ModelInstanceState(instance, &state), "ModelInstanceState");
  return state;
}

void wait_for_turn(TRITONBACKEND_Model* model) {
  const char* name = nullptr;
  uint64_t version = 0;
  check_triton(TRITONBACKEND_ModelName(model, &name), "ModelName");
  check_triton(TRITONBACKEND_ModelVersion(model, &version), "ModelVersion");
  backend_state_of(model).load_turns().model_begun(model, name, version);
}

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
    if (role_of(model) == ModelRole::kEngine) {  // the others have nothing to load
      auto state = std::make_unique<ModelState>(model);
      check_triton(TRITONBACKEND_ModelSetState(model, state.get()), "ModelSetState");
      state.release();
    }
    wait_for_turn(model);
  });
}

INFLIGHT_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return guarded([&] {
    backend_state_of(model).load_turns().model_ends(model);
    void* state = nullptr;
    check_triton(TRITONBACKEND_ModelState(model, &state), "ModelState");
    delete static_cast<ModelState*>(state);
    // What loads took is freed, but stays in malloc's arenas, and each load may meet another one.
    malloc_trim(0);
  });
}

INFLIGHT_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(
    TRITONBACKEND_ModelInstance* instance) {
  return guarded([&] {
    TRITONBACKEND_Model* model = model_of(instance);
    BackendState& shared = backend_state_of(model);
    shared.load_turns().instance_begins(model);
    TRITONSERVER_Server* server = nullptr;
    void* model_state = nullptr;
    check_triton(TRITONBACKEND_ModelServer(model, &server), "ModelServer");
    check_triton(TRITONBACKEND_ModelState(model, &model_state), "ModelState");
    std::unique_ptr<ModelInstance> state;
    switch (role_of(model)) {
      case ModelRole::kEngine:
        state = std::make_unique<ListeningInstance>(
            instance, *static_cast<ModelState*>(model_state), shared, server);
        break;
      case ModelRole::kRelay:
        state = std::make_unique<RelayInstance>(instance, shared.departures());
        break;
      case ModelRole::kBls:
        state = std::make_unique<BlsInstance>(instance, server, bls_settings_of(model));
        break;
    }
    check_triton(TRITONBACKEND_ModelInstanceSetState(instance, state.get()),
                 "ModelInstanceSetState");
    state.release();
  });
}

INFLIGHT_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(
    TRITONBACKEND_ModelInstance* instance) {
  return guarded([&] {
    delete static_cast<ModelInstance*>(state_of(instance));
    TRITONBACKEND_Model* model = model_of(instance);
    backend_state_of(model).load_turns().instance_ended(model);
  });
}

INFLIGHT_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, uint32_t count) {
  return guarded(
      [&] { static_cast<ModelInstance*>(state_of(instance))->execute(requests, count); });
}

// Servers from release 26.01 on ask, for the readiness of the model and of the server.
INFLIGHT_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReady(
    TRITONBACKEND_ModelInstance* instance) {
  return guarded([&] { static_cast<ModelInstance*>(state_of(instance))->check_ready(); });
}
