// From what the user asked and what the engine file allows to the limits that hold, the size of the
// KV pool and the memory plan. Every default of a running engine is here. Pure but for asking the
// machine how much memory is free.
#pragma once

#include <cstdint>
#include <string>

#include "backend/executor/engine.h"
#include "backend/plan/engine_file.h"
#include "backend/plan/weights.h"
#include "backend/scheduler/limits.h"
#include "kernels/core/tensor_view.h"

namespace inflight::executor {

/// "auto" is CUDA device 0 where this build can use it, else the CPU. Raises invalid_argument for a
/// name that is none or a device that is not there, unsupported for one that this build does not
/// serve.
Device parse_device(const std::string& name);

/// Raises invalid_argument for a name that is none.
plan::LoadFormat parse_load_format(const std::string& name);

/// Facts and limits, without memory sizes. Raises invalid_argument naming key, value and limit.
EngineInfo effective_limits(const EngineConfig& config, const plan::EngineFile& engine);

/// Raises invalid_argument for a name that is none.
scheduler::CapacityPolicy parse_capacity_policy(const std::string& name);

scheduler::Limits scheduler_limits(const EngineInfo& info, const EngineConfig& config);

/// Bytes that this process can still take: of the machine, or of its memory control group if that
/// leaves less.
int64_t free_host_bytes();

/// Bytes free on the device, after `reserved_bytes` there.
int64_t free_bytes(Device device, int64_t reserved_bytes);

/// What a CUDA device keeps free for what comes after load: recorded graphs, code loaded late. 0
/// for the CPU.
int64_t reserved_bytes(Device device);

/// Blocks of each of info.kv_groups, at least one, which divide as kv_cache/pool_sizes.h says the
/// smallest of
///  - what max_batch_size sequences of max_seq_len tokens can ever use,
///  - kv_cache_max_tokens, kv_cache_max_bytes, where given,
///  - a share of `free_bytes`: kv_cache_free_memory_fraction. On the CPU only if neither cap is
///    given, and no more than half, since the page cache that holds mapped weights is free there.
/// Raises invalid_argument naming key, value and limit if not even one block fits.
std::vector<int64_t> pool_blocks(const EngineConfig& config, const EngineInfo& info,
                                 int64_t free_bytes);

/// Blocks of the host tier; none where no block is used again or layers see windows. Raises
/// invalid_argument naming key, value and limit if it is to have less than one block, or on the
/// machine more than `free_host_bytes` leaves.
int32_t host_blocks(const EngineConfig& config, const EngineInfo& info, int64_t bytes_per_block,
                    int64_t free_host_bytes);

/// Bytes that logits of requests under way may take together: max_logits_bytes, or a share of
/// `free_host_bytes`. Raises invalid_argument naming key and value if it is negative.
int64_t logits_limit(const EngineConfig& config, int64_t free_host_bytes);

/// What the cache's values are stored as. Raises invalid_argument for a name that is none or an
/// engine's dtype that is no format (kv_cache/block_layout.h has those), unsupported for a format
/// that no kernel of this version reads.
DType kv_cache_dtype(const std::string& name, DType engine_dtype);

/// The memory of a loaded engine as a table, one row a use.
std::string memory_table(const EngineInfo& info, int64_t free_bytes);

}  // namespace inflight::executor
