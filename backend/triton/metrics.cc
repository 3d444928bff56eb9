#include "backend/triton/metrics.h"

#include <memory>
#include <utility>

#include "backend/triton/triton_error.h"

namespace inflight::triton {

namespace {

using Label = std::unique_ptr<TRITONSERVER_Parameter, void (*)(TRITONSERVER_Parameter*)>;

Label make_label(const char* name, const std::string& value) {
  return Label(TRITONSERVER_ParameterNew(name, TRITONSERVER_PARAMETER_STRING, value.c_str()),
               TRITONSERVER_ParameterDelete);
}

/// The labels of a metric, while it is made.
class Labels {
 public:
  void add(const char* name, const std::string& value) {
    labels_.push_back(make_label(name, value));
    pointers_.push_back(labels_.back().get());
  }
  const TRITONSERVER_Parameter** data() { return pointers_.data(); }
  uint64_t size() const { return pointers_.size(); }

 private:
  std::vector<Label> labels_;
  std::vector<const TRITONSERVER_Parameter*> pointers_;
};

Labels make_labels(const std::string& model, const char* label, const char* category,
                   const std::string& version) {
  Labels labels;
  labels.add("model", model);
  if (label != nullptr) labels.add(label, category);
  labels.add("version", version);
  return labels;
}

/// Servers before release 24.09 have none, and lack the functions.
bool has_histograms() {
  return TRITONSERVER_MetricArgsNew != nullptr && TRITONSERVER_MetricObserve != nullptr;
}

TRITONSERVER_Metric* make_histogram(TRITONSERVER_MetricFamily* family, Labels labels,
                                    const std::vector<double>& bounds) {
  TRITONSERVER_MetricArgs* args = nullptr;
  check_triton(TRITONSERVER_MetricArgsNew(&args), "MetricArgsNew");
  TRITONSERVER_Metric* metric = nullptr;
  log_if_error(TRITONSERVER_MetricArgsSetHistogram(args, bounds.data(), bounds.size()),
               "MetricArgsSetHistogram");
  log_if_error(TRITONSERVER_MetricNewWithArgs(&metric, family, labels.data(), labels.size(), args),
               "MetricNewWithArgs");
  log_if_error(TRITONSERVER_MetricArgsDelete(args), "MetricArgsDelete");
  return metric;
}

}  // namespace

TRITONSERVER_MetricFamily* MetricFamilies::find(TRITONSERVER_MetricKind kind, const char* name,
                                                const char* help) {
  const auto [place, is_new] = handles_.try_emplace(name, nullptr);
  if (is_new)
    log_if_error(TRITONSERVER_MetricFamilyNew(&place->second, kind, name, help),
                 "MetricFamilyNew");  // a server without metrics still serves
  return place->second;
}

MetricFamilies::~MetricFamilies() {
  for (const auto& [name, family] : handles_)
    if (family != nullptr)
      log_if_error(TRITONSERVER_MetricFamilyDelete(family), "MetricFamilyDelete");
}

Metrics::Metrics(MetricFamilies& families, const std::string& model, uint64_t version,
                 executor::EngineInfo info, BatchingNumbers numbers)
    : families_(families), info_(std::move(info)), batching_(numbers) {
  std::lock_guard lock(families_.mutex_);
  add_numbers(model, std::to_string(version));
  if (has_histograms())
    add_histograms(model, std::to_string(version));
  else
    log(LogLevel::kWarning, model,
        ": no histograms, which need a server of release 24.09 or later");
}

void Metrics::add_numbers(const std::string& model, const std::string& version) {
  for (const NumberFamily* family : number_families(batching_)) {
    const auto kind =
        family->is_counter ? TRITONSERVER_METRIC_KIND_COUNTER : TRITONSERVER_METRIC_KIND_GAUGE;
    TRITONSERVER_MetricFamily* handle = families_.find(kind, family->name, family->help);
    if (handle == nullptr) continue;
    for (const NumberRow& row : family->rows) {
      Labels labels = make_labels(model, family->label, row.category, version);
      TRITONSERVER_Metric* metric = nullptr;
      log_if_error(TRITONSERVER_MetricNew(&metric, handle, labels.data(), labels.size()),
                   "MetricNew");
      if (metric != nullptr) numbers_.push_back({metric, &row, family->is_counter, 0.0});
    }
  }
}

void Metrics::add_histograms(const std::string& model, const std::string& version) {
  for (const HistogramFamily& family : histogram_families()) {
    TRITONSERVER_MetricFamily* handle =
        families_.find(TRITONSERVER_METRIC_KIND_HISTOGRAM, family.name, family.help);
    if (handle == nullptr) continue;
    TRITONSERVER_Metric* metric = make_histogram(
        handle, make_labels(model, family.label, family.category, version), family.bounds);
    if (metric != nullptr) histograms_.push_back({metric, &family});
  }
}

Metrics::~Metrics() {
  std::lock_guard lock(families_.mutex_);
  for (const Number& number : numbers_)
    log_if_error(TRITONSERVER_MetricDelete(number.metric), "MetricDelete");
  for (const Histogram& histogram : histograms_)
    log_if_error(TRITONSERVER_MetricDelete(histogram.metric), "MetricDelete");
}

void Metrics::publish(const executor::EngineStats& newest) {
  const executor::EngineStats stats = shown(newest);
  std::lock_guard lock(publish_mutex_);
  for (Number& number : numbers_) {
    const double value = number.row->value(stats, info_);
    if (!number.is_counter) {
      log_if_error(TRITONSERVER_MetricSet(number.metric, value), "MetricSet");
    } else if (value > number.counted) {
      log_if_error(TRITONSERVER_MetricIncrement(number.metric, value - number.counted),
                   "MetricIncrement");
      number.counted = value;
    }
  }
  if (TRITONSERVER_LogIsEnabled(TRITONSERVER_LOG_VERBOSE))
    log(LogLevel::kVerbose, statistics_line(stats, info_, batching_));
}

void Metrics::observe(const EndedRequest& request) {
  for (const Histogram& histogram : histograms_) {
    const std::optional<double> value = histogram.family->value(request);
    if (value) log_if_error(TRITONSERVER_MetricObserve(histogram.metric, *value), "MetricObserve");
  }
}

}  // namespace inflight::triton
