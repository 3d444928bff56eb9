#include "backend/executor/forecast.h"

#include <algorithm>

#include "backend/executor/cache_groups.h"
#include "backend/executor/config.h"
#include "backend/plan/engine_file.h"

namespace inflight::executor {

Forecast forecast(const EngineConfig& config, int64_t taken_bytes, int64_t mapped_bytes) {
  const plan::EngineFile engine = plan::load_engine_file(config.engine_dir);
  Forecast result;
  result.info = effective_limits(config, engine);
  for (const KvGroupInfo& group : result.info.kv_groups)
    result.bytes_per_block += group.bytes_per_block;
  const Device device = parse_device(config.device);
  const bool on_cpu = device.type == DeviceType::kCpu;
  result.info.reserved_bytes = reserved_bytes(device);
  const int64_t free_now = executor::free_bytes(device, result.info.reserved_bytes);
  result.free_bytes = std::max<int64_t>(0, free_now - taken_bytes + (on_cpu ? mapped_bytes : 0));
  result.info.block_bytes = result.bytes_per_block;
  set_pool_blocks(result.info, pool_blocks(config, result.info, result.free_bytes));
  result.cache_bytes = pool_bytes(result.info);
  const int64_t free_on_host = on_cpu ? result.free_bytes - result.cache_bytes : free_host_bytes();
  result.info.num_host_blocks =
      host_blocks(config, result.info, result.bytes_per_block, free_on_host);
  return result;
}

}  // namespace inflight::executor
