#include "adapt/methods/stream_bases.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "adapt/calibrate/calibration.h"
#include "adapt/forms/rank_basis.h"
#include "adapt/run/budget.h"

namespace rankforge {
namespace {

// What the next block reads, and the moments of its group so far.
constexpr char kPlace[] = "hidden.stream";

std::string BasisName(size_t first) {
  return fmt::format("basis.stream.{}", first);
}

// The first tokens of the windows of `x`, or the others.
Matrix<float> TokensOf(const Matrix<float>& x, size_t window, bool first) {
  const size_t firsts = x.rows / window;
  Matrix<float> tokens(first ? firsts : x.rows - firsts, x.cols);
  float* to = tokens.values.data();
  for (size_t token = 0; token < x.rows; ++token) {
    if ((token % window == 0) == first)
      to = std::copy_n(x.row(token), x.cols, to);
  }
  return tokens;
}

// Walks the dense model, group after group.
class BasisFinder {
 public:
  BasisFinder(const AdaptRun& run, const std::vector<size_t>& firsts)
      : run_(run), firsts_(firsts), hidden_(run.model.config().hidden) {
    // Values of the stream itself: what a norm makes of it, before its weight.
    plain_.rotation = {hidden_,
                       {{0, true, std::vector<float>(hidden_ * hidden_)}}};
    std::vector<float>& identity = plain_.rotation.groups.front().q;
    for (size_t i = 0; i < hidden_; ++i) identity[i * hidden_ + i] = 1;
  }

  Result<Rotation> Run() {
    const size_t layers = run_.spec.blocks.size();
    run_.meter.Extend(layers, static_cast<double>(layers) * BlockWork());
    RANKFORGE_RETURN_IF_ERROR(Restore());
    for (size_t layer = 0; layer < next_; ++layer) {
      run_.meter.Skip(BlockWork());
    }
    while (next_ < layers) RANKFORGE_RETURN_IF_ERROR(RunBlock());
    Rotation rotation{hidden_, {}};
    for (const size_t first : firsts_) {
      RANKFORGE_ASSIGN_OR_RETURN(std::optional<Snapshot> basis,
                                 run_.state.Kept(BasisName(first)));
      if (!basis || basis->matrices["q"].values.size() != hidden_ * hidden_) {
        return Failed(
            "unfinished work: a basis is not of this model; remove the folder "
            "to start from the beginning");
      }
      rotation.groups.push_back(
          {first, true, std::move(basis->matrices["q"].values)});
    }
    return rotation;
  }

 private:
  // Of a block on average: its forward pass, moments, its part of a basis.
  double BlockWork() const {
    const auto n = static_cast<double>(hidden_);
    const auto layers = static_cast<double>(run_.spec.blocks.size());
    const double macs =
        static_cast<double>(run_.model.config().LinearMacs()) / layers + n * n;
    return macs * static_cast<double>(run_.sample.size()) +
           BasesWork(n) * static_cast<double>(firsts_.size()) / layers;
  }

  // Goes on after the last block that was saved.
  Status Restore() {
    RANKFORGE_ASSIGN_OR_RETURN(const std::optional<Snapshot> last,
                               run_.state.Kept(BasisName(firsts_.back())));
    if (last) {
      next_ = run_.spec.blocks.size();
      return {};
    }
    RANKFORGE_ASSIGN_OR_RETURN(std::optional<Snapshot> place,
                               run_.state.LoadSnapshot(kPlace));
    if (!place) {
      RANKFORGE_ASSIGN_OR_RETURN(
          calibration_,
          Calibration::Start(run_.model, run_.sample, run_.options.window));
      return {};
    }
    Matrix<float>& hidden = place->matrices["hidden"];
    Matrix<float>& moments = place->matrices["moments"];
    next_ = place->matrices["layer"].rows;
    if (hidden.rows != run_.sample.size() || hidden.cols != hidden_ ||
        next_ > run_.spec.blocks.size() ||
        (moments.rows != 0 && moments.values.size() != hidden_ * hidden_)) {
      return Failed(
          "unfinished work: what the next block reads is not of this model; "
          "remove the folder to start from the beginning");
    }
    calibration_ = Calibration::Continue(run_.model, std::move(hidden),
                                         run_.options.window, next_);
    moments_ = Widen(moments);
    return {};
  }

