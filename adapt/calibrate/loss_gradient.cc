#include "adapt/calibrate/loss_gradient.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "adapt/calibrate/load_weights.h"
#include "kernels/layer/elementwise.h"
#include "kernels/mask/mask.h"
#include "runtime/model/forward/attention.h"
#include "runtime/model/forward/kv_cache.h"
#include "runtime/model/forward/norm.h"
#include "runtime/model/weights/folded_weights.h"
#include "runtime/model/weights/modules.h"
#include "runtime/threads/parallel.h"

namespace rankforge {
namespace {

constexpr size_t kLogitTokens = 256;  // their logits are in memory at once

// y = W x + bias, for all projections that read the same x, stacked, or what
// an adapter makes of it: y = W (m x) + bias or y = A (m B x) + bias. W and
// bias are those of FoldedWeights: with the gain and the bias of the mask, and
// in the basis of the block.
struct Linear {
  Matrix<float> w;          // (rows, cols)
  std::vector<float> bias;  // (rows,) or empty
  // Of the adapter, one of them at most.
  const InputMask* mask = nullptr;
  const RankAdapter* rank = nullptr;

  MatrixView<const float> a() const {
    return {rank->a.data(), rank->d, w.rows};
  }
  MatrixView<const float> b() const {
    return {rank->b.data(), rank->d, w.cols};
  }
};

// A block, and what an adapter makes of it.
struct BlockLayers {
  const FoldedWeights& weights;
  const BlockSpec& dense;
  const BlockSpec& adapted;
  const Adapter* adapter = nullptr;  // null: it is dense

