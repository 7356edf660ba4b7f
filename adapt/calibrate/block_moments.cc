#include "adapt/calibrate/block_moments.h"

#include <fmt/format.h>

#include <algorithm>

#include "adapt/calibrate/calibration.h"
#include "runtime/model/format/family.h"
#include "runtime/model/forward/attention.h"
#include "runtime/threads/parallel.h"

namespace rankforge {
namespace {

// Columns of moments per part: few, so that there are parts for all threads.
constexpr size_t kPanel = 64;

// Adds the second moments of `width` elements from x on, of tokens that lie
// `stride` apart. Fills the upper triangle alone, in panels that each add the
// tokens in order.
void AddMoments(const float* x, size_t stride, size_t tokens, size_t width,
                Executor& executor, Matrix<double>& moments) {
  Matrix<double> wide(tokens, width);
  ParallelFor(executor, tokens, [&](size_t token, size_t) {
    std::copy_n(x + token * stride, width, wide.row(token));
  });
  const size_t parts = (width + kPanel - 1) / kPanel;
  ParallelFor(executor, parts, [&](size_t part, size_t) {
    const size_t begin = part * kPanel;
    const size_t end = std::min(begin + kPanel, width);
    const MatrixView<const double> all = wide;
    const MatrixView<double> panel(moments);
    Multiply(Transposed(all.Columns(0, end)), all.Columns(begin, end - begin),
             panel.Rows(0, end).Columns(begin, end - begin), 1.0);
  });
}

void Mirror(Matrix<double>& moments) {
  for (size_t i = 0; i < moments.rows; ++i) {
    for (size_t j = 0; j < i; ++j) moments.row(i)[j] = moments.row(j)[i];
  }
}

class MomentCollector : public ActivationObserver {
 public:
  MomentCollector(const ModelConfig& config, bool correlations,
                  Executor& executor, BlockMoments& moments)
      : config_(config),
        correlations_(correlations),
        executor_(executor),
        moments_(moments) {
    const size_t qk = config.qk_dim(0), vo = config.vo_dim(0);
    moments_ = {};
    moments_.q.assign(config.kv_heads, Matrix<double>(qk, qk));
    moments_.k = moments_.q;
    moments_.v.assign(config.kv_heads, Matrix<double>(vo, vo));
    moments_.channels.assign(config.mlp_width(0), 0.0);
    if (correlations) {
      moments_.all_z = Matrix<double>(config.o_cols(0), config.o_cols(0));
      moments_.all_channels =
          Matrix<double>(config.mlp_width(0), config.mlp_width(0));
    } else {
      moments_.z.assign(config.heads, Matrix<double>(vo, vo));
    }
  }

  void Observe(size_t, Site site, const float* x, size_t tokens,
               size_t width) override {
    switch (site) {
      case Site::kAttentionOutput:
        if (correlations_) {
          return AddMoments(x, width, tokens, width, executor_, moments_.all_z);
        }
        for (size_t head = 0; head < config_.heads; ++head) {
          AddMoments(x + head * config_.vo_dim(0), width, tokens,
                     config_.vo_dim(0), executor_, moments_.z[head]);
        }
        return;
      case Site::kMlpHidden:
        if (correlations_) {
          return AddMoments(x, width, tokens, width, executor_,
                            moments_.all_channels);
        }
        for (size_t i = 0; i < tokens * width; ++i) {
          moments_.channels[i % width] += static_cast<double>(x[i]) * x[i];
        }
        return;
      case Site::kAttentionInput:
      case Site::kMlpInput:
        return;
    }
  }

  void ObserveOutput(size_t, Site site, const float* y, size_t tokens,
                     size_t width) override {
    if (site != Site::kAttentionInput) return;
    moments_.tokens += tokens;
    AddHeads(y, tokens, width);
  }

  void Finish() {
    for (auto* heads : {&moments_.q, &moments_.k, &moments_.v, &moments_.z}) {
      for (Matrix<double>& matrix : *heads) Mirror(matrix);
    }
    if (!correlations_) return;
    Mirror(moments_.all_z);
    Mirror(moments_.all_channels);
    const size_t vo = config_.vo_dim(0);
    for (size_t head = 0; head < config_.heads; ++head) {
      Matrix<double>& z = moments_.z.emplace_back(vo, vo);
      for (size_t i = 0; i < vo; ++i) {
        std::copy_n(moments_.all_z.row(head * vo + i) + head * vo, vo,
                    z.row(i));
      }
    }
    for (size_t i = 0; i < moments_.channels.size(); ++i) {
      moments_.channels[i] = moments_.all_channels.row(i)[i];
    }
  }

 private:
  void AddHeads(const float* x, size_t tokens, size_t width) {
    const HeadOffsets rows(config_, 0);
    const size_t group = config_.heads / config_.kv_heads;
    const auto add = [&](size_t offset, Matrix<double>& moments) {
      AddMoments(x + offset, width, tokens, moments.rows, executor_, moments);
    };
    for (size_t head = 0; head < config_.heads; ++head) {
      add(rows.q(head), moments_.q[head / group]);
    }
    for (size_t head = 0; head < config_.kv_heads; ++head) {
      add(rows.k(head), moments_.k[head]);
      add(rows.v(head), moments_.v[head]);
    }
  }

  const ModelConfig& config_;
  bool correlations_;
  Executor& executor_;
  BlockMoments& moments_;
};

std::string LayerPrefix(const ModelConfig& config, size_t layer) {
  return fmt::format("{}.{}.", FamilyOf(config).layers, layer);
}

}  // namespace

ModelConfig OneLayerConfig(const ModelConfig& config, size_t layer) {
  ModelConfig one = config;
  one.layers = 1;
  if (!config.layer_dims.empty()) one.layer_dims = {config.layer_dims[layer]};
  one.window = config.window_of(layer);
  one.windowed.clear();
  return one;
}

OneLayerWeights::OneLayerWeights(const ModelConfig& config, size_t layer,
                                 const WeightSource& base)
    : WeightsOver(base),
      from_(LayerPrefix(config, 0)),
      to_(LayerPrefix(config, layer)) {}

std::string OneLayerWeights::NameInBase(const std::string& name) const {
  return name.starts_with(from_) ? to_ + name.substr(from_.size()) : name;
}

Result<PackedMatrix> OneLayerWeights::Pack(std::span<const std::string> names,
                                           std::span<const size_t> rows,
                                           size_t cols, WeightType type,
                                           Layout layout) const {
  std::vector<std::string> in_base;
  for (const std::string& name : names) in_base.push_back(NameInBase(name));
  return base().Pack(in_base, rows, cols, type, layout);
}

Result<std::vector<float>> OneLayerWeights::Vector(const std::string& name,
                                                   size_t n) const {
  return base().Vector(NameInBase(name), n);
}

void RunLayer(Model& model, size_t window, bool correlations,
              Matrix<float>& hidden, BlockMoments& moments) {
  MomentCollector collector(model.config(), correlations, model.executor(),
                            moments);
  model.set_observer(&collector);
  RunBlock(model, 0, window, hidden);
  model.set_observer(nullptr);
  collector.Finish();
}

}  // namespace rankforge