  Status RunBlock() {
    RANKFORGE_RETURN_IF_ERROR(
        run_.model.AdaptBlock(next_, run_.checkpoint, &plain_));
    if (moments_.rows == 0) moments_ = Matrix<double>(hidden_, hidden_);
    Matrix<float> x = calibration_->First();
    for (const Site site : kSites) {
      if (ReadsStream(site)) RANKFORGE_RETURN_IF_ERROR(AddMoments(x));
      x = calibration_->Next(site, x);
    }
    RANKFORGE_RETURN_IF_ERROR(run_.model.CheckFinite());
    run_.model.DropBlock(next_);
    run_.checkpoint.ReleasePages();
    const size_t layer = next_++;
    RANKFORGE_RETURN_IF_ERROR(EndGroup());
    RANKFORGE_RETURN_IF_ERROR(SavePlace());
    return run_.meter.Step(fmt::format("bases of layer {}", layer),
                           BlockWork());
  }

  // moments_ += C / trace C of the first tokens of windows, and of the others.
  // Rounded to f32, as a saved sum is.
  Status AddMoments(const Matrix<float>& x) {
    for (const bool first : {true, false}) {
      const Matrix<float> tokens = TokensOf(x, run_.options.window, first);
      if (tokens.rows == 0) continue;  // windows of one token
      const Matrix<double> moments =
          SecondMoments(tokens, run_.model.executor());
      double trace = 0;
      for (size_t i = 0; i < hidden_; ++i) trace += moments.row(i)[i];
      if (!(trace > 0)) {
        return Failed(fmt::format(
            "layer {}: what it reads is zero or NaN on the calibration text; "
            "use another text, or check the checkpoint",
            next_));
      }
      for (size_t i = 0; i < moments.values.size(); ++i) {
        moments_.values[i] += moments.values[i] / trace;
      }
    }
    moments_ = Widen(Narrow(moments_));
    return {};
  }

  // Makes the basis of a group that is done.
  Status EndGroup() {
    const auto after =
        std::upper_bound(firsts_.begin(), firsts_.end(), next_ - 1);
    const size_t end =
        after == firsts_.end() ? run_.spec.blocks.size() : *after;
    if (next_ < end) return {};
    Snapshot basis;
    Matrix<float>& q = basis.matrices["q"] = Matrix<float>(hidden_, hidden_);
    RANKFORGE_ASSIGN_OR_RETURN(
        q.values, PrincipalBasis(std::exchange(moments_, Matrix<double>())));
    return run_.state.Keep(BasisName(*std::prev(after)), std::move(basis));
  }

  Status SavePlace() const {
    if (!run_.state.stored()) return {};
    Snapshot place;
    place.matrices["hidden"] = calibration_->hidden();
    place.matrices["moments"] = Narrow(moments_);
    place.matrices["layer"] = Matrix<float>(next_, 1);
    return run_.state.SaveSnapshot(kPlace, place);
  }

  const AdaptRun& run_;
  const std::vector<size_t>& firsts_;
  size_t hidden_;
  Adapter plain_;  // every block in the basis I
  size_t next_ = 0;
  std::optional<Calibration> calibration_;
  Matrix<double> moments_;
};

}  // namespace

std::vector<size_t> EvenGroups(size_t layers, size_t size) {
  std::vector<size_t> firsts;
  for (size_t first = 0; first < layers; first += size) firsts.push_back(first);
  return firsts;
}

Result<std::vector<float>> PrincipalBasis(Matrix<double> moments) {
  const size_t n = moments.rows;
  RANKFORGE_ASSIGN_OR_RETURN(const SymmetricEigen eigen,
                             DecomposeSymmetric(std::move(moments)));
  std::vector<float> q(n * n);
  for (size_t k = 0; k < n; ++k) {
    const double* const direction = eigen.vectors.row(n - 1 - k);
    for (size_t i = 0; i < n; ++i) {
      q[i * n + k] = static_cast<float>(direction[i]);
    }
  }
  return q;
}

Result<Rotation> FindRotation(const AdaptRun& run,
                              const std::vector<size_t>& firsts) {
  return BasisFinder(run, firsts).Run();
}

double TurnShare(const ModelConfig& config, const Rotation& rotation,
                 const CostModel& costs) {
  Adapter rotated;
  rotated.rotation.hidden = rotation.hidden;
  for (const RotationGroup& group : rotation.groups) {
    rotated.rotation.groups.push_back({group.first_block, group.rotated, {}});
  }
  double cost = 0;
  for (const BlockSpec& block : DescribeModel(config, &rotated).blocks) {
    for (const auto* turn : {&block.enter, &block.leave}) {
      if (*turn) cost += costs.Dense((*turn)->rows, (*turn)->cols);
    }
  }
  return cost / BlockCost(DescribeModel(config, nullptr), costs);
}

}  // namespace rankforge
