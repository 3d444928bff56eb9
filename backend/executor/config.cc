#include "backend/executor/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <limits>
#include <sstream>

#include "backend/executor/cache_groups.h"
#include "backend/kv_cache/geometry.h"
#include "kernels/core/check.h"
#include "kernels/core/device.h"

namespace inflight::executor {
namespace {

constexpr double kMaxCpuFraction = 0.5;
constexpr int64_t kReservedBytes = int64_t{1} << 30;
constexpr int64_t kMaxReservedShare = 16;  // a small GPU reserves a sixteenth of its memory

/// The limit asked for, if any, else the engine's.
int chosen_limit(const char* key, std::optional<int> asked, int engine_limit,
                 const plan::EngineFile& engine) {
  if (!asked) return engine_limit;
  check(*asked >= 1, key, " is ", *asked, ", must be at least 1");
  check(*asked <= engine_limit, key, " is ", *asked, ", the engine ", engine.directory.string(),
        " was built for at most ", engine_limit);
  return *asked;
}

void check_positive(const char* key, std::optional<int64_t> value) {
  check(!value || *value >= 1, key, " is ", value.value_or(0), ", must be at least 1");
}

/// The value of `key` in a file of "key: value kB" lines.
int64_t meminfo_bytes(const std::string& wanted) {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  int64_t kilobytes = 0;
  while (file >> key >> kilobytes) {
    std::getline(file, unit);
    if (key == wanted) return kilobytes * 1024;
  }
  return std::numeric_limits<int64_t>::max();
}

/// A number in a one-line file, or the largest if it is absent or says "max".
int64_t number_in(const char* path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : std::numeric_limits<int64_t>::max();
}

/// Of the products of many rows.
int32_t tile_rows(const EngineInfo& info) {
  constexpr int32_t kOfGpus = 128;
  // In float32, and on a CPU, each row more costs what a row costs.
  return info.device == "cpu" || info.dtype == name_of(DType::kFloat32) ? 0 : kOfGpus;
}

std::string mebibytes(int64_t bytes) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(1) << static_cast<double>(bytes) / (1 << 20) << " MiB";
  return out.str();
}

bool is_usable(Device device) {
  try {
    return num_cuda_devices() > device.index && device_facts(device).num_multiprocessors > 0;
  } catch (const Error&) {
    return false;
  }
}

/// Raises what device_facts raises, naming the setting.
void device_facts_for(const std::string& name, Device device) {
  try {
    device_facts(device);
  } catch (const Error& error) {
    throw Error(error.code(), concat("device is '", name, "': ", error.what()));
  }
}

/// Whether keys depend on how long the sequence is that they are of: others cannot use them.
bool rotation_depends_on_length(const plan::EngineFile& engine) {
  return std::ranges::any_of(engine.ranks, [](const plan::Plan& rank) {
    return std::ranges::any_of(
        rank.rows, [](const plan::OpRow& op) { return op.attributes.contains("dynamic_factor"); });
  });
}

std::string name_of(Device device) {
  return device.type == DeviceType::kCpu ? "cpu" : concat("cuda:", device.index);
}

}  // namespace

Device parse_device(const std::string& name) {
  if (name == "cpu" || (name == "auto" && !is_usable({DeviceType::kCuda, 0}))) return {};
  Device device{DeviceType::kCuda, 0};
  if (name == "auto" || name == "cuda") {
    device_facts_for(name, device);
    return device;
  }
  const char* const end = name.data() + name.size();
  const bool is_cuda = name.starts_with("cuda:");
  const auto number =
      std::from_chars(is_cuda ? name.data() + sizeof("cuda:") - 1 : end, end, device.index);
  check(is_cuda && number.ec == std::errc() && number.ptr == end && device.index >= 0,
        "device is '", name, "', must be \"auto\", \"cpu\", \"cuda\" or \"cuda:N\"");
  device_facts_for(name, device);
  return device;
}

