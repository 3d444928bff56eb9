// What kernels of many rows of x share on Hopper: products of 64 rows with 64 to 256 of weights by
// a warpgroup, copies and arrivals within a cluster, and the gated activation of sums.
#pragma once

#include "kernels/core/cuda/convert.cuh"
#include "kernels/gemm/hopper.cuh"

namespace inflight::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

#define INFLIGHT_R8(s, i)                                                                     \
  "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3]), "+f"(s[i + 4]), "+f"(s[i + 5]), \
      "+f"(s[i + 6]), "+f"(s[i + 7])
#define INFLIGHT_R32(s, i) \
  INFLIGHT_R8(s, i), INFLIGHT_R8(s, i + 8), INFLIGHT_R8(s, i + 16), INFLIGHT_R8(s, i + 24)
#define INFLIGHT_N64                                      \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15" \
  ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define INFLIGHT_N128                                                    \
  INFLIGHT_N64                                                           \
      ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47" \
      ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define INFLIGHT_N144 INFLIGHT_N128 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define INFLIGHT_N208                                                    \
  INFLIGHT_N144                                                          \
      ",%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87" \
      ",%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103"
#define INFLIGHT_N224 INFLIGHT_N208 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define INFLIGHT_N256 \
  INFLIGHT_N224 ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define INFLIGHT_WARPGROUP_PRODUCT(type, columns, a, b, p, ...)                            \
  asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, " p                                 \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type \
               " {" INFLIGHT_N##columns "}, " a ", " b ", more, 1, 1, 0, 0;\n}\n"          \
               : __VA_ARGS__                                                               \
               : "l"(x), "l"(weights), "r"(accumulate))
#define INFLIGHT_WARPGROUP_BOTH(...)                 \
  if constexpr (std::is_same_v<T, __half>) {         \
    INFLIGHT_WARPGROUP_PRODUCT("f16", __VA_ARGS__);  \
  } else {                                           \
    INFLIGHT_WARPGROUP_PRODUCT("bf16", __VA_ARGS__); \
  }
/// sums[64 rows of x][kColumns of weights] = or += x * weights^T over a depth of 16 elements.
template <typename T, int kColumns>
__device__ __forceinline__ void multiply(float (&sums)[kColumns / 2], uint64_t x, uint64_t weights,
                                         int accumulate) {
  if constexpr (kColumns == 64) {
    INFLIGHT_WARPGROUP_BOTH(64, "%32", "%33", "%34", INFLIGHT_R32(sums, 0))
  } else if constexpr (kColumns == 128) {
    INFLIGHT_WARPGROUP_BOTH(128, "%64", "%65", "%66", INFLIGHT_R32(sums, 0), INFLIGHT_R32(sums, 32))
  } else if constexpr (kColumns == 144) {
    INFLIGHT_WARPGROUP_BOTH(144, "%72", "%73", "%74", INFLIGHT_R32(sums, 0), INFLIGHT_R32(sums, 32),
                            INFLIGHT_R8(sums, 64))
  } else if constexpr (kColumns == 208) {
    INFLIGHT_WARPGROUP_BOTH(208, "%104", "%105", "%106", INFLIGHT_R32(sums, 0),
                            INFLIGHT_R32(sums, 32), INFLIGHT_R32(sums, 64), INFLIGHT_R8(sums, 96))
  } else if constexpr (kColumns == 224) {
    INFLIGHT_WARPGROUP_BOTH(224, "%112", "%113", "%114", INFLIGHT_R32(sums, 0),
                            INFLIGHT_R32(sums, 32), INFLIGHT_R32(sums, 64), INFLIGHT_R8(sums, 96),
                            INFLIGHT_R8(sums, 104))
  } else {
    static_assert(kColumns == 256);
    INFLIGHT_WARPGROUP_BOTH(256, "%128", "%129", "%130", INFLIGHT_R32(sums, 0),
                            INFLIGHT_R32(sums, 32), INFLIGHT_R32(sums, 64), INFLIGHT_R32(sums, 96))
  }
}
#undef INFLIGHT_WARPGROUP_BOTH
#undef INFLIGHT_WARPGROUP_PRODUCT
#undef INFLIGHT_N256
#undef INFLIGHT_N224
#undef INFLIGHT_N208
#undef INFLIGHT_N144
#undef INFLIGHT_N128
#undef INFLIGHT_N64
#undef INFLIGHT_R32
#undef INFLIGHT_R8

/// Keeps the compiler from moving accesses of the sums over this point.
template <int kCount>
__device__ __forceinline__ void pin(float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

/// copy_tile into the same place of all blocks of the mask, each one's barrier counting its bytes.
__device__ __forceinline__ void copy_tile_to_all(void* to, const CUtensorMap& map, int column,
                                                 int row, uint64_t* barrier, uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier)), "h"(mask)
      : "memory");
}
/// At a block of the cluster. Without a release of the cluster's scope, which would be a fence of
/// all memory: what the arrival tells is that wgmma has read, and that has been waited for.
__device__ __forceinline__ void arrive_at(uint64_t* barrier, int rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(
                   remote_address(shared_address(barrier), rank))
               : "memory");
}
__device__ __forceinline__ void store_remote_four(uint32_t address, const float* from) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(from[0]),
               "f"(from[1]), "f"(from[2]), "f"(from[3])
               : "memory");
}
__device__ __forceinline__ void store_matrices(uint32_t address, const uint32_t (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}

__device__ __forceinline__ float2 unpack(__nv_bfloat16, uint32_t pair) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pair));
}
__device__ __forceinline__ float2 unpack(__half, uint32_t pair) {
  return __half22float2(reinterpret_cast<const __half2&>(pair));
}
/// silu(gate) * up of two, rounded where the separate ops round. One reciprocal serves both.
template <typename T>
__device__ __forceinline__ uint32_t gated(float gate0, float gate1, float up0, float up1) {
  const float2 gate = unpack(T(), pack(T(), gate0, gate1)), up = unpack(T(), pack(T(), up0, up1));
  const auto one_and_exp = [](float g) {
    float e;  // at most 2^60: the product of two is finite
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(fminf(g * -1.44269504f, 60.0f)));
    return 1.0f + e;
  };
  const float below0 = one_and_exp(gate.x), below1 = one_and_exp(gate.y);
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(below0 * below1));
  const float2 silu = unpack(T(), pack(T(), gate.x * below1 * inverse, gate.y * below0 * inverse));
  return pack(T(), silu.x * up.x, silu.y * up.y);
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace inflight::cuda