  Result<Linear> Load(Site site) const {
    const std::string& name = dense[site].name;
    Linear linear;
    if (adapter != nullptr) {
      const auto mask = adapter->masks.find(name);
      if (mask != adapter->masks.end()) linear.mask = &mask->second;
      const auto rank = adapter->ranks.find(name);
      if (rank != adapter->ranks.end()) linear.rank = &rank->second;
    }
    RANKFORGE_ASSIGN_OR_RETURN(
        linear.w, LoadWeights(weights, dense[site].direct.front().tensors));
    const ProjectionSpec& projection = adapted[site];
    const ProductSpec& product = projection.direct.empty()
                                     ? projection.a.front()
                                     : projection.direct.front();
    for (const TensorShape& bias : product.biases) {
      RANKFORGE_ASSIGN_OR_RETURN(const std::vector<float> values,
                                 weights.Vector(bias.name, bias.cols));
      linear.bias.insert(linear.bias.end(), values.begin(), values.end());
    }
    return linear;
  }
};

// Sets to 0 what `values` (tokens, cols) has where `decisive` is dropped.
void Mask(const Matrix<float>& decisive, const std::vector<float>& tau,
          Matrix<float>& values, Executor& executor) {
  ParallelFor(executor, values.rows, [&](size_t t, size_t) {
    for (size_t j = 0; j < values.cols; ++j) {
      if (!Keeps(decisive.row(t)[j], tau[j])) values.row(t)[j] = 0;
    }
  });
}

// B x of the rank adapter, for the first rows of x.
Matrix<float> RanksOf(const Linear& linear, const Matrix<float>& x,
                      size_t tokens, Executor& executor) {
  Matrix<float> z(tokens, linear.rank->d);
  Multiply(executor, MatrixView(x).Rows(0, tokens), Transposed(linear.b()), z);
  return z;
}

// (tokens, rows) of the first rows of x.
Matrix<float> Forward(const Linear& linear, const Matrix<float>& x,
                      size_t tokens, Executor& executor) {
  const Matrix<float>& w = linear.w;
  Matrix<float> y(tokens, w.rows);
  if (linear.rank != nullptr) {
    Matrix<float> z = RanksOf(linear, x, tokens, executor);
    Mask(z, linear.rank->tau, z, executor);
    Multiply(executor, z, linear.a(), y);
  } else if (linear.mask != nullptr) {
    Matrix<float> masked = Rows(x, 0, tokens);
    Mask(masked, linear.mask->tau, masked, executor);
    Multiply(executor, masked, Transposed(w), y);
  } else {
    Multiply(executor, MatrixView(x).Rows(0, tokens), Transposed(w), y);
  }
  for (size_t t = 0; t < tokens && !linear.bias.empty(); ++t) {
    AddInPlace(linear.bias.data(), w.rows, y.row(t));
  }
  return y;
}

// The gradients at gain and bias, for dy (tokens, rows) at y and the masked dx
// (tokens, cols) at x.
MaskGradient GradientOf(const Linear& linear, const Matrix<float>& x,
                        const Matrix<float>& dy, const Matrix<float>& dx) {
  std::vector<double> gain(dx.cols), bias(dy.cols);
  for (size_t t = 0; t < dy.rows; ++t) {
    for (size_t j = 0; j < dx.cols; ++j) {
      gain[j] += static_cast<double>(dx.row(t)[j]) * x.row(t)[j];
    }
    for (size_t i = 0; i < dy.cols; ++i) bias[i] += dy.row(t)[i];
  }
  MaskGradient gradient{{}, {bias.begin(), bias.end()}};
  const std::vector<float>& gains = linear.mask->gain;
  for (size_t j = 0; j < dx.cols; ++j) {
    // dx has the gain as a factor.
    if (!gains.empty()) gain[j] /= gains[j];
    gradient.gain.push_back(static_cast<float>(gain[j]));
  }
  return gradient;
}

// The gradient at x, for the gradient dy (tokens, rows) at y, of what the
// adapter makes of the projection.
Matrix<float> BackwardAdapted(const Linear& linear, const Matrix<float>& x,
                              const Matrix<float>& dy, MaskGradient& gradient,
                              Executor& executor) {
  if (linear.rank != nullptr) {
    const Matrix<float> z = RanksOf(linear, x, dy.rows, executor);
    Matrix<float> dz(dy.rows, linear.rank->d);
    Multiply(executor, dy, Transposed(linear.a()), dz);
    Mask(z, linear.rank->tau, dz, executor);
    Matrix<float> dx(dy.rows, linear.w.cols);
    Multiply(executor, dz, linear.b(), dx);
    return dx;
  }
  Matrix<float> dx = Product(executor, dy, linear.w);
  if (linear.mask == nullptr) return dx;
  Mask(x, linear.mask->tau, dx, executor);
  gradient = GradientOf(linear, x, dy, dx);
  return dx;
}

// The gradient dy W at x, for the gradient dy (tokens, rows) at y: that of the
// dense projection, also for an adapted one. Adds to `effect` the product of dy
// and what the adapter changes y by, summed.
Matrix<float> Backward(const Linear& linear, const Matrix<float>& x,
                       const Matrix<float>& dy, double& effect,
                       Executor& executor) {
  Matrix<float> dx = Product(executor, dy, linear.w);
  const size_t used = dx.values.size();
  if (linear.mask != nullptr) {
    Matrix<float> dropped = dx;
    Mask(x, linear.mask->tau, dropped, executor);
    for (size_t i = 0; i < used; ++i) {
      effect += static_cast<double>(dropped.values[i] - dx.values[i]) *
                static_cast<double>(x.values[i]);
    }
  }
  if (linear.rank != nullptr) {
    const Matrix<float> z = RanksOf(linear, x, dy.rows, executor);
    Matrix<float> dz(dy.rows, linear.rank->d);
    Multiply(executor, dy, Transposed(linear.a()), dz);
    Mask(z, linear.rank->tau, dz, executor);
    effect += std::inner_product(dz.values.begin(), dz.values.end(),
                                 z.values.begin(), 0.0);
    effect -= std::inner_product(dx.values.begin(), dx.values.end(),
                                 x.values.begin(), 0.0);
  }
  return dx;
}

// dx (hidden,): the gradient at x, where dy is the gradient after the norm.
// With v = (x - mean) / deviation and g = dy * weight:
//   dx = (g - v mean(g v) - mean(g)) / deviation
// For RMS norms `mean` is 0 and the term mean(g) is left out.
void NormBackward(const ModelConfig& config, const Norm& norm, const float* x,
                  const float* dy, float* dx) {
  const std::vector<float>& weight = norm.weight();
  const size_t n = weight.size();
  const auto count = static_cast<double>(n);
  const bool centred = norm.kind() == NormKind::kLayer;
  const double mean = centred ? std::accumulate(x, x + n, 0.0) / count : 0;
  double square = 0;
  for (size_t i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean);
  const double inverse =
      1 / std::sqrt(square / count + static_cast<double>(config.norm_epsilon));
  double sum = 0, along = 0;
  for (size_t i = 0; i < n; ++i) {
    const double g = static_cast<double>(dy[i]) * weight[i];
    sum += g / count;
    along += g * (x[i] - mean) * inverse / count;
  }
  if (!centred) sum = 0;
  for (size_t i = 0; i < n; ++i) {
    const double g = static_cast<double>(dy[i]) * weight[i];
    const double v = (x[i] - mean) * inverse;
    dx[i] = static_cast<float>((g - v * along - sum) * inverse);
  }
}

// Adds to `dx` the gradient at x, where dy is the gradient after the norm, or
// at x itself if there is no norm.
void AddNormBackward(const ModelConfig& config, const Norm& norm,
                     const Matrix<float>& x, const Matrix<float>& dy,
                     Matrix<float>& dx, Executor& executor) {
  if (!norm.exists()) {
    AddInPlace(dy.values.data(), dy.values.size(), dx.values.data());
    return;
  }
  ParallelFor(executor, dy.rows, [&](size_t t, size_t) {
    std::vector<float> row(dy.cols);
    NormBackward(config, norm, x.row(t), dy.row(t), row.data());
    AddInPlace(row.data(), dy.cols, dx.row(t));
  });
}

// The norms of a block that are not before a projection.
struct InnerNorms {
  Norm attention_out;
  Norm mlp_out;
  Norm q;
  Norm k;

