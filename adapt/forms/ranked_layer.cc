#include "adapt/forms/ranked_layer.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "adapt/math/magnitude_threshold.h"
#include "adapt/math/tiles.h"
#include "kernels/mask/mask.h"
#include "runtime/threads/parallel.h"

namespace rankforge {

RankedLayer RankLayer(const std::string& module, Matrix<float> w,
                      const Matrix<float>& x, RankBasis basis,
                      const RankGrid& grid, Executor& executor) {
  Matrix<float> z = RankActivations(basis.b, x, executor);
  RankSearch search(z, w.rows, w.cols, grid, executor);
  return {module,       std::move(w),      &x, std::move(basis),
          std::move(z), std::move(search), {}};
}

Result<std::vector<RankedLayer>> RankLayers(
    const std::vector<std::string>& modules, std::vector<Matrix<float>> w,
    const Matrix<float>& x, const RankGrid& grid, Executor& executor) {
  std::vector<RankBasis> bases;
  {
    RANKFORGE_ASSIGN_OR_RETURN(const Matrix<double> moments,
                               RegularMoments(SecondMoments(x, executor)));
    std::vector<BasisProblem> problems;
    for (const Matrix<float>& weights : w) {
      problems.push_back({&weights, &moments});
    }
    RANKFORGE_ASSIGN_OR_RETURN(bases, MakeRankBases(problems, executor));
  }
  std::vector<RankedLayer> layers;
  for (size_t i = 0; i < w.size(); ++i) {
    layers.push_back(RankLayer(modules[i], std::move(w[i]), x,
                               std::move(bases[i]), grid, executor));
  }
  return layers;
}

void LayerForm::Run(size_t begin, size_t count, float* y) const {
  const Matrix<float>& w = layer->w;
  const std::vector<float>& bias = layer->bias;
  for (size_t t = 0; t < count && !bias.empty(); ++t) {
    std::copy(bias.begin(), bias.end(), y + t * w.rows);
  }
  const float beta = bias.empty() ? 0.0f : 1.0f;
  if (d == 0) {
    Multiply(MatrixView(*layer->x).Rows(begin, count), Transposed(w),
             {y, count, w.rows}, beta);
    return;
  }
  Matrix<float> masked(d, count);
  for (size_t k = 0; k < d; ++k) {
    const float* from = layer->z.row(k) + begin;
    float* to = masked.row(k);
    for (size_t t = 0; t < count; ++t) {
      to[t] = Keeps(from[t], tau) ? from[t] : 0.0f;
    }
  }
  Multiply(Transposed(masked), MatrixView(layer->basis.a).Rows(0, d),
           {y, count, w.rows}, beta);
}

LayerForm ExactForm(const RankedLayer& layer,
                    const std::optional<RankChoice>& choice,
                    Executor& executor) {
  if (!choice) return {&layer, 0, 0};
  const size_t tokens = layer.z.cols;
  const double kept = choice->kept * static_cast<double>(tokens);
  return {&layer, choice->d,
          MagnitudeThreshold({layer.z.values.data(), choice->d * tokens},
                             static_cast<size_t>(kept), executor)};
}

Status RefitRankAdapter(const LayerForm& form, Executor& executor,
                        RankAdapter& adapter) {
  const Matrix<float>& z = form.layer->z;
  const Matrix<float>& a = form.layer->basis.a;
  const size_t d = form.d, rank = z.rows, tokens = z.cols;
  Matrix<float> all(tokens, rank), kept(tokens, d);
  ForTiles(executor, tokens, [&](size_t begin, size_t count, size_t, size_t) {
    for (size_t k = 0; k < rank; ++k) {
      for (size_t t = begin; t < begin + count; ++t) {
        const float v = z.row(k)[t];
        all.row(t)[k] = v;
        if (k < d) kept.row(t)[k] = Keeps(v, form.tau) ? v : 0.0f;
      }
    }
  });
  Matrix<double> gram = SecondMoments(kept, executor);
  const Matrix<double> cross = CrossMoments(kept, all, executor);  // (d, rank)
  double energy = 0, mean = 0;
  for (const float v : all.values) energy += static_cast<double>(v) * v;
  for (size_t k = 0; k < d; ++k) mean += gram.row(k)[k];
  // A ridge that draws M towards the identity, and so A' towards A.
  const double ridge = 1e-4 * mean / static_cast<double>(d);
  Matrix<double> right = cross;
  for (size_t k = 0; k < d; ++k) {
    gram.row(k)[k] += ridge;
    right.row(k)[k] += ridge;
  }
  RANKFORGE_ASSIGN_OR_RETURN(const Matrix<double> mixed,  // M, (d, rank)
                             SolvePositive(std::move(gram), right, executor));

  // |z - M^T u|^2 summed = |z|^2 - 2 <M, U^T Z> + <M, G M>, and (G + ridge) M
  // is `right`. That is the squared output error, in the metric of the basis.
  double error = energy;
  for (size_t k = 0; k < d; ++k) {
    for (size_t i = 0; i < rank; ++i) {
      const double m = mixed.row(k)[i];
      error += m * (right.row(k)[i] - ridge * m - 2 * cross.row(k)[i]);
    }
  }
  adapter.error = error / energy;

  Multiply(executor, Narrow(mixed), a, {adapter.a.data(), d, a.cols});
  return {};
}

RankAdapter MakeRankAdapter(const LayerForm& form, Executor& executor) {
  const RankedLayer& layer = *form.layer;
  const Matrix<float>& z = layer.z;
  const size_t d = form.d;
  RankAdapter adapter;
  adapter.module = layer.module;
  adapter.rows = layer.w.rows;
  adapter.cols = layer.w.cols;
  adapter.d = d;
  adapter.a.assign(layer.basis.a.row(0), layer.basis.a.row(d));
  adapter.b.assign(layer.basis.b.row(0), layer.basis.b.row(d));
  adapter.tau.assign(d, form.tau);

  // The dropped z^2 are the squared output error, in the metric of the basis.
  std::vector<uint32_t> by_rank(d);
  std::vector<double> total(z.rows);
  std::vector<double> dropped(z.rows);
  ParallelFor(executor, z.rows, [&](size_t k, size_t) {
    for (const float* v = z.row(k); v != z.row(k + 1); ++v) {
      const double energy = static_cast<double>(*v) * *v;
      total[k] += energy;
      if (k < d && Keeps(*v, form.tau)) {
        ++by_rank[k];
      } else {
        dropped[k] += energy;
      }
    }
  });
  std::vector<uint32_t> by_token(z.cols);
  for (size_t k = 0; k < d; ++k) {
    for (size_t t = 0; t < z.cols; ++t) {
      by_token[t] += Keeps(z.row(k)[t], form.tau);
    }
  }
  KeepStatistics statistics = SummarizeKept(by_rank, std::move(by_token));
  adapter.keep_frequency = std::move(statistics.frequency);
  adapter.density = statistics.density;
  adapter.density_quantiles = std::move(statistics.density_quantiles);
  double all = 0;
  for (size_t k = 0; k < z.rows; ++k) {
    all += total[k];
    adapter.error += dropped[k];
  }
  adapter.error /= all;
  return adapter;
}

}  // namespace rankforge