plan::LoadFormat parse_load_format(const std::string& name) {
  check(name == "auto" || name == "dummy", "load_format is '", name,
        "', must be \"auto\" or \"dummy\"");
  return name == "auto" ? plan::LoadFormat::kAuto : plan::LoadFormat::kDummy;
}

EngineInfo effective_limits(const EngineConfig& config, const plan::EngineFile& engine) {
  EngineInfo info;
  info.architecture = engine.model.architecture;
  info.dtype = name_of(engine.dtype);
  info.device = name_of(parse_device(config.device));
  info.vocab_size = static_cast<int>(engine.model.vocab_size);
  info.end_ids = engine.model.eos_token_ids;
  info.tokens_per_block = engine.kv_cache.tokens_per_block;
  info.kv_groups = kv_groups(engine.kv_cache);
  info.max_batch_size =
      chosen_limit("max_batch_size", config.max_batch_size, engine.limits.max_batch_size, engine);
  info.max_num_tokens =
      chosen_limit("max_num_tokens", config.max_num_tokens, engine.limits.max_num_tokens, engine);
  info.max_seq_len =
      chosen_limit("max_seq_len", config.max_seq_len, engine.limits.max_seq_len, engine);
  check(info.max_seq_len >= 2, "max_seq_len is ", info.max_seq_len,
        ", must be at least 2: a token of prompt and one of output");
  info.max_prompt_len = info.max_seq_len - 1;
  info.kv_cache_onboard_blocks = config.kv_cache_onboard_blocks;
  info.kv_cache_dtype = name_of(kv_cache_dtype(config.kv_cache_dtype, engine.kv_cache.dtype));
  if (!config.enable_chunked_context) {
    info.max_prompt_len = std::min(info.max_prompt_len, info.max_num_tokens);
  }
  check(config.max_queue_size >= 0, "max_queue_size is ", config.max_queue_size,
        ", must be 0 (unbounded) or more");
  check(config.num_threads >= 0, "num_threads is ", config.num_threads,
        ", must be 0 (all cores) or more");
  info.enable_kv_cache_reuse = config.enable_kv_cache_reuse && !rotation_depends_on_length(engine);
  scheduler::validate(scheduler_limits(info, config));
  check_positive("kv_cache_max_tokens", config.kv_cache_max_tokens);
  check_positive("kv_cache_max_bytes", config.kv_cache_max_bytes);
  const double fraction = config.kv_cache_free_memory_fraction;
  check(fraction > 0.0 && fraction <= 1.0, "kv_cache_free_memory_fraction is ", fraction,
        ", must be above 0 and at most 1");
  return info;
}

scheduler::CapacityPolicy parse_capacity_policy(const std::string& name) {
  using scheduler::CapacityPolicy;
  if (name == "guaranteed_no_evict") return CapacityPolicy::kGuaranteedNoEvict;
  if (name == "max_utilization") return CapacityPolicy::kMaxUtilization;
  check(name == "static_batch", "batch_scheduler_policy is '", name,
        "', must be \"guaranteed_no_evict\", \"max_utilization\" or \"static_batch\"");
  return CapacityPolicy::kStaticBatch;
}

scheduler::Limits scheduler_limits(const EngineInfo& info, const EngineConfig& config) {
  return {.max_batch_size = info.max_batch_size,
          .max_num_tokens = info.max_num_tokens,
          .enable_chunked_context = config.enable_chunked_context,
          .capacity_policy = parse_capacity_policy(config.batch_scheduler_policy),
          .max_time_per_output_token_ms = config.max_time_per_output_token_ms,
          .max_steps_in_flight = info.device == "cpu" ? 1 : 2,
          .tile_rows = tile_rows(info)};
}

