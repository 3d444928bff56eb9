#include "tests/cpp/triton/fake_triton.h"

#include <algorithm>
#include <cstdlib>

#include "backend/triton/request_schema.h"

using inflight::testing::fake_counts;
using inflight::testing::FakeAnswer;
using inflight::testing::FakeTensor;

struct TRITONSERVER_Error {
  TRITONSERVER_Error_Code code;
  std::string message;
};
struct TRITONSERVER_Message {
  std::string json;
};
struct TRITONSERVER_Parameter {
  std::string name, value;
};
// As in the server: gauges of equal labels are one, whose users are counted by family object, and
// it goes with the last user that its family object knows.
struct TRITONSERVER_MetricFamily {
  TRITONSERVER_MetricKind kind;
  std::string name;
  std::map<std::string, int> users;
};
struct TRITONSERVER_Metric {
  TRITONSERVER_MetricFamily* family;
  std::string key;
};
struct TRITONSERVER_MetricArgs {
  std::vector<double> bounds;
};
struct TRITONBACKEND_Output {
  FakeTensor tensor;
};
struct TRITONBACKEND_ResponseFactory {
  TRITONBACKEND_Request* request;
};
struct TRITONBACKEND_Response {
  TRITONBACKEND_Request* request;
  std::vector<std::unique_ptr<TRITONBACKEND_Output>> outputs;
};

namespace {

std::mutex gauges_mutex;
std::map<std::string, double> gauges;
std::map<std::string, inflight::testing::FakeHistogram> histograms;
std::vector<std::string> verbose_lines;
bool is_verbose = false;
std::atomic<int> num_to_refuse{0};
std::atomic<int> num_outputs_to_refuse{0};
std::vector<std::string> unloaded_models;
bool refuses_unloads = false;
void* backend_state = nullptr;  // of the one backend

}  // namespace

namespace inflight::testing {

FakeCounts& fake_counts() {
  static FakeCounts counts;
  return counts;
}

std::map<std::string, double> fake_gauges() {
  std::lock_guard lock(gauges_mutex);
  return gauges;
}

FakeHistogram fake_histogram(const std::string& family) {
  std::lock_guard lock(gauges_mutex);
  return histograms[family];
}

void fake_refuse_unloads(bool refuse) {
  std::lock_guard lock(gauges_mutex);
  refuses_unloads = refuse;
  unloaded_models.clear();
}

std::vector<std::string> fake_unloaded_models() {
  std::lock_guard lock(gauges_mutex);
  return unloaded_models;
}

void fake_refuse_responses(int count) { num_to_refuse = count; }
void fake_refuse_outputs(int count) { num_outputs_to_refuse = count; }

void fake_log_verbosely(bool verbose) {
  std::lock_guard lock(gauges_mutex);
  is_verbose = verbose;
  verbose_lines.clear();
}

std::vector<std::string> fake_verbose_lines() {
  std::lock_guard lock(gauges_mutex);
  return verbose_lines;
}

std::unique_ptr<TRITONBACKEND_Request> make_request(const std::vector<int32_t>& prompt,
                                                    int output_length) {
  auto request = std::make_unique<TRITONBACKEND_Request>();
  request->ids("input_ids", prompt);
  request->number("input_lengths", static_cast<int32_t>(prompt.size()));
  request->number("request_output_len", output_length);
  for (const triton::TensorSpec& spec : triton::output_specs())
    if (std::string_view(spec.name) != "heartbeat") request->outputs.emplace_back(spec.name);
  return request;
}

}  // namespace inflight::testing

void TRITONBACKEND_Request::wait_until_released() {
  std::unique_lock lock(mutex);
  changed.wait(lock, [this] { return num_released > 0; });
}

void TRITONBACKEND_Request::wait_for_answers(size_t count) {
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return answers.size() >= count; });
}