  static Result<InnerNorms> Load(const BlockSpec& block,
                                 const ModelConfig& config,
                                 const WeightSource& weights) {
    InnerNorms norms;
    for (const auto& [norm, spec] :
         {std::pair(&norms.attention_out, &block.attention_out_norm),
          std::pair(&norms.mlp_out, &block.mlp_out_norm),
          std::pair(&norms.q, &block.q_norm),
          std::pair(&norms.k, &block.k_norm)}) {
      RANKFORGE_ASSIGN_OR_RETURN(*norm, Norm::Load(*spec, config, weights));
    }
    return norms;
  }

  // Calls use(norm, offset) for every run of a token's qkv that has a norm.
  template <class Use>
  void ForHeads(const ModelConfig& config, size_t layer, Use use) const {
    if (!q.exists()) return;
    const size_t q_rows = config.q_rows(layer);
    const size_t k_end = q_rows + config.k_rows(layer);
    for (size_t at = 0; at < q_rows; at += q.size()) use(q, at);
    for (size_t at = q_rows; at < k_end; at += k.size()) use(k, at);
  }
};

// The gradient at what projection `linear` adds to the hidden values, before
// the norm of it, if there is one. `x` is what the projection reads.
Matrix<float> OutNormBackward(const ModelConfig& config, const Norm& norm,
                              const Linear& linear, const Matrix<float>& x,
                              const Matrix<float>& gradient,
                              Executor& executor) {
  if (!norm.exists()) return gradient;
  Matrix<float> before(gradient.rows, gradient.cols);
  AddNormBackward(config, norm, Forward(linear, x, gradient.rows, executor),
                  gradient, before, executor);
  return before;
}

// RotateGroup by the opposite angles, in a token's gradients. With the second
// element of every pair mirrored, a rotation turns the other way.
void RotateGroupBack(const ModelConfig& config, size_t layer, size_t kv_head,
                     size_t position, const KvCache& angles, float* dqkv) {
  const HeadOffsets at(config, layer);
  const size_t group = config.heads / config.kv_heads;
  const size_t pairs = config.rotated(layer) / 2;
  const auto mirror = [pairs](float* head) {
    for (size_t i = pairs; i < 2 * pairs; ++i) head[i] = -head[i];
  };
  const auto mirror_group = [&] {
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      mirror(dqkv + at.q(head));
    }
    mirror(dqkv + at.k(kv_head));
  };
  mirror_group();
  RotateGroup(config, layer, kv_head, position, angles, dqkv);
  mirror_group();
}

struct Slope {
  double value, slope;
};

Slope SlopeOf(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu: {
      const double s = 1 / (1 + std::exp(-x));
      return {x * s, s * (1 + x * (1 - s))};
    }
    case Activation::kGelu: {
      const double phi = std::erfc(-x / std::sqrt(2.0)) / 2;
      constexpr double kRootTwoPi = 2.50662827463100050242;
      return {x * phi, phi + x * std::exp(-x * x / 2) / kRootTwoPi};
    }
    case Activation::kGeluTanh:
      break;
  }
  constexpr double kScale = 0.79788456080286535588, kCube = 0.044715;
  const double t = std::tanh(kScale * (x + kCube * x * x * x));
  return {x * (1 + t) / 2,
          (1 + t) / 2 + x * (1 - t * t) / 2 * kScale * (1 + 3 * kCube * x * x)};
}

