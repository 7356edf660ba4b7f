#include "adapt/survey.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "adapt/block_builder.h"
#include "adapt/calibration.h"
#include "runtime/model/parallel.h"

namespace rankforge {
namespace {

// Costs at which forms are compared.
constexpr double kCosts[] = {0.15, 0.2,  0.25, 0.3, 0.35, 0.4, 0.45,
                             0.5,  0.55, 0.6,  0.7, 0.8,  0.9};
// Those at which the divergence is measured; a straight line through them, and
// through nothing lost, tells it of other errors.
constexpr double kProbeCosts[] = {0.35, 0.6};
// On an eighth of the calibration tokens, at most so many.
constexpr size_t kProbeTokens = 2048;
// Tokens that error curves are taken from.
constexpr size_t kSurveyTokens = 8192;

std::vector<Form> FormsFor(Place place, const std::set<Refinement>& without) {
  std::vector<Form> forms;
  // A rank adapter multiplies all of B: it pays only where there are more
  // outputs than inputs.
  const bool expands = place == Place::kQkv || place == Place::kGateUp;
  if (expands && !without.contains(Refinement::kRankAdapters)) {
    forms.push_back(Form::kRank);
  }
  if (!without.contains(Refinement::kInputMasks)) {
    forms.push_back(Form::kMagnitude);
    forms.push_back(Form::kWeighted);
  } else if (place == Place::kDown) {
    forms.push_back(Form::kWeighted);  // the paper's
  }
  return forms;
}

// The divergence that belongs to an error, by what was measured: (error,
// divergence) with ascending errors.
class Sensitivity {
 public:
  void Add(double error, double divergence) {
    points_.emplace_back(error, std::max(divergence, 0.0));
    std::sort(points_.begin(), points_.end());
  }
  bool known() const { return points_.size() > 1; }
  double At(double error) const {
    size_t i = 1;
    while (i + 1 < points_.size() && points_[i].first < error) ++i;
    const auto [x0, y0] = points_[i - 1];
    const auto [x1, y1] = points_[i];
    if (x1 <= x0) return y1;
    return std::max(0.0, y0 + (error - x0) * (y1 - y0) / (x1 - x0));
  }

 private:
  std::vector<std::pair<double, double>> points_{{0, 0}};
};

// log softmax, in place.
void LogSoftmax(float* logits, size_t n) {
  const float largest = *std::max_element(logits, logits + n);
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    sum += std::exp(static_cast<double>(logits[i] - largest));
  }
  const float log_sum = largest + static_cast<float>(std::log(sum));
  for (size_t i = 0; i < n; ++i) logits[i] -= log_sum;
}

// How far the model's predictions are from the dense one's.
class Probe {
 public:
  // `hidden`: what layer 0 reads, (tokens, hidden), whole windows.
  Probe(Model& model, size_t window, Matrix<float> hidden)
      : model_(&model), window_(window), vocab_(model.config().vocab) {
    dense_ = Matrix<float>(hidden.rows, vocab_);
    Run(0, std::move(hidden), [&](size_t begin, const Matrix<float>& logs) {
      std::copy(logs.values.begin(), logs.values.end(), dense_.row(begin));
    });
  }

  // Mean over tokens of the sum of p (log p - log q), with p the dense model's
  // predictions and q those from `hidden`, which layer `layer` reads.
  double Divergence(size_t layer, Matrix<float> hidden) const {
    std::vector<double> sums(hidden.rows);
    Run(layer, std::move(hidden), [&](size_t begin, const Matrix<float>& logs) {
      ParallelFor(model_->executor(), logs.rows, [&](size_t t, size_t) {
        const float* const p = dense_.row(begin + t);
        const float* const q = logs.row(t);
        for (size_t i = 0; i < vocab_; ++i) {
          sums[begin + t] +=
              std::exp(static_cast<double>(p[i])) *
              (static_cast<double>(p[i]) - static_cast<double>(q[i]));
        }
      });
    });
    double sum = 0;
    for (const double s : sums) sum += s;
    return sum / static_cast<double>(sums.size());
  }
  size_t tokens() const { return dense_.rows; }

