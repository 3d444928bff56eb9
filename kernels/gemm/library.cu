// Products by cuBLASLt. Which algorithm serves a range of row counts is asked once, and kept with
// the library's handle and in a file: a shape is served the same way as long as the engine lives,
// and by the next process on the same machine.
#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/core/cuda/cublaslt.h"
#include "kernels/core/cuda/error.h"
#include "kernels/core/row_ranges.h"
#include "kernels/gemm/lt_api.h"
#include "kernels/gemm/products.h"
#include "kernels/gemm/tactics.h"

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

constexpr int kMaxCandidates = 8;
constexpr int kRaceVersion = 3;  // of the rules of races, whose outcomes are kept

/// How a race goes on after a lap of one product, by the best time of that.
struct RaceRules {
  int products;    // of a lap
  int laps;        // more
  float hopeless;  // times the best's: not worth another lap
  float lead;      // a later candidate's time must be below this share of the best's
};
/// One product of microseconds is off by one or two, and the first ones of an algorithm by 15, when
/// the host is late; those of milliseconds take long.
constexpr RaceRules race_rules(float milliseconds, int products) {
  return milliseconds < 0.1f ? RaceRules{products, 4, 100, 0.998f} : RaceRules{1, 3, 1.15f, 0.98f};
}

/// Does nothing with what it reads.
__global__ void read_kernel(const uint4* from, size_t count) {
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    const uint4 words = __ldcg(from + i);
    asm volatile("" ::"r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w));
  }
}

const uint8_t* race_bytes(const OpContext& context) {
  return static_cast<const uint8_t*>(context.workspace.data) + kLibraryScratchBytes;
}

/// Fills the L2 with other bytes than weights. That takes long enough for the host to launch what
/// comes next.
void clear_l2(const OpContext& context) {
  constexpr unsigned kBlocks = 528, kThreads = 256;
  read_kernel<<<kBlocks, kThreads, 0, static_cast<cudaStream_t>(context.stream)>>>(
      reinterpret_cast<const uint4*>(race_bytes(context)), kRaceBytes / sizeof(uint4));
  check_cuda(cudaGetLastError(), "read_kernel");
}