// From the gradient dh at h = act(gate) * up, or act(up), to that at gate and
// up: `gate_up` (tokens, mlp_in_rows) holds their values, which their gradients
// replace.
void ActivationBackward(const ModelConfig& config, const Matrix<float>& dh,
                        Matrix<float>& gate_up, Executor& executor) {
  const size_t width = dh.cols;
  ParallelFor(executor, dh.rows, [&](size_t t, size_t) {
    float* const gate = gate_up.row(t);
    float* const up = gate + width;
    for (size_t i = 0; i < width; ++i) {
      const Slope act = SlopeOf(config.activation, gate[i]);
      const double d = dh.row(t)[i];
      if (config.gated_mlp) {
        gate[i] = static_cast<float>(d * up[i] * act.slope);
        up[i] = static_cast<float>(d * act.value);
      } else {
        gate[i] = static_cast<float>(d * act.slope);
      }
    }
  });
}

// The slope of cap * tanh(x / cap), where that has this value.
float CapSlope(float cap, float value) {
  return 1 - value / cap * (value / cap);
}

// One query head over one window. `qkv` (window, qkv_rows) holds rotated
// values, `dqkv` receives gradients at them; `dout` (window, o_cols).
struct HeadBackward {
  const ModelConfig& config;
  size_t layer;
  size_t window;
  const float* qkv;
  const float* dout;
  float* dqkv;

  void Run(size_t head, bool first_of_group) const {
    const size_t qk = config.qk_dim(layer), vo = config.vo_dim(layer);
    const size_t stride = config.qkv_rows(layer);
    const size_t out_stride = config.o_cols(layer);
    const HeadOffsets at(config, layer);
    const size_t kv_head = head / (config.heads / config.kv_heads);
    using View = MatrixView<const float>;
    const View q(qkv + at.q(head), window, qk, stride);
    const View k(qkv + at.k(kv_head), window, qk, stride);
    const View v(qkv + at.v(kv_head), window, vo, stride);
    const View d(dout + head * vo, window, vo, out_stride);
    const float scale = AttentionScale(config);

    // P = softmax(scale q k^T), and the gradient at it, d v^T.
    Matrix<float> p(window, window), dp(window, window);
    std::vector<float> caps(window, 1.0f);  // slopes of the cap
    const auto cap = static_cast<float>(config.score_cap);
    Multiply(q, Transposed(k), p);
    Multiply(d, Transposed(v), dp);
    for (size_t t = 0; t < window; ++t) {
      float* const line = p.row(t);
      float* const slope = dp.row(t);
      const size_t seen = t + 1, first = FirstSeen(config, layer, seen);
      for (size_t i = first; i < seen; ++i) line[i] *= scale;
      if (cap > 0) {
        CapScores(cap, line + first, seen - first);
        for (size_t i = first; i < seen; ++i) caps[i] = CapSlope(cap, line[i]);
      }
      Softmax(line + first, seen - first);
      std::fill(line, line + first, 0.0f);
      std::fill(line + seen, line + window, 0.0f);
      // Through the softmax: dS = P * (dP - sum P dP), scaled.
      const double mean =
          std::inner_product(line + first, line + seen, slope + first, 0.0);
      for (size_t i = 0; i < window; ++i) {
        slope[i] =
            line[i] * (slope[i] - static_cast<float>(mean)) * caps[i] * scale;
      }
    }
    const Matrix<float>& ds = dp;
    const float add = first_of_group ? 0.0f : 1.0f;
    Multiply(ds, k, {dqkv + at.q(head), window, qk, stride});
    Multiply(Transposed(ds), q, {dqkv + at.k(kv_head), window, qk, stride},
             add);
    Multiply(Transposed(p), d, {dqkv + at.v(kv_head), window, vo, stride}, add);
  }
};