 private:
  // use(begin, log-probabilities) of each window.
  template <class Use>
  void Run(size_t layer, Matrix<float> hidden, Use use) const {
    KvCache cache(model_->config(), model_->options().kv_type, window_);
    Matrix<float> logs(window_, vocab_);
    for (size_t begin = 0; begin < hidden.rows; begin += window_) {
      cache.Clear();
      for (size_t l = layer; l < model_->config().layers; ++l) {
        model_->ForwardLayer(l, hidden.row(begin), window_, cache);
      }
      model_->FinalLogits(hidden.row(begin), window_, logs.values.data());
      ParallelFor(model_->executor(), window_,
                  [&](size_t t, size_t) { LogSoftmax(logs.row(t), vocab_); });
      use(begin, logs);
    }
  }

  Model* model_;
  size_t window_;
  size_t vocab_;
  Matrix<float> dense_;  // (tokens, vocab), log-probabilities
};

class Surveyor {
 public:
  explicit Surveyor(const AdaptRun& run) : run_(run) {}

  // Fills layers_.
  Status Survey() {
    const size_t window = run_.options.window;
    const auto whole = [&](size_t tokens) {
      return std::min(run_.sample.size(),
                      std::max(tokens / window, size_t{1}) * window);
    };
    RANKFORGE_ASSIGN_OR_RETURN(
        Calibration calibration,
        Calibration::Start(run_.model, run_.sample.first(whole(kSurveyTokens)),
                           window));
    const size_t probe_tokens =
        whole(std::min(kProbeTokens, run_.sample.size() / 8));
    const auto probed = [&] {
      Matrix<float> hidden(probe_tokens, calibration.hidden().cols);
      std::copy_n(calibration.hidden().values.begin(), hidden.values.size(),
                  hidden.values.begin());
      return hidden;
    };
    const Probe probe(run_.model, window, probed());
    for (size_t layer = 0; layer < run_.spec.blocks.size(); ++layer) {
      const Calibration::LayerInputs inputs = calibration.PeekLayer();
      const Matrix<float> hidden = probed();
      for (const Place place : kPlaces) {
        RANKFORGE_RETURN_IF_ERROR(
            SurveyPlace(layer, place, inputs, hidden, probe));
      }
      RANKFORGE_RETURN_IF_ERROR(
          run_.model.AdaptBlock(layer, run_.checkpoint, nullptr));
      calibration.SkipLayer();
      run_.step(fmt::format("survey of layer {}", layer));
    }
    return {};
  }

  std::vector<Layer> TakeLayers() { return std::move(layers_); }

 private:
  Status SurveyPlace(size_t layer, Place place,
                     const Calibration::LayerInputs& inputs,
                     const Matrix<float>& hidden, const Probe& probe) {
    const std::vector<Form> forms = FormsFor(place, run_.options.without);
    RANKFORGE_ASSIGN_OR_RETURN(
        const LinearForms linear,
        FormsAt(run_, layer, place, inputs,
                std::any_of(forms.begin(), forms.end(), IsRank)));
    Layer& entry = layers_.emplace_back();
    entry.macs = linear.dense_macs();
    entry.candidates.push_back({});
    for (const Form form : forms) {
      Sensitivity sensitivity;
      for (const double cost : kProbeCosts) {
        const std::optional<double> error = linear.Error(form, cost);
        if (!error) continue;
        Adapter alone;
        RANKFORGE_RETURN_IF_ERROR(linear.AddTo(alone, form, cost, false));
        RANKFORGE_RETURN_IF_ERROR(
            run_.model.AdaptBlock(layer, run_.checkpoint, &alone));
        sensitivity.Add(*error, probe.Divergence(layer, hidden));
      }
      if (!sensitivity.known()) continue;
      for (const double cost : kCosts) {
        const std::optional<double> error = linear.Error(form, cost);
        if (!error) continue;
        entry.candidates.push_back({form, cost, sensitivity.At(*error)});
      }
    }
    return {};
  }

  const AdaptRun& run_;
  std::vector<Layer> layers_;  // blocks, and places in them
};

}  // namespace

double SmallestSurveyedCost() { return kCosts[0]; }

Result<std::vector<Layer>> Survey(const AdaptRun& run) {
  Surveyor surveyor(run);
  RANKFORGE_RETURN_IF_ERROR(surveyor.Survey());
  return surveyor.TakeLayers();
}

}  // namespace rankforge