int64_t free_host_bytes() {
  const int64_t group_limit = number_in("/sys/fs/cgroup/memory.max");
  int64_t group_free = group_limit;
  if (group_limit != std::numeric_limits<int64_t>::max()) {
    group_free = std::max<int64_t>(0, group_limit - number_in("/sys/fs/cgroup/memory.current"));
  }
  return std::min(meminfo_bytes("MemAvailable:"), group_free);
}

int64_t free_bytes(Device device, int64_t reserved_bytes) {
  if (device.type == DeviceType::kCpu) return free_host_bytes();
  return std::max<int64_t>(0, device_memory(device).free_bytes - reserved_bytes);
}

int64_t reserved_bytes(Device device) {
  if (device.type == DeviceType::kCpu) return 0;
  return std::min(kReservedBytes, device_memory(device).total_bytes / kMaxReservedShare);
}

std::vector<int64_t> pool_blocks(const EngineConfig& config, const EngineInfo& info,
                                 int64_t free_bytes) {
  const std::vector<kv_cache::LayerGroup> groups = layer_groups(info.kv_groups);
  int64_t bytes_per_block = 0;  // one of each group
  for (const kv_cache::LayerGroup& group : groups) bytes_per_block += group.bytes_per_block;
  int64_t budget = std::numeric_limits<int64_t>::max();
  if (config.kv_cache_max_tokens) {
    const int64_t tokens = *config.kv_cache_max_tokens;
    check(tokens >= info.tokens_per_block, "kv_cache_max_tokens is ", tokens,
          ", less than one block of ", info.tokens_per_block, " tokens");
  }
  if (config.kv_cache_max_bytes) {
    budget = *config.kv_cache_max_bytes;
    check(budget >= bytes_per_block, "kv_cache_max_bytes is ", budget, ", less than one block of ",
          bytes_per_block, " bytes (", info.tokens_per_block, " tokens)");
  }
  const bool is_cpu = info.device == "cpu";
  if (!is_cpu || (!config.kv_cache_max_tokens && !config.kv_cache_max_bytes)) {
    double fraction = config.kv_cache_free_memory_fraction;
    if (is_cpu) fraction = std::min(fraction, kMaxCpuFraction);
    const auto bytes = static_cast<int64_t>(std::floor(fraction * static_cast<double>(free_bytes)));
    check(bytes >= bytes_per_block, "kv_cache_free_memory_fraction is ",
          config.kv_cache_free_memory_fraction, ": ", bytes, " of ", free_bytes, " bytes free on ",
          info.device, " are less than one block of ", bytes_per_block, " bytes (",
          info.tokens_per_block, " tokens)");
    budget = std::min(budget, bytes);
  }
  std::vector<int64_t> blocks =
      kv_cache::divide_budget(groups, kv_cache::Geometry(info.tokens_per_block),
                              {.max_batch_size = info.max_batch_size,
                               .max_num_tokens = info.max_num_tokens,
                               .max_seq_len = info.max_seq_len,
                               .max_steps_in_flight = is_cpu ? 1 : 2},
                              budget);
  if (config.kv_cache_max_tokens) {
    for (int64_t& each : blocks)
      each = std::min(each, *config.kv_cache_max_tokens / info.tokens_per_block);
  }
  return blocks;
}

int32_t host_blocks(const EngineConfig& config, const EngineInfo& info, int64_t bytes_per_block,
                    int64_t free_host_bytes) {
  const int64_t bytes = config.kv_cache_host_memory_bytes;
  check(bytes >= 0, "kv_cache_host_memory_bytes is ", bytes, ", must be 0 (none) or more");
  if (bytes == 0) return 0;
  check(bytes >= bytes_per_block, "kv_cache_host_memory_bytes is ", bytes,
        ", less than one block of ", bytes_per_block, " bytes (", info.tokens_per_block,
        " tokens)");
  check(bytes <= free_host_bytes, "kv_cache_host_memory_bytes is ", bytes, ", this machine has ",
        free_host_bytes, " bytes free");
  // Ids of the blocks of both tiers together are 32 bit.
  const int64_t most = std::numeric_limits<int32_t>::max() - info.num_blocks;
  return info.enable_kv_cache_reuse && !has_windows(info)
             ? static_cast<int32_t>(std::min<int64_t>(bytes / bytes_per_block, most))
             : 0;
}

