// Which instructions CPU kernels use, decided at run time: one binary serves every x86-64 and, in
// its plain form, every other processor.
#pragma once

#include <cstdint>
#include <string_view>

namespace inflight::cpu {

enum class Isa : uint8_t {
  kBaseline,    // what the compiler targets anyway
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, VL, DQ
  kAvx512Bf16,  // and VDPBF16PS
};

constexpr std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::kBaseline:
      return "baseline";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "?";
}

/// The best this machine has.
inline Isa best_isa() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return __builtin_cpu_supports("avx512bf16") ? Isa::kAvx512Bf16 : Isa::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    return Isa::kAvx2;
#endif
  return Isa::kBaseline;
}

}  // namespace inflight::cpu

// Before a function of plain loops: compiled once per instruction set, chosen when the program is
// loaded. Not under sanitizers, whose runtimes do not stand the choosing at load. The levels, not
// names of processors: "arch=haswell" would be chosen on no processor but Intel's.
#if defined(__x86_64__) && __GNUC__ >= 12 && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define INFLIGHT_VECTORIZED \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define INFLIGHT_VECTORIZED
#endif