class Stopwatch {
 public:
  explicit Stopwatch(cudaStream_t stream) : stream_(stream) {
    check_cuda(cudaEventCreate(&start_), "cudaEventCreate");
    check_cuda(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~Stopwatch() {
    if (start_ != nullptr) cudaEventDestroy(start_);
    if (end_ != nullptr) cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;

  /// Milliseconds that the stream takes for `work`.
  template <typename Work>
  float time(const Work& work) const {
    check_cuda(cudaEventRecord(start_, stream_), "cudaEventRecord");
    work();
    check_cuda(cudaEventRecord(end_, stream_), "cudaEventRecord");
    check_cuda(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, start_, end_), "cudaEventElapsedTime");
    return milliseconds;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t start_ = nullptr, end_ = nullptr;
};

/// What a race's outcome holds for.
std::string machine_of(const CublasLt& library) {
  int device = 0, driver = 0;
  cudaDeviceProp properties;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  check_cuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  const auto version = reinterpret_cast<lt::GetVersion>(library.symbol("cublasLtGetVersion"));
  return concat(properties.name, ", ", properties.multiProcessorCount, " multiprocessors, driver ",
                driver, ", cublasLt ", version(), ", workspace ", kLibraryScratchBytes, ", rules ",
                kRaceVersion);
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
        check_(find<lt::Check>(library, "cublasLtMatmulAlgoCheck")),
        matmul_(find<lt::Matmul>(library, "cublasLtMatmul")),
        tactics_(tactics_folder(), machine_of(library)) {}

  bool run(const LinearParams& p, const void* residual, const OpContext& context) {
    Problem problem = describe(p, p.x.shape[0]);
    problem.residual = residual;
    const Key key{row_range_end(p.x.shape[0]),
                  p.weight.shape[0],
                  p.x.shape[1],
                  static_cast<int64_t>(p.x.dtype),
                  static_cast<int64_t>(p.y.dtype),
                  p.bias ? static_cast<int64_t>(p.bias.dtype) : -1,
                  residual != nullptr};
    auto found = algorithms_.find(key);
    if (found == algorithms_.end())
      found = algorithms_.emplace(key, choose(key, p, problem, context)).first;
    if (!found->second) return false;
    if (multiply(p, p.weight.data, problem, *found->second, context)) return true;
    // The range's algorithm does not do for these very rows.
    const auto candidates = ask(problem);
    return !candidates.empty() && multiply(p, p.weight.data, problem, candidates[0], context);
  }

 private:
  using Key = Tactics::Problem;
  struct Problem {
    lt::MatmulDesc desc;
    lt::MatrixLayout weight, x, y;
    const void* residual = nullptr;  // laid out as y
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

  std::optional<lt::Algorithm> choose(const Key& key, const LinearParams& p, Problem& problem,
                                      const OpContext& context) {
    Problem largest = describe(p, key[0]);
    if (const Tactics::Algorithm* kept = tactics_.find(key)) {
      const auto algorithm = std::bit_cast<lt::Algorithm>(*kept);
      lt::HeuristicResult result{};
      if (check_(handle_, &largest.desc, &largest.weight, &largest.x, &largest.y, &largest.y,
                 &algorithm, &result) == 0 &&
          result.workspace_bytes <= kLibraryScratchBytes)
        return algorithm;
    }
    const auto candidates = ask(largest);
    if (candidates.empty()) return std::nullopt;
    if (candidates.size() == 1 || !can_race(p, problem, context)) return candidates[0];
    const auto best = race(candidates, p, problem, context);
    if (best) tactics_.add(key, std::bit_cast<Tactics::Algorithm>(*best));
    return best;
  }

  /// The library's choices, its first first.
  std::vector<lt::Algorithm> ask(Problem& problem) const {
    lt::Preference preference;
    require(init_preference_(&preference, sizeof(preference)), "cublasLtMatmulPreferenceInit");
    const uint64_t workspace = kLibraryScratchBytes;
    require(set_preference_(&preference, lt::kMaxWorkspaceBytes, &workspace, sizeof(workspace)),
            "cublasLtMatmulPreferenceSetAttribute");
    // No sums in place: their order is not fixed. None in y's dtype: 16 bits round them once more.
    const uint32_t reductions = lt::kReduceInComputeType;
    require(set_preference_(&preference, lt::kReductions, &reductions, sizeof(reductions)),
            "cublasLtMatmulPreferenceSetAttribute");
    std::array<lt::HeuristicResult, kMaxCandidates> results;
    int count = 0;
    const lt::Status status =
        get_heuristic_(handle_, &problem.desc, &problem.weight, &problem.x, &problem.y, &problem.y,
                       &preference, kMaxCandidates, results.data(), &count);
    std::vector<lt::Algorithm> algorithms;
    for (int i = 0; status == 0 && i < count; ++i)
      if (results[i].state == 0) algorithms.push_back(results[i].algorithm);
    return algorithms;
  }

  /// Nothing can be timed while a graph is recorded, and in place a second product would add to the
  /// first.
  static bool can_race(const LinearParams& p, const Problem& problem, const OpContext& context) {
    cudaStreamCaptureStatus capture{};
    check_cuda(cudaStreamIsCapturing(static_cast<cudaStream_t>(context.stream), &capture),
               "cudaStreamIsCapturing");
    return problem.residual != p.y.data && capture == cudaStreamCaptureStatusNone;
  }

  /// The fastest on these operands; none if none of them runs.
  std::optional<lt::Algorithm> race(const std::vector<lt::Algorithm>& candidates,
                                    const LinearParams& p, Problem& problem,
                                    const OpContext& context) const {
    const auto stream = static_cast<cudaStream_t>(context.stream);
    const Stopwatch stopwatch(stream);
    constexpr float kNever = 1e9f;
    check_cuda(cudaMemsetAsync(context.workspace.data, 0, kLibraryWorkspaceBytes, stream),
               "cudaMemsetAsync");
    // A lap of several products is as a step has them: each finds its weights not in the L2, and
    // what the ones before have left to be written back, of y and of parts of a divided depth, is
    // part of the time. Small weights are read from a place of their own for each product.
    constexpr int kLeastProducts = 4, kMostProducts = 8;
    const size_t weight_bytes = (p.weight.bytes() + 255) / 256 * 256;
    const auto places =
        static_cast<int>(std::min<size_t>(kRaceBytes / weight_bytes, kMostProducts));
    const bool has_places = places >= kLeastProducts;
    const auto lap = [&](size_t i, int products) {
      const bool moves = has_places && products > 1;
      // Where nothing lies between products the host needs a start, or its own time is measured.
      for (int n = 0; n < (moves ? kLeastProducts : 1); ++n) clear_l2(context);
      bool ran = true;
      const float time = stopwatch.time([&] {
        for (int n = 0; n < products && ran; ++n) {
          const void* weight = moves ? race_bytes(context) + n * weight_bytes : p.weight.data;
          ran = multiply(p, weight, problem, candidates[i], context);
          if (!moves && products > 1) clear_l2(context);
        }
      });
      return ran ? time : kNever;
    };
    std::array<float, kMaxCandidates> times;
    for (size_t i = 0; i < candidates.size(); ++i) {
      lap(i, 1);  // the first call of an algorithm loads it
      times[i] = lap(i, 1);
    }
    const float fastest = *std::min_element(times.begin(), times.begin() + candidates.size());
    const RaceRules rules = race_rules(fastest, std::max(places, kLeastProducts));
    const std::array<float, kMaxCandidates> first = times;
    if (rules.products > 1) times.fill(kNever);
    // In turns: a GPU that runs into its power limit slows down whoever comes later.
    for (int n = 0; n < rules.laps; ++n)
      for (size_t i = 0; i < candidates.size(); ++i)
        if (first[i] <= fastest * rules.hopeless)
          times[i] = std::min(times[i], lap(i, rules.products));
    size_t best = 0;
    for (size_t i = 1; i < candidates.size(); ++i)
      if (times[i] < times[best] * rules.lead) best = i;
    return times[best] < kNever ? std::optional(candidates[best]) : std::nullopt;
  }

  bool multiply(const LinearParams& p, const void* weight, Problem& problem,
                const lt::Algorithm& algorithm, const OpContext& context) const {
    const float one = 1, beta = problem.residual != nullptr ? 1 : 0;
    const void* added = problem.residual != nullptr ? problem.residual : p.y.data;
    return matmul_(handle_, &problem.desc, &one, weight, &problem.weight, p.x.data, &problem.x,
                   &beta, added, &problem.y, p.y.data, &problem.y, &algorithm,
                   context.workspace.data, kLibraryScratchBytes, context.stream) == 0;
  }

  lt::Handle handle_;
  lt::MatrixLayoutInit init_layout_;
  lt::MatmulDescInit init_desc_;
  lt::MatmulDescSet set_desc_;
  lt::PreferenceInit init_preference_;
  lt::PreferenceSet set_preference_;
  lt::GetHeuristic get_heuristic_;
  lt::Check check_;
  lt::Matmul matmul_;
  Tactics tactics_;
  std::map<Key, std::optional<lt::Algorithm>> algorithms_;
};

bool library_product(const LinearParams& params, const TensorView& residual,
                     const OpContext& context) {
  check_internal(context.workspace.bytes >= kLibraryWorkspaceBytes, "linear: workspace of ",
                 context.workspace.bytes, " bytes is too small");
  auto& products = context.cublaslt->products();
  if (!products) {
    products = {new LibraryProducts(*context.cublaslt),
                [](LibraryProducts* object) { delete object; }};
  }
  return products->run(params, residual.data, context);
}

}  // namespace inflight::cuda
