// Eigen, for f32 alone: its bfloat16 has no vectors on AVX2, and it rounds sums
// of its half to half. It has no threads for this product, so our threads share
// out the rows.
#include "bench/peers/eigen_gemv.h"
#include "bench/peers/peers.h"

namespace rankforge {
namespace {

bool CpuRunsEigenGemv() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

}  // namespace

Status OfferEigen(PeerGroup& group, const PeerProduct& product,
                  std::vector<Contestant>& contestants) {
  if (group.type() != WeightType::kF32 ||
      product.problem.operation != Operation::kDense) {
    return {};
  }
  if (!CpuRunsEigenGemv()) {
    return EnvironmentError("this CPU has no AVX2, which Eigen is built for");
  }
  const std::vector<PageBuffer>& weights = group.ByRow();
  const auto run = [&group, &weights, x = product.input.x().data(),
                    y = std::vector<float>(group.rows())](size_t turn) mutable {
    const auto* w =
        reinterpret_cast<const float*>(weights[turn % weights.size()].data());
    const size_t cols = group.cols();
    ShareOut(group.executor(), group.rows(), [&](size_t begin, size_t end) {
      EigenGemv(w + begin * cols, end - begin, cols, x, &y[begin]);
    });
    return static_cast<const float*>(y.data());
  };
  contestants.push_back(
      {"eigen", "row-major, rows shared out over our threads", run, nullptr});
  return {};
}

}  // namespace rankforge
