// Products by cuBLASLt. Which algorithm serves a range of row counts is asked once and kept with
// the library's handle, so that a shape is served the same way as long as the engine lives.
#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <optional>

#include "kernels/core/check.h"
#include "kernels/core/cuda/cublaslt.h"
#include "kernels/gemm/lt_api.h"
#include "kernels/gemm/products.h"

namespace inflight::cuda {
namespace {

int type_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return lt::kFloat16;
    case DType::kBFloat16:
      return lt::kBFloat16;
    default:
      return lt::kFloat32;
  }
}

/// Row counts that share an algorithm: eight ranges to a power of two.
int64_t bucket_of(int64_t rows) {
  const auto floor = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(rows)));
  const int64_t step = std::max<int64_t>(16, floor / 8);
  return (rows + step - 1) / step * step;
}

}  // namespace

class LibraryProducts {
 public:
  explicit LibraryProducts(const CublasLt& library)
      : handle_(library.handle()),
        init_layout_(find<lt::MatrixLayoutInit>(library, "cublasLtMatrixLayoutInit_internal")),
        init_desc_(find<lt::MatmulDescInit>(library, "cublasLtMatmulDescInit_internal")),
        set_desc_(find<lt::MatmulDescSet>(library, "cublasLtMatmulDescSetAttribute")),
        init_preference_(
            find<lt::PreferenceInit>(library, "cublasLtMatmulPreferenceInit_internal")),
        set_preference_(find<lt::PreferenceSet>(library, "cublasLtMatmulPreferenceSetAttribute")),
        get_heuristic_(find<lt::GetHeuristic>(library, "cublasLtMatmulAlgoGetHeuristic")),
        matmul_(find<lt::Matmul>(library, "cublasLtMatmul")) {}

  bool run(const LinearParams& p, const OpContext& context) {
    Problem problem = describe(p, p.x.shape[0]);
    const Key key{bucket_of(p.x.shape[0]),
                  p.weight.shape[0],
                  p.x.shape[1],
                  static_cast<int64_t>(p.x.dtype),
                  static_cast<int64_t>(p.y.dtype),
                  p.bias ? static_cast<int64_t>(p.bias.dtype) : -1};
    auto found = algorithms_.find(key);
    if (found == algorithms_.end()) {
      Problem largest = describe(p, key[0]);
      found = algorithms_.emplace(key, choose(largest)).first;
    }
    if (!found->second) return false;
    if (multiply(p, problem, *found->second, context)) return true;
    // The bucket's algorithm does not do for these very rows.
    const auto exact = choose(problem);
    return exact && multiply(p, problem, *exact, context);
  }

 private:
  using Key = std::array<int64_t, 6>;
  struct Problem {
    lt::MatmulDesc desc;
    lt::MatrixLayout weight, x, y;
  };

  template <typename Function>
  static Function find(const CublasLt& library, const char* name) {
    return reinterpret_cast<Function>(library.symbol(name));
  }
  static void require(lt::Status status, const char* what) {
    check_internal(status == 0, what, ": status ", status);
  }

  // Matrices are column-major there: y^T = (weight^T)^T * x^T.
  Problem describe(const LinearParams& p, int64_t rows) const {
    Problem problem;
    const int64_t columns = p.weight.shape[0], depth = p.x.shape[1];
    require(init_desc_(&problem.desc, sizeof(problem.desc), lt::kCompute32F, lt::kFloat32),
            "cublasLtMatmulDescInit");
    const auto set = [&](int attribute, const auto& value) {
      require(set_desc_(&problem.desc, attribute, &value, sizeof(value)),
              "cublasLtMatmulDescSetAttribute");
    };
    set(lt::kTransposeA, lt::kTransposed);
    if (p.bias) {
      set(lt::kEpilogue, lt::kEpilogueBias);
      set(lt::kBiasPointer, p.bias.data);
      set(lt::kBiasType, type_of(p.bias.dtype));
    }
    const auto layout = [&](lt::MatrixLayout& to, DType dtype, int64_t height, int64_t width) {
      require(init_layout_(&to, sizeof(to), type_of(dtype), height, width, height),
              "cublasLtMatrixLayoutInit");
    };
    layout(problem.weight, p.weight.dtype, depth, columns);
    layout(problem.x, p.x.dtype, depth, rows);
    layout(problem.y, p.y.dtype, columns, rows);
    return problem;
  }

  std::optional<lt::Algorithm> choose(Problem& problem) const {
    lt::Preference preference;
    require(init_preference_(&preference, sizeof(preference)), "cublasLtMatmulPreferenceInit");
    const uint64_t workspace = kLibraryWorkspaceBytes;
    require(set_preference_(&preference, lt::kMaxWorkspaceBytes, &workspace, sizeof(workspace)),
            "cublasLtMatmulPreferenceSetAttribute");
    // No sums in place: their order is not fixed.
    const uint32_t reductions = lt::kReduceInComputeType | lt::kReduceInOutputType;
    require(set_preference_(&preference, lt::kReductions, &reductions, sizeof(reductions)),
            "cublasLtMatmulPreferenceSetAttribute");
    lt::HeuristicResult result;
    int count = 0;
    const lt::Status status =
        get_heuristic_(handle_, &problem.desc, &problem.weight, &problem.x, &problem.y, &problem.y,
                       &preference, 1, &result, &count);
    if (status != 0 || count == 0 || result.state != 0) return std::nullopt;
    return result.algorithm;
  }

  bool multiply(const LinearParams& p, Problem& problem, const lt::Algorithm& algorithm,
                const OpContext& context) const {
    const float one = 1, zero = 0;
    return matmul_(handle_, &problem.desc, &one, p.weight.data, &problem.weight, p.x.data,
                   &problem.x, &zero, p.y.data, &problem.y, p.y.data, &problem.y, &algorithm,
                   context.workspace.data, kLibraryWorkspaceBytes, context.stream) == 0;
  }

  lt::Handle handle_;
  lt::MatrixLayoutInit init_layout_;
  lt::MatmulDescInit init_desc_;
  lt::MatmulDescSet set_desc_;
  lt::PreferenceInit init_preference_;
  lt::PreferenceSet set_preference_;
  lt::GetHeuristic get_heuristic_;
  lt::Matmul matmul_;
  std::map<Key, std::optional<lt::Algorithm>> algorithms_;
};

bool library_product(const LinearParams& params, const OpContext& context) {
  check_internal(context.workspace.bytes >= kLibraryWorkspaceBytes, "linear: workspace of ",
                 context.workspace.bytes, " bytes is too small");
  auto& products = context.cublaslt->products();
  if (!products) {
    products = {new LibraryProducts(*context.cublaslt),
                [](LibraryProducts* object) { delete object; }};
  }
  return products->run(params, context);
}

}  // namespace inflight::cuda