// From the gradient at the heads' results to that at `qkv` (tokens, qkv_rows).
// `qkv` holds the values before rotation, and is rotated in place.
Matrix<float> AttentionBackward(const Model& model, size_t layer, size_t window,
                                const Matrix<float>& dout, Matrix<float>& qkv,
                                Executor& executor) {
  const ModelConfig& config = model.config();
  KvCache angles(config, WeightType::kF32, window);
  angles.Begin(window);
  const size_t group = config.heads / config.kv_heads;
  Matrix<float> dqkv(qkv.rows, qkv.cols);
  const size_t windows = qkv.rows / window;
  ParallelFor(executor, windows * config.kv_heads, [&](size_t item, size_t) {
    const size_t begin = item / config.kv_heads * window;
    const size_t kv_head = item % config.kv_heads;
    for (size_t t = 0; t < window; ++t) {
      RotateGroup(config, layer, kv_head, t, angles, qkv.row(begin + t));
    }
    const HeadBackward back{config,         layer,           window,
                            qkv.row(begin), dout.row(begin), dqkv.row(begin)};
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      back.Run(head, head == kv_head * group);
    }
    for (size_t t = 0; t < window; ++t) {
      RotateGroupBack(config, layer, kv_head, t, angles, dqkv.row(begin + t));
    }
  });
  return dqkv;
}

// Calls use(begin, p, caps) with the predictions p (count, vocab) of rows
// [begin, begin + count) of `hidden`, and, if logits are capped, the slopes of
// their cap.
template <class Use>
void Predict(Model& model, const Matrix<float>& hidden, Use use) {
  for (size_t begin = 0; begin < hidden.rows; begin += kLogitTokens) {
    const size_t count = std::min(kLogitTokens, hidden.rows - begin);
    Matrix<float> p(count, model.config().vocab);
    model.FinalLogits(hidden.row(begin), count, p.values.data());
    const auto cap = static_cast<float>(model.config().logit_cap);
    std::vector<float> caps;
    if (cap > 0) {
      for (const float logit : p.values) caps.push_back(CapSlope(cap, logit));
    }
    ParallelFor(model.executor(), count,
                [&](size_t t, size_t) { Softmax(p.row(t), p.cols); });
    use(begin, p, caps);
  }
}

}  // namespace

std::vector<int> DrawLabels(Model& model, const Matrix<float>& hidden,
                            uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int> labels;
  Predict(model, hidden, [&](size_t, const Matrix<float>& p, const auto&) {
    for (size_t t = 0; t < p.rows; ++t) {
      // 53 bits, as distributions may differ between standard libraries.
      double left = static_cast<double>(random() >> 11) * 0x1p-53;
      size_t label = 0;
      while (label + 1 < p.cols && left >= p.row(t)[label]) {
        left -= p.row(t)[label++];
      }
      labels.push_back(static_cast<int>(label));
    }
  });
  return labels;
}