int64_t logits_limit(const EngineConfig& config, int64_t free_host_bytes) {
  const int64_t bytes = config.max_logits_bytes;
  check(bytes >= 0, "max_logits_bytes is ", bytes,
        ", must be 0 (a quarter of what is free) or more");
  return bytes > 0 ? bytes : free_host_bytes / 4;
}

DType kv_cache_dtype(const std::string& name, DType engine_dtype) {
  const bool is_format = is_floating(engine_dtype) || engine_dtype == DType::kFloat8E4M3 ||
                         engine_dtype == DType::kInt8;
  check(is_format, "the engine keeps keys and values as ", name_of(engine_dtype),
        ", which is no format of the KV cache");
  if (!is_floating(engine_dtype))
    throw Error(ErrorCode::kUnsupported,
                concat("the engine keeps keys and values as ", name_of(engine_dtype),
                       ", not supported: no kernel of this version reads them"));
  if (name == "auto" || name == name_of(engine_dtype)) return engine_dtype;
  const bool is_known = name == "fp8" || name == "int8" || name == "float32" || name == "float16" ||
                        name == "bfloat16";
  check(is_known, "kv_cache_dtype is '", name,
        "', must be \"auto\", \"float32\", \"float16\", \"bfloat16\", \"fp8\" or \"int8\"");
  throw Error(ErrorCode::kUnsupported,
              concat("kv_cache_dtype is '", name, "', not supported: this version's kernels keep ",
                     "keys and values as the engine was built, ", name_of(engine_dtype)));
}

std::string memory_table(const EngineInfo& info, int64_t free_bytes) {
  std::ostringstream out;
  const auto row = [&out](const char* use, int64_t bytes, const std::string& note) {
    out << std::left << std::setw(20) << use << std::right << std::setw(14) << mebibytes(bytes);
    if (!note.empty()) out << "  " << note;
    out << '\n';
  };
  if (info.device == "cpu") {
    row("weights, mapped", info.weight_bytes_mapped, "read in place from the checkpoint");
    row("weights, allocated", info.weight_bytes_allocated, "assembled at load");
  } else {
    row("weights", info.weight_bytes_allocated, concat("on ", info.device));
  }
  row("arena", info.arena_bytes - info.workspace_bytes,
      concat("activations of ", info.max_num_tokens, " tokens in ", info.max_batch_size,
             " sequences"));
  row("workspace", info.workspace_bytes, "scratch memory of ops");
  const auto blocks = [&info](int64_t count) {
    return concat(count, " blocks of ", info.tokens_per_block,
                  " tokens = ", count * info.tokens_per_block, " tokens");
  };
  if (info.kv_groups.size() <= 1) row("KV cache", info.kv_cache_bytes, blocks(info.num_blocks));
  for (const KvGroupInfo& group : info.kv_groups) {
    if (info.kv_groups.size() > 1)
      row("KV cache", group.num_blocks * group.bytes_per_block,
          concat(blocks(group.num_blocks), ", ", group.num_layers, " layers",
                 group.window > 0 ? concat(" with a window of ", group.window) : ""));
  }
  if (info.num_host_blocks > 0) {
    row("KV cache on host", info.kv_cache_host_bytes,
        concat(info.num_host_blocks, " blocks",
               info.device == "cpu" ? "" : ", page-locked; not of the device's memory"));
  }
  if (info.device == "cpu") {
    row("free before KV cache", free_bytes, "");
  } else {
    row("reserve", info.reserved_bytes, "for recorded graphs and code loaded late");
    row("free", free_bytes - info.kv_cache_bytes, "left beside all of these");
  }
  return out.str();
}

}  // namespace inflight::executor
