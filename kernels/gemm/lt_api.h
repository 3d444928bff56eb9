// As much of cuBLASLt's C interface as is used here (the library's documentation: "cuBLASLt API");
// builds need none of its headers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace inflight::cuda::lt {

using Status = int;  // 0 is success
using Handle = void*;

struct MatrixLayout {  // cublasLtMatrixLayoutOpaque_t and so on: made by Init, never destroyed
  uint64_t data[8];
};
struct MatmulDesc {
  uint64_t data[32];
};
struct Preference {
  uint64_t data[8];
};
struct Algorithm {
  uint64_t data[8];
};
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

inline constexpr int kCompute32F = 68;                            // real float32: no TF32
inline constexpr int kFloat32 = 0, kFloat16 = 2, kBFloat16 = 14;  // cudaDataType
inline constexpr int32_t kTransposed = 1;
inline constexpr int32_t kEpilogueBias = 4;
enum MatmulAttribute { kTransposeA = 3, kEpilogue = 7, kBiasPointer = 8, kBiasType = 26 };
enum PreferenceAttribute { kMaxWorkspaceBytes = 1, kReductions = 3 };
enum Reductions : uint32_t { kReduceInComputeType = 2 };

using GetVersion = size_t (*)();
using MatrixLayoutInit = Status (*)(MatrixLayout*, size_t size, int type, uint64_t rows,
                                    uint64_t columns, int64_t leading_dimension);
using MatmulDescInit = Status (*)(MatmulDesc*, size_t size, int compute_type, int scale_type);
using MatmulDescSet = Status (*)(MatmulDesc*, int attribute, const void* value, size_t size);
using PreferenceInit = Status (*)(Preference*, size_t size);
using PreferenceSet = Status (*)(Preference*, int attribute, const void* value, size_t size);
using GetHeuristic = Status (*)(Handle, MatmulDesc*, MatrixLayout* a, MatrixLayout* b,
                                MatrixLayout* c, MatrixLayout* d, Preference*, int requested,
                                HeuristicResult* results, int* returned);
using Check = Status (*)(Handle, MatmulDesc*, MatrixLayout* a, MatrixLayout* b, MatrixLayout* c,
                         MatrixLayout* d, const Algorithm*, HeuristicResult* result);
using Matmul = Status (*)(Handle, MatmulDesc*, const void* alpha, const void* a, MatrixLayout*,
                          const void* b, MatrixLayout*, const void* beta, const void* c,
                          MatrixLayout*, void* d, MatrixLayout*, const Algorithm*, void* workspace,
                          size_t workspace_bytes, void* stream);

}  // namespace inflight::cuda::lt