namespace {

// The gradient at `hidden`, where that at the logits is the predictions less
// what subtract(begin, p) takes off them.
template <class Subtract>
Result<Matrix<float>> LogitsBackward(Model& model, const WeightSource& weights,
                                     const Matrix<float>& hidden,
                                     Subtract subtract) {
  const ModelConfig& config = model.config();
  const ModelSpec spec = DescribeModel(config, nullptr);
  RANKFORGE_ASSIGN_OR_RETURN(const Norm norm,
                             Norm::Load(spec.final_norm, config, weights));
  RANKFORGE_ASSIGN_OR_RETURN(const Matrix<float> w,
                             LoadWeights(weights, spec.lm_head.tensors));
  Matrix<float> normed(hidden.rows, config.hidden);
  Predict(model, hidden,
          [&](size_t begin, Matrix<float>& p, const std::vector<float>& caps) {
            subtract(begin, p);
            for (size_t i = 0; i < caps.size(); ++i) p.values[i] *= caps[i];
            const Matrix<float> part = Product(model.executor(), p, w);
            std::copy(part.values.begin(), part.values.end(),
                      normed.row(begin));
          });
  Matrix<float> gradient(hidden.rows, config.hidden);
  AddNormBackward(config, norm, hidden, normed, gradient, model.executor());
  return gradient;
}

}  // namespace

Result<Matrix<float>> OutputGradient(Model& model, const WeightSource& weights,
                                     const Matrix<float>& hidden,
                                     std::span<const int> labels) {
  return LogitsBackward(
      model, weights, hidden, [&](size_t begin, Matrix<float>& p) {
        for (size_t t = 0; t < p.rows; ++t) {
          p.row(t)[static_cast<size_t>(labels[begin + t])] -= 1;
        }
      });
}

Result<Matrix<float>> DivergenceGradient(Model& model,
                                         const WeightSource& weights,
                                         const Matrix<float>& hidden,
                                         const Matrix<float>& dense) {
  return LogitsBackward(
      model, weights, hidden, [&](size_t begin, Matrix<float>& p) {
        ParallelFor(model.executor(), p.rows, [&](size_t t, size_t) {
          const float* const logs = dense.row(begin + t);
          for (size_t i = 0; i < p.cols; ++i) {
            p.row(t)[i] -= std::exp(logs[i]);
          }
        });
      });
}