extern "C" {

TRITONSERVER_Error* TRITONSERVER_ErrorNew(TRITONSERVER_Error_Code code, const char* message) {
  ++fake_counts().errors;
  return new TRITONSERVER_Error{code, message};
}
void TRITONSERVER_ErrorDelete(TRITONSERVER_Error* error) {
  --fake_counts().errors;
  delete error;
}
TRITONSERVER_Error_Code TRITONSERVER_ErrorCode(TRITONSERVER_Error* error) { return error->code; }
const char* TRITONSERVER_ErrorMessage(TRITONSERVER_Error* error) { return error->message.c_str(); }

TRITONSERVER_Error* TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message* message,
                                                        const char** base, size_t* num_bytes) {
  *base = message->json.data();
  *num_bytes = message->json.size();
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MessageDelete(TRITONSERVER_Message* message) {
  delete message;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelBackend(TRITONBACKEND_Model* model,
                                               TRITONBACKEND_Backend** backend) {
  *backend = reinterpret_cast<TRITONBACKEND_Backend*>(model);  // all that is asked is its name
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_BackendName(TRITONBACKEND_Backend* backend, const char** name) {
  *name = reinterpret_cast<TRITONBACKEND_Model*>(backend)->backend.c_str();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ApiVersion(uint32_t* major, uint32_t* minor) {
  *major = TRITONBACKEND_API_VERSION_MAJOR;
  *minor = TRITONBACKEND_API_VERSION_MINOR;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_BackendState(TRITONBACKEND_Backend*, void** state) {
  *state = backend_state;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_BackendSetState(TRITONBACKEND_Backend*, void* state) {
  backend_state = state;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelServer(TRITONBACKEND_Model*, TRITONSERVER_Server** server) {
  *server = nullptr;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelState(TRITONBACKEND_Model* model, void** state) {
  *state = model->state;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelSetState(TRITONBACKEND_Model* model, void* state) {
  model->state = state;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance* instance,
                                                     TRITONBACKEND_Model** model) {
  *model = instance->model;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceState(TRITONBACKEND_ModelInstance* instance,
                                                     void** state) {
  *state = instance->state;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceSetState(TRITONBACKEND_ModelInstance* instance,
                                                        void* state) {
  instance->state = state;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelName(TRITONBACKEND_Model* model, const char** name) {
  *name = model->name.c_str();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelVersion(TRITONBACKEND_Model* model, uint64_t* version) {
  *version = model->version;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelRepository(TRITONBACKEND_Model* model,
                                                  TRITONBACKEND_ArtifactType* type,
                                                  const char** location) {
  *type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
  *location = model->location.c_str();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelConfig(TRITONBACKEND_Model* model, uint32_t,
                                              TRITONSERVER_Message** config) {
  *config = new TRITONSERVER_Message{model->config};
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_ServerUnloadModel(TRITONSERVER_Server*, const char* model) {
  std::lock_guard lock(gauges_mutex);
  unloaded_models.emplace_back(model);
  return refuses_unloads ? TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, "not explicit")
                         : nullptr;
}

TRITONSERVER_Parameter* TRITONSERVER_ParameterNew(const char* name, TRITONSERVER_ParameterType,
                                                  const void* value) {
  return new TRITONSERVER_Parameter{name, static_cast<const char*>(value)};
}
void TRITONSERVER_ParameterDelete(TRITONSERVER_Parameter* parameter) { delete parameter; }
TRITONSERVER_Error* TRITONSERVER_MetricFamilyNew(TRITONSERVER_MetricFamily** family,
                                                 TRITONSERVER_MetricKind kind, const char* name,
                                                 const char*) {
  ++fake_counts().families;
  *family = new TRITONSERVER_MetricFamily{kind, name, {}};
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MetricFamilyDelete(TRITONSERVER_MetricFamily* family) {
  --fake_counts().families;
  delete family;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MetricNew(TRITONSERVER_Metric** metric,
                                           TRITONSERVER_MetricFamily* family,
                                           const TRITONSERVER_Parameter** labels,
                                           uint64_t num_labels) {
  ++fake_counts().metrics;
  std::string key = family->name;
  for (uint64_t i = 0; i < num_labels; ++i)
    if (labels[i]->name != "model" && labels[i]->name != "version") key += " " + labels[i]->value;
  std::lock_guard lock(gauges_mutex);
  gauges.try_emplace(key, 0);
  ++family->users[key];
  *metric = new TRITONSERVER_Metric{family, key};
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MetricDelete(TRITONSERVER_Metric* metric) {
  --fake_counts().metrics;
  std::lock_guard lock(gauges_mutex);
  if (--metric->family->users[metric->key] == 0) gauges.erase(metric->key);
  delete metric;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MetricSet(TRITONSERVER_Metric* metric, double value) {
  std::lock_guard lock(gauges_mutex);
  if (metric->family->kind != TRITONSERVER_METRIC_KIND_GAUGE) std::abort();
  if (!gauges.contains(metric->key)) ++fake_counts().freed_gauges_set;
  gauges[metric->key] = value;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MetricIncrement(TRITONSERVER_Metric* metric, double value) {
  std::lock_guard lock(gauges_mutex);
  if (metric->family->kind != TRITONSERVER_METRIC_KIND_COUNTER || value < 0) std::abort();
  if (!gauges.contains(metric->key)) ++fake_counts().freed_gauges_set;
  gauges[metric->key] += value;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MetricArgsNew(TRITONSERVER_MetricArgs** args) {
  ++fake_counts().metrics;
  *args = new TRITONSERVER_MetricArgs;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MetricArgsSetHistogram(TRITONSERVER_MetricArgs* args,
                                                        const double* bounds, uint64_t count) {
  args->bounds.assign(bounds, bounds + count);
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MetricArgsDelete(TRITONSERVER_MetricArgs* args) {
  --fake_counts().metrics;
  delete args;
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MetricNewWithArgs(TRITONSERVER_Metric** metric,
                                                   TRITONSERVER_MetricFamily* family,
                                                   const TRITONSERVER_Parameter**, uint64_t,
                                                   const TRITONSERVER_MetricArgs* args) {
  ++fake_counts().metrics;
  if (family->kind != TRITONSERVER_METRIC_KIND_HISTOGRAM) std::abort();
  std::lock_guard lock(gauges_mutex);
  histograms[family->name] = {args->bounds, std::vector<int>(args->bounds.size() + 1), 0, 0};
  *metric = new TRITONSERVER_Metric{family, family->name};
  return nullptr;
}
TRITONSERVER_Error* TRITONSERVER_MetricObserve(TRITONSERVER_Metric* metric, double value) {
  std::lock_guard lock(gauges_mutex);
  inflight::testing::FakeHistogram& histogram = histograms.at(metric->key);
  const auto bound = std::ranges::lower_bound(histogram.bounds, value);
  ++histogram.counts[bound - histogram.bounds.begin()];
  ++histogram.num_observed;
  histogram.sum += value;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportStatistics(
    TRITONBACKEND_ModelInstance*, TRITONBACKEND_Request* request, bool success, uint64_t start,
    uint64_t compute_start, uint64_t compute_end, uint64_t end) {
  std::lock_guard lock(request->mutex);
  request->success = success;
  if (start <= compute_start && compute_start <= compute_end && compute_end <= end)
    ++request->num_statistics;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ModelInstanceReportBatchStatistics(TRITONBACKEND_ModelInstance*,
                                                                     uint64_t, uint64_t, uint64_t,
                                                                     uint64_t, uint64_t) {
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_RequestId(TRITONBACKEND_Request* request, const char** id) {
  *id = request->id.c_str();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestInputCount(TRITONBACKEND_Request* request,
                                                    uint32_t* count) {
  *count = static_cast<uint32_t>(request->inputs.size());
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestInputByIndex(TRITONBACKEND_Request* request,
                                                      uint32_t index, TRITONBACKEND_Input** input) {
  *input = &request->inputs.at(index);
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request* request,
                                                     uint32_t* count) {
  *count = static_cast<uint32_t>(request->outputs.size());
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestOutputName(TRITONBACKEND_Request* request, uint32_t index,
                                                    const char** name) {
  *name = request->outputs.at(index).c_str();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestParameterCount(TRITONBACKEND_Request* request,
                                                        uint32_t* count) {
  *count = static_cast<uint32_t>(request->parameters.size());
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestParameter(TRITONBACKEND_Request* request, uint32_t index,
                                                   const char** key,
                                                   TRITONSERVER_ParameterType* type,
                                                   const void** value) {
  *key = request->parameters.at(index).first.c_str();
  *type = TRITONSERVER_PARAMETER_STRING;
  *value = request->parameters[index].second.c_str();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_RequestRelease(TRITONBACKEND_Request* request, uint32_t) {
  std::lock_guard lock(request->mutex);
  ++request->num_released;
  request->changed.notify_all();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_InputProperties(TRITONBACKEND_Input* input, const char** name,
                                                  TRITONSERVER_DataType* type,
                                                  const int64_t** shape, uint32_t* num_dims,
                                                  uint64_t* num_bytes, uint32_t* num_buffers) {
  *name = input->tensor.name.c_str();
  *type = input->tensor.type;
  *shape = input->tensor.shape.data();
  *num_dims = static_cast<uint32_t>(input->tensor.shape.size());
  *num_bytes = input->tensor.bytes.size();
  *num_buffers = static_cast<uint32_t>(input->num_buffers);
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_InputBuffer(TRITONBACKEND_Input* input, uint32_t index,
                                              const void** buffer, uint64_t* num_bytes,
                                              TRITONSERVER_MemoryType* memory, int64_t*) {
  const std::vector<uint8_t>& bytes = input->tensor.bytes;
  const size_t piece = bytes.size() / input->num_buffers;
  const bool last = index + 1 == input->num_buffers;
  *buffer = bytes.data() + index * piece;
  *num_bytes = last ? bytes.size() - index * piece : piece;
  *memory = TRITONSERVER_MEMORY_CPU;
  return nullptr;
}

TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryNew(TRITONBACKEND_ResponseFactory** factory,
                                                     TRITONBACKEND_Request* request) {
  ++fake_counts().factories;
  *factory = new TRITONBACKEND_ResponseFactory{request};
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryDelete(TRITONBACKEND_ResponseFactory* factory) {
  --fake_counts().factories;
  delete factory;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseFactorySendFlags(TRITONBACKEND_ResponseFactory* factory,
                                                           uint32_t) {
  std::lock_guard lock(factory->request->mutex);
  ++factory->request->num_finals;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseFactoryIsCancelled(TRITONBACKEND_ResponseFactory* factory,
                                                             bool* is_cancelled) {
  *is_cancelled = factory->request->cancelled;
  if (*is_cancelled) ++factory->request->num_told_cancelled;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseNewFromFactory(TRITONBACKEND_Response** response,
                                                         TRITONBACKEND_ResponseFactory* factory) {
  ++fake_counts().responses;
  *response = new TRITONBACKEND_Response{factory->request, {}};
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseDelete(TRITONBACKEND_Response* response) {
  ++fake_counts().dropped;
  --fake_counts().responses;
  delete response;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseOutput(TRITONBACKEND_Response* response,
                                                 TRITONBACKEND_Output** output, const char* name,
                                                 TRITONSERVER_DataType type, const int64_t* shape,
                                                 uint32_t num_dims) {
  response->outputs.push_back(std::make_unique<TRITONBACKEND_Output>(
      TRITONBACKEND_Output{{name, type, {shape, shape + num_dims}, {}}}));
  *output = response->outputs.back().get();
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_OutputBuffer(TRITONBACKEND_Output* output, void** buffer,
                                               uint64_t num_bytes, TRITONSERVER_MemoryType* memory,
                                               int64_t*) {
  if (num_outputs_to_refuse > 0) {
    --num_outputs_to_refuse;
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "no memory for it");
  }
  output->tensor.bytes.resize(num_bytes);
  *buffer = output->tensor.bytes.data();
  *memory = TRITONSERVER_MEMORY_CPU;
  return nullptr;
}
TRITONSERVER_Error* TRITONBACKEND_ResponseSend(TRITONBACKEND_Response* response, uint32_t flags,
                                               TRITONSERVER_Error* error) {
  if (num_to_refuse > 0) {
    --num_to_refuse;
    --fake_counts().responses;
    delete response;
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "not taken");
  }
  FakeAnswer answer;
  for (const auto& output : response->outputs) answer.outputs.push_back(output->tensor);
  answer.is_final = (flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0;
  static std::atomic<int64_t> num_answers{0};
  answer.number = num_answers++;
  if (error != nullptr) {
    answer.error = error->message;
    answer.code = error->code;
  }
  TRITONBACKEND_Request* request = response->request;
  {
    std::lock_guard lock(request->mutex);
    request->num_finals += answer.is_final ? 1 : 0;
    request->answers.push_back(std::move(answer));
    request->changed.notify_all();
  }
  --fake_counts().responses;
  delete response;
  return nullptr;
}

TRITONSERVER_Error* TRITONSERVER_LogMessage(TRITONSERVER_LogLevel level, const char*, int,
                                            const char* message) {
  std::lock_guard lock(gauges_mutex);
  if (level == TRITONSERVER_LOG_VERBOSE && is_verbose) verbose_lines.emplace_back(message);
  return nullptr;
}
bool TRITONSERVER_LogIsEnabled(TRITONSERVER_LogLevel level) {
  std::lock_guard lock(gauges_mutex);
  return level != TRITONSERVER_LOG_VERBOSE || is_verbose;
}
}
