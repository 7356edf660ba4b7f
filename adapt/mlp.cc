#include "adapt/mlp.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "adapt/selection.h"
#include "runtime/model/parallel.h"

namespace rankforge {
namespace {

constexpr size_t kTile = 128;  // tokens: the outputs of all candidates in cache
constexpr size_t kShares = 18;

// Shares that a part may have: half to one and a half of what is equal.
size_t LeastShare(size_t parts) {
  return (kShares + 2 * parts - 1) / (2 * parts);
}
size_t MostShare(size_t parts) { return 3 * kShares / (2 * parts); }

// Calls function(begin, count, tile, worker) for tiles of tokens.
template <class F>
void ForTiles(Executor& executor, size_t tokens, F&& function) {
  const size_t tiles = (tokens + kTile - 1) / kTile;
  ParallelFor(executor, tiles, [&](size_t tile, size_t worker) {
    const size_t begin = tile * kTile;
    function(begin, std::min(kTile, tokens - begin), tile, worker);
  });
}

double SquaredNorm(const Matrix<float>& matrix) {
  double sum = 0;
  for (const float v : matrix.values) sum += static_cast<double>(v) * v;
  return sum;
}

// y (count, rows) = h (count, cols) down^T.
Matrix<float> Down(const Matrix<float>& down, const Matrix<float>& h) {
  Matrix<float> y(h.rows, down.rows);
  Multiply(
      h.rows, down.rows, down.cols, {.data = h.values.data(), .stride = h.cols},
      {.data = down.values.data(), .stride = down.cols, .transposed = true},
      0.0f, y.values.data(), y.cols);
  return y;
}

std::vector<float> ColumnNorms(const Matrix<float>& w) {
  std::vector<double> sums(w.cols);
  for (size_t i = 0; i < w.rows; ++i) {
    for (size_t j = 0; j < w.cols; ++j) {
      sums[j] += static_cast<double>(w.row(i)[j]) * w.row(i)[j];
    }
  }
  std::vector<float> norms;
  for (const double sum : sums) {
    norms.push_back(static_cast<float>(std::sqrt(sum)));
  }
  return norms;
}

// The threshold on |h_j| that |h_j| * norms[j] >= t means.
std::vector<float> FoldNorms(float t, const std::vector<float>& norms) {
  std::vector<float> tau;
  for (const float norm : norms) {
    // A column of zeros adds nothing, whatever its input.
    tau.push_back(norm > 0 ? t / norm : std::numeric_limits<float>::infinity());
  }
  return tau;
}

// h (tokens, mlp) of tokens [0, tokens).
Matrix<float> HiddenOf(const HiddenForm& form, size_t tokens,
                       Executor& executor) {
  const size_t mlp = form.up.layer->w.rows;
  Matrix<float> hidden(tokens, mlp);
  std::vector<std::vector<float>> scratch(executor.threads());
  ForTiles(executor, tokens,
           [&](size_t begin, size_t count, size_t, size_t worker) {
             float* h = hidden.row(begin);
             form.up.Run(begin, count, h);
             if (form.gate.layer == nullptr) {
               Activate(form.activation, h, nullptr, count * mlp, h);
               return;
             }
             scratch[worker].resize(count * mlp);
             float* gate = scratch[worker].data();
             form.gate.Run(begin, count, gate);
             Activate(form.activation, gate, h, count * mlp, h);
           });
  return hidden;
}

// |h_j| * norms[j] of every token, with the sign of h_j.
std::vector<float> Importance(const Matrix<float>& hidden,
                              const std::vector<float>& norms,
                              Executor& executor) {
  std::vector<float> importance(hidden.values.size());
  ForTiles(executor, hidden.rows,
           [&](size_t begin, size_t count, size_t, size_t) {
             for (size_t t = begin; t < begin + count; ++t) {
               const float* h = hidden.row(t);
               float* to = importance.data() + t * hidden.cols;
               for (size_t j = 0; j < hidden.cols; ++j) to[j] = h[j] * norms[j];
             }
           });
  return importance;
}

// The threshold that keeps the share `keep` of the values.
float ShareThreshold(const std::vector<float>& values, double keep,
                     Executor& executor) {
  const double count = keep * static_cast<double>(values.size());
  return MagnitudeThreshold(values, static_cast<size_t>(count), executor);
}

// What up or gate becomes for a share of the budget.
struct Option {
  bool possible = false;
  double cost = 0;                 // in units of the dense layer
  std::optional<RankChoice> rank;  // none: dense
};
using Options = std::vector<Option>;  // by share

Options OptionsOf(const RankedLayer& layer, double budget, size_t parts) {
  Options options(MostShare(parts) + 1);
  for (size_t share = LeastShare(parts); share < options.size(); ++share) {
    Option& option = options[share];
    const double cost = budget * static_cast<double>(share) / kShares;
    if (cost >= 1) {
      // The paper's code spends more than the dense layer here.
      option = {true, 1, std::nullopt};
      continue;
    }
    option.rank = layer.search.Best(cost);
    option.cost = cost;
    option.possible = option.rank.has_value();
  }
  return options;
}

// A gate that is not there: costs nothing and has no share.
Options NoOptions() {
  Options options(1);
  options.front().possible = true;
  return options;
}

LayerForm FormOf(const RankedLayer& layer,
                 const std::optional<RankChoice>& choice) {
  return choice ? LayerForm{&layer, choice->d, choice->tau} : LayerForm{&layer};
}

}  // namespace

std::optional<MlpSplit> SearchMlpSplit(const RankedMlp& mlp, double keep,
                                       size_t tokens, Executor& executor) {
  const size_t parts = mlp.matrices();
  const double budget = static_cast<double>(parts) * keep;
  const Matrix<float>& down = mlp.down;
  tokens = std::min(tokens, mlp.up.x->rows);
  const Options ups = OptionsOf(mlp.up, budget, parts);
  const Options gates =
      mlp.gate == nullptr ? NoOptions() : OptionsOf(*mlp.gate, budget, parts);

  const std::vector<float> norms = ColumnNorms(down);
  const Matrix<float> dense =
      HiddenOf({LayerForm{&mlp.up}, LayerForm{mlp.gate}, mlp.activation},
               tokens, executor);
  const std::vector<float> importance = Importance(dense, norms, executor);
  std::map<double, std::vector<float>> down_tau;  // by share kept
  std::vector<MlpSplit> splits;
  for (size_t u = 0; u < ups.size(); ++u) {
    for (size_t g = 0; g < gates.size(); ++g) {
      if (!ups[u].possible || !gates[g].possible) continue;
      const size_t d = kShares - u - g;
      if (d < LeastShare(parts) || d > MostShare(parts)) continue;
      // What a dense up or gate leaves over is down's.
      const double down_keep =
          std::min(1.0, budget - ups[u].cost - gates[g].cost);
      splits.push_back({.up_share = u,
                        .gate_share = g,
                        .down_share = d,
                        .up = ups[u].rank,
                        .gate = gates[g].rank,
                        .down_keep = down_keep});
      if (!down_tau.contains(down_keep)) {
        down_tau[down_keep] =
            FoldNorms(ShareThreshold(importance, down_keep, executor), norms);
      }
    }
  }
  if (splits.empty()) return std::nullopt;

  const size_t tiles = (tokens + kTile - 1) / kTile;
  std::vector<double> reference(tiles);
  Matrix<double> errors(tiles, splits.size());
  ForTiles(
      executor, tokens, [&](size_t begin, size_t count, size_t tile, size_t) {
        Matrix<float> h_dense(count, down.cols);
        const size_t size = h_dense.values.size();
        std::copy_n(dense.row(begin), size, h_dense.values.begin());
        reference[tile] = SquaredNorm(Down(down, h_dense));
        // Outputs of up and gate for every share, once.
        const auto outputs = [&](const RankedLayer& layer,
                                 const Options& options) {
          std::vector<std::vector<float>> y(options.size());
          for (size_t share = 0; share < options.size(); ++share) {
            if (!options[share].possible) continue;
            y[share].resize(size);
            FormOf(layer, options[share].rank)
                .Run(begin, count, y[share].data());
          }
          return y;
        };
        const auto up_outputs = outputs(mlp.up, ups);
        std::vector<std::vector<float>> gate_outputs;
        if (mlp.gate != nullptr) gate_outputs = outputs(*mlp.gate, gates);
        Matrix<float> h(count, down.cols);
        for (size_t s = 0; s < splits.size(); ++s) {
          const float* const up = up_outputs[splits[s].up_share].data();
          if (mlp.gate == nullptr) {
            Activate(mlp.activation, up, nullptr, size, h.values.data());
          } else {
            Activate(mlp.activation, gate_outputs[splits[s].gate_share].data(),
                     up, size, h.values.data());
          }
          const std::vector<float>& tau = down_tau.at(splits[s].down_keep);
          // down is linear: its output's error is its output on h's error.
          for (size_t t = 0; t < count; ++t) {
            float* v = h.row(t);
            for (size_t j = 0; j < down.cols; ++j) {
              const float kept = std::fabs(v[j]) >= tau[j] ? v[j] : 0.0f;
              v[j] = kept - h_dense.row(t)[j];
            }
          }
          errors.row(tile)[s] = SquaredNorm(Down(down, h));
        }
      });
  double total = 0;
  for (const double tile : reference) total += tile;
  for (size_t s = 0; s < splits.size(); ++s) {
    for (size_t tile = 0; tile < tiles; ++tile) {
      splits[s].error += errors.row(tile)[s] / total;
    }
  }
  return *std::min_element(
      splits.begin(), splits.end(),
      [](const MlpSplit& a, const MlpSplit& b) { return a.error < b.error; });
}

InputMask MakeDownMask(const std::string& module, const HiddenForm& form,
                       const Matrix<float>& down, double keep,
                       size_t error_tokens, Executor& executor) {
  const size_t tokens = form.up.layer->x->rows;
  const std::vector<float> norms = ColumnNorms(down);
  const Matrix<float> hidden = HiddenOf(form, tokens, executor);
  InputMask mask;
  mask.module = module;
  mask.cols = down.cols;
  mask.tau = FoldNorms(
      ShareThreshold(Importance(hidden, norms, executor), keep, executor),
      norms);

  std::vector<uint32_t> by_token(tokens);
  std::vector<std::vector<uint32_t>> by_neuron(
      executor.threads(), std::vector<uint32_t>(down.cols));
  const size_t tiles = (tokens + kTile - 1) / kTile;
  std::vector<double> reference(tiles);
  std::vector<double> error(tiles);
  ForTiles(executor, tokens,
           [&](size_t begin, size_t count, size_t tile, size_t worker) {
             Matrix<float> h(count, down.cols);
             std::copy_n(hidden.row(begin), count * down.cols,
                         h.values.begin());
             const bool measure = begin < error_tokens;
             if (measure) reference[tile] = SquaredNorm(Down(down, h));
             for (size_t t = 0; t < count; ++t) {
               for (size_t j = 0; j < down.cols; ++j) {
                 if (!(std::fabs(h.row(t)[j]) >= mask.tau[j])) continue;
                 ++by_neuron[worker][j];
                 ++by_token[begin + t];
                 h.row(t)[j] = 0;  // what is left is the error
               }
             }
             if (measure) error[tile] = SquaredNorm(Down(down, h));
           });
  for (size_t worker = 1; worker < by_neuron.size(); ++worker) {
    for (size_t j = 0; j < down.cols; ++j) {
      by_neuron[0][j] += by_neuron[worker][j];
    }
  }
  KeepStatistics statistics = SummarizeKept(by_neuron[0], std::move(by_token));
  mask.keep_frequency = std::move(statistics.frequency);
  mask.density = statistics.density;
  mask.density_quantiles = std::move(statistics.density_quantiles);
  double total = 0;
  for (size_t tile = 0; tile < tiles; ++tile) {
    total += reference[tile];
    mask.error += error[tile];
  }
  if (total > 0) mask.error /= total;
  return mask;
}

}  // namespace rankforge