namespace {

// Takes the predictions of `dense`, from row `begin` on, off those in `q`
// (count, vocab). Returns the sum of their divergences.
double SubtractPredictions(Model& model, const Matrix<float>& dense,
                           size_t begin, Matrix<float>& q) {
  Matrix<float> p(q.rows, q.cols);
  model.FinalLogits(dense.row(begin), p.rows, p.values.data());
  std::vector<double> sums(p.rows);
  ParallelFor(model.executor(), p.rows, [&](size_t t, size_t) {
    Softmax(p.row(t), p.cols);
    for (size_t i = 0; i < p.cols; ++i) {
      const double from = p.row(t)[i], to = q.row(t)[i];
      // Either may be too small for a float.
      if (from > 0) sums[t] += from * std::log(from / std::max(to, 1e-38));
      q.row(t)[i] -= p.row(t)[i];
    }
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace

double Divergence(Model& model, const Matrix<float>& hidden,
                  const Matrix<float>& dense) {
  double divergence = 0;
  Predict(model, hidden, [&](size_t begin, Matrix<float>& q, const auto&) {
    divergence += SubtractPredictions(model, dense, begin, q);
  });
  return divergence;
}

Result<Matrix<float>> DivergenceGradientFrom(Model& model,
                                             const WeightSource& weights,
                                             const Matrix<float>& hidden,
                                             const Matrix<float>& dense,
                                             double& divergence) {
  return LogitsBackward(
      model, weights, hidden, [&](size_t begin, Matrix<float>& q) {
        divergence += SubtractPredictions(model, dense, begin, q);
      });
}

namespace {

// From dy at the output of the projection that reads x at `site` to x, as
// `adapted` asks.
Matrix<float> BackwardAt(Site site, const AdaptedBlock& adapted,
                         const Linear& linear, const Matrix<float>& x,
                         const Matrix<float>& dy, Executor& executor) {
  if (adapted.gradients != nullptr) {
    return BackwardAdapted(linear, x, dy, (*adapted.gradients)[site], executor);
  }
  double unused = 0;
  return Backward(
      linear, x, dy,
      adapted.effects != nullptr ? (*adapted.effects)[site] : unused, executor);
}

// Through the MLP: from `gradient` at its output to the gradients at what down
// reads, and at what gate and up read.
Status MlpBackward(Model& model, const BlockLayers& block,
                   const AdaptedBlock& adapted, const Norm& out_norm,
                   const SiteInputs& inputs, const Matrix<float>& gradient,
                   SiteGradients& sites) {
  Executor& executor = model.executor();
  {
    const Matrix<float>& x = inputs[Site::kMlpHidden];
    RANKFORGE_ASSIGN_OR_RETURN(const Linear down, block.Load(Site::kMlpHidden));
    sites[Site::kMlpHidden] = BackwardAt(
        Site::kMlpHidden, adapted, down, x,
        OutNormBackward(model.config(), out_norm, down, x, gradient, executor),
        executor);
  }
  const Matrix<float>& x = inputs[Site::kMlpInput];
  RANKFORGE_ASSIGN_OR_RETURN(const Linear gate_up, block.Load(Site::kMlpInput));
  Matrix<float> values = Forward(gate_up, x, gradient.rows, executor);
  ActivationBackward(model.config(), sites[Site::kMlpHidden], values, executor);
  sites[Site::kMlpInput] =
      BackwardAt(Site::kMlpInput, adapted, gate_up, x, values, executor);
  return {};
}

// Through attention: from the gradient at what o reads to that at what q, k and
// v read.
Status QkvBackward(const Model& model, const BlockLayers& block, size_t layer,
                   size_t window, const AdaptedBlock& adapted,
                   const InnerNorms& norms, const SiteInputs& inputs,
                   SiteGradients& sites, Executor& executor) {
  const ModelConfig& config = model.config();
  const Matrix<float>& x = inputs[Site::kAttentionInput];
  RANKFORGE_ASSIGN_OR_RETURN(const Linear qkv,
                             block.Load(Site::kAttentionInput));
  const Matrix<float>& dout = sites[Site::kAttentionOutput];
  const Matrix<float> raw = Forward(qkv, x, dout.rows, executor);
  Matrix<float> values = raw;
  for (size_t t = 0; t < values.rows; ++t) {
    norms.ForHeads(config, layer, [&](const Norm& norm, size_t at) {
      norm.Run(values.row(t) + at, values.row(t) + at);
    });
  }
  Matrix<float> dqkv =
      AttentionBackward(model, layer, window, dout, values, executor);
  for (size_t t = 0; t < dqkv.rows; ++t) {
    norms.ForHeads(config, layer, [&](const Norm& norm, size_t at) {
      NormBackward(config, norm, raw.row(t) + at, dqkv.row(t) + at,
                   dqkv.row(t) + at);
    });
  }
  sites[Site::kAttentionInput] =
      BackwardAt(Site::kAttentionInput, adapted, qkv, x, dqkv, executor);
  return {};
}

// (hidden, hidden): the product `turn` of hidden values; empty: there is none.
Result<Matrix<float>> LoadTurn(const WeightSource& weights,
                               const std::optional<ProjectionSpec>& turn) {
  if (!turn) return Matrix<float>();
  return LoadWeights(weights, turn->direct.front().tensors);
}

// What a block reads of `hidden`, in its own basis: `enter` is LoadTurn's.
Matrix<float> Entered(const Matrix<float>& hidden, size_t tokens,
                      const Matrix<float>& enter, Executor& executor) {
  if (enter.rows == 0) return Rows(hidden, 0, tokens);
  Matrix<float> entered(tokens, hidden.cols);
  Multiply(executor, MatrixView(hidden).Rows(0, tokens), Transposed(enter),
           entered);
  return entered;
}

// The gradient at the bias of a mask, which is in the basis of h, for that in
// the basis Q: P Q gradient.
void TurnBiasGradient(const ModelConfig& config, const RotationGroup& group,
                      std::vector<float>& gradient) {
  const size_t n = gradient.size();
  std::vector<double> turned(n);
  for (size_t i = 0; i < n; ++i) {
    turned[i] = std::inner_product(gradient.begin(), gradient.end(),
                                   group.q.begin() + i * n, 0.0);
  }
  const double mean = config.norm == NormKind::kLayer
                          ? std::accumulate(turned.begin(), turned.end(), 0.0) /
                                static_cast<double>(n)
                          : 0;
  for (size_t i = 0; i < n; ++i) {
    gradient[i] = static_cast<float>(turned[i] - mean);
  }
}

}  // namespace

Result<SiteGradients> BackThroughBlock(
    Model& model, const WeightSource& weights, size_t layer, size_t window,
    const Matrix<float>& hidden, const SiteInputs& inputs,
    Matrix<float>& gradient, const AdaptedBlock& adapted) {
  const ModelConfig& config = model.config();
  Executor& executor = model.executor();
  const size_t tokens = gradient.rows;
  const FoldedWeights folded(config, weights, adapted.adapter);
  const ModelSpec dense = DescribeModel(config, nullptr);
  const ModelSpec spec = DescribeModel(config, adapted.adapter);
  const BlockSpec& block = spec.blocks[layer];
  const BlockLayers layers{folded, dense.blocks[layer], block, adapted.adapter};
  RANKFORGE_ASSIGN_OR_RETURN(const Norm attention_norm,
                             Norm::Load(block.attention_norm, config, folded));
  RANKFORGE_ASSIGN_OR_RETURN(const Norm mlp_norm,
                             Norm::Load(block.mlp_norm, config, folded));
  RANKFORGE_ASSIGN_OR_RETURN(const InnerNorms norms,
                             InnerNorms::Load(block, config, folded));
  RANKFORGE_ASSIGN_OR_RETURN(const Matrix<float> enter,
                             LoadTurn(folded, block.enter));
  RANKFORGE_ASSIGN_OR_RETURN(const Matrix<float> leave,
                             LoadTurn(folded, block.leave));
  const Matrix<float> entered = Entered(hidden, tokens, enter, executor);
  if (leave.rows != 0) gradient = Product(executor, gradient, leave);
  SiteGradients sites;

  RANKFORGE_RETURN_IF_ERROR(MlpBackward(model, layers, adapted, norms.mlp_out,
                                        inputs, gradient, sites));
  // What the norm of the MLP reads also goes on beside the MLP.
  RANKFORGE_ASSIGN_OR_RETURN(const Linear o,
                             layers.Load(Site::kAttentionOutput));
  Matrix<float> before = gradient;  // at what the block reads
  if (config.parallel_blocks) {
    AddNormBackward(config, mlp_norm, entered, sites[Site::kMlpInput], before,
                    executor);
  } else {
    Matrix<float> between =
        Forward(o, inputs[Site::kAttentionOutput], tokens, executor);
    if (norms.attention_out.exists()) {
      for (size_t t = 0; t < tokens; ++t) {
        norms.attention_out.Run(between.row(t), between.row(t));
      }
    }
    AddInPlace(entered.values.data(), between.values.size(),
               between.values.data());
    AddNormBackward(config, mlp_norm, between, sites[Site::kMlpInput], gradient,
                    executor);
    before = gradient;
  }

  // Attention: `gradient` is at its output.
  sites[Site::kAttentionOutput] = BackwardAt(
      Site::kAttentionOutput, adapted, o, inputs[Site::kAttentionOutput],
      OutNormBackward(config, norms.attention_out, o,
                      inputs[Site::kAttentionOutput], gradient, executor),
      executor);
  RANKFORGE_RETURN_IF_ERROR(QkvBackward(model, layers, layer, window, adapted,
                                        norms, inputs, sites, executor));
  AddNormBackward(config, attention_norm, entered, sites[Site::kAttentionInput],
                  before, executor);
  gradient =
      enter.rows == 0 ? std::move(before) : Product(executor, before, enter);
  const RotationGroup* const group = adapted.adapter == nullptr
                                         ? nullptr
                                         : adapted.adapter->rotation.Of(layer);
  if (group == nullptr || adapted.gradients == nullptr) return sites;
  for (const Site site : kSites) {
    std::vector<float>& bias = (*adapted.gradients)[site].bias;
    if (!ReadsStream(site) && !bias.empty()) {
      TurnBiasGradient(config, *group, bias);
    }
  }
  return sites;
}

}  // namespace rankforge
