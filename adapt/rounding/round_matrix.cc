#include "adapt/rounding/round_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/numbers/float16.h"
#include "meta/packing.h"
#include "runtime/threads/parallel.h"

namespace rankforge {
namespace {

// Rows that are rounded side by side, in lanes; a multiple of every group.
constexpr size_t kLanes = 64;
// Columns whose losses reach the columns behind them by one product; at least
// as many as a group has.
constexpr size_t kColumns = 64;

constexpr double kDamping = 0.01;  // of the mean diagonal
constexpr size_t kPasses = 2;      // of Refine

using Lanes = std::array<float, kLanes>;

// The integers of a type. 8-bit ones do not use -128, so that they can change
// sign (kernels/numbers/quantize.h).
struct IntegerRange {
  float low;
  float high;
};
IntegerRange RangeOf(const WeightFormat& format) {
  if (format.has_minimum) {
    return {0, static_cast<float>((1 << format.bits) - 1)};
  }
  const auto high = static_cast<float>((1 << (format.bits - 1)) - 1);
  return {format.bits == 4 ? -high - 1 : -high, high};
}

// The values that a group can have: integer * scale + minimum, both f16.
struct Grid {
  float scale = 0;
  float minimum = 0;
};

// To nearest even of |value| < 2^22, which compilers vectorise for every CPU.
float RoundToEven(float value) {
  constexpr float kLarge = 12582912.0f;  // 1.5 * 2^23
  return (value + kLarge) - kLarge;
}

// The value of `grid` that is nearest to `value`. `divisor` is the scale, or 1
// where that is 0.
float Nearest(float value, const Grid& grid, float divisor,
              const IntegerRange& range) {
  const float exact = (value - grid.minimum) / divisor;
  const float integer =
      RoundToEven(std::min(std::max(exact, range.low), range.high));
  return integer * grid.scale + grid.minimum;
}

float DivisorOf(float scale) { return scale == 0 ? 1 : scale; }

// What the values of a group span.
struct Extent {
  float low = std::numeric_limits<float>::infinity();
  float high = -std::numeric_limits<float>::infinity();

  void Add(float value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  // In magnitude, with its sign.
  float largest() const { return high >= -low ? high : low; }
};

// A grid relative to the extent of a group. With minimums: the scale is that
// times high - low, and the minimum lies that share of it above low. Else the
// scale is that times the largest value.
using Candidate = Grid;

float RoundedToHalf(float exact) { return FromF16(ToF16(exact)); }

Grid GridOf(const Candidate& candidate, const Extent& extent,
            bool has_minimum) {
  if (!has_minimum) {
    return {RoundedToHalf(candidate.scale * extent.largest()), 0};
  }
  const float spread = extent.high - extent.low;
  return {RoundedToHalf(candidate.scale * spread),
          RoundedToHalf(extent.low + candidate.minimum * spread)};
}

// The scales of rounding to nearest are among them. Smaller ones cut large
// values off, and larger ones leave room for what earlier columns add. Of 4
// bits, which have one integer more below zero, either sign may be better.
std::vector<Candidate> CandidatesOf(const WeightFormat& format) {
  std::vector<Candidate> candidates;
  if (format.has_minimum) {
    const auto steps = static_cast<float>((1 << format.bits) - 1);
    for (int below = -1; below <= 5; ++below) {
      for (int above = -1; above <= 5; ++above) {
        const float low = 0.04f * static_cast<float>(below);
        const float high = 0.04f * static_cast<float>(above);
        candidates.push_back({(1 - low - high) / steps, low});
      }
    }
    return candidates;
  }
  if (format.bits == 8) {
    for (const float share : {0.9f, 0.95f, 1.0f, 1.05f, 1.1f}) {
      candidates.push_back({1 / (127 * share), 0});
    }
    return candidates;
  }
  for (float divisor = 5; divisor <= 11; divisor += 0.25f) {
    candidates.push_back({1 / divisor, 0});
    candidates.push_back({-1 / divisor, 0});
  }
  return candidates;
}

// Grids of the lanes.
struct LaneGrids {
  Lanes scales{};
  Lanes minimums{};
  Lanes divisors{};

  void Set(size_t lane, const Grid& grid) {
    scales[lane] = grid.scale;
    minimums[lane] = grid.minimum;
    divisors[lane] = DivisorOf(grid.scale);
  }
  Grid operator[](size_t lane) const { return {scales[lane], minimums[lane]}; }
};

// Neighbouring columns of W and their part of a matrix over all columns.
struct ColumnBlock {
  MatrixView<const float> weights;  // (count, kLanes), what is left of them
  MatrixView<const float> factor;   // (count, count)
};

struct RoundedBlock {
  std::array<Lanes, kColumns> values;
  // Minus what each column lost, relative to its part of the factor.
  std::array<Lanes, kColumns> losses;
  Lanes loss;  // the sum of their squares
};

// lanes += sum over i < j of factor (i, j) * of_columns (i, lanes).
void AddEarlier(const MatrixView<const float>& factor, size_t j,
                const std::array<Lanes, kColumns>& of_columns, Lanes& lanes) {
  for (size_t i = 0; i < j; ++i) {
    const float weight = factor.row(i)[j];
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += weight * of_columns[i][lane];
    }
  }
}

// Rounds the columns of a block in turn. grids_of(column, values) returns the
// grids of the lanes of a column that is next.
template <class GridsOf>
void RoundBlock(const ColumnBlock& block, const IntegerRange& range,
                GridsOf grids_of, RoundedBlock& rounded) {
  rounded.loss = {};
  for (size_t j = 0; j < block.weights.rows; ++j) {
    Lanes current;
    std::copy_n(block.weights.row(j), kLanes, current.data());
    AddEarlier(block.factor, j, rounded.losses, current);
    const LaneGrids& grids = grids_of(j, current);
    const float inverse = 1 / block.factor.row(j)[j];
    Lanes& values = rounded.values[j];
    Lanes& losses = rounded.losses[j];
    for (size_t lane = 0; lane < kLanes; ++lane) {
      values[lane] =
          Nearest(current[lane], grids[lane], grids.divisors[lane], range);
      losses[lane] = (values[lane] - current[lane]) * inverse;
      rounded.loss[lane] += losses[lane] * losses[lane];
    }
  }
}

// The squared error of rounding `values` to the grid.
float LossOf(const float* values, size_t count, const Grid& grid,
             const IntegerRange& range) {
  constexpr size_t kSums = 8;  // so that compilers vectorise it
  std::array<float, kSums> sums{};
  const float divisor = DivisorOf(grid.scale);
  for (size_t i = 0; i < count; ++i) {
    const float error = Nearest(values[i], grid, divisor, range) - values[i];
    sums[i % kSums] += error * error;
  }
  float sum = 0;
  for (const float part : sums) sum += part;
  return sum;
}

// kLanes rows of W, by column.
struct Tile {
  size_t first;  // row
  size_t rows;
  Matrix<float> weights;         // (cols, kLanes)
  Matrix<float> values;          // (cols, kLanes), rounded
  std::vector<LaneGrids> grids;  // of each group of a row, or of each column
};

// Rounds matrices of one type in one layout.
class Rounder {
 public:
  Rounder(const Matrix<float>& target, const InputMoments& inputs,
          WeightType type, Layout layout)
      : w_(target),
        inputs_(inputs),
        format_(FormatOf(type)),
        by_row_(RunsAreRows(layout)),
        range_(RangeOf(format_)),
        candidates_(CandidatesOf(format_)),
        run_length_(by_row_ ? w_.cols : w_.rows),
        values_(w_.rows, w_.cols),
        scales_(by_row_ ? w_.rows : w_.cols,
                RunWeights(run_length_) / format_.group),
        minimums_(scales_.rows, scales_.cols) {}

  size_t tiles() const { return (w_.rows + kLanes - 1) / kLanes; }

  // Rounds kLanes rows. Several threads may round tiles at once.
  void RoundTile(size_t index) {
    Tile tile = TileOf(index * kLanes);
    RoundInTurn(tile);
    for (size_t pass = 0; pass < kPasses; ++pass) Refine(tile);
    Store(tile);
  }

  // Packs what all tiles became, in place of `w`.
  Result<PackedMatrix> Pack(const Matrix<float>& w, WeightType type,
                            Layout layout, Executor& executor) const;

 private:
  // Columns that share the grids of a lane.
  size_t GridColumns() const { return by_row_ ? format_.group : 1; }

  Tile TileOf(size_t first) const {
    const size_t columns = GridColumns();
    Tile tile = {
        .first = first,
        .rows = std::min(kLanes, w_.rows - first),
        .weights = Matrix<float>(w_.cols, kLanes),
        .values = Matrix<float>(w_.cols, kLanes),
        .grids = std::vector<LaneGrids>((w_.cols + columns - 1) / columns)};
    for (size_t lane = 0; lane < tile.rows; ++lane) {
      for (size_t j = 0; j < w_.cols; ++j) {
        tile.weights.row(j)[lane] = w_.row(first + lane)[j];
      }
    }
    return tile;
  }

  // GPTQ.
  void RoundInTurn(Tile& tile) const {
    Matrix<float> left = tile.weights;
    const MatrixView<const float> factor(inputs_.inverse_factor);
    const size_t step = by_row_ ? format_.group : kColumns;
    RoundedBlock rounded;
    for (size_t begin = 0; begin < w_.cols; begin += step) {
      const size_t count = std::min(step, w_.cols - begin);
      const MatrixView<const float> rows = factor.Rows(begin, count);
      const ColumnBlock block = {
          MatrixView<const float>(left).Rows(begin, count),
          rows.Columns(begin, count)};
      if (by_row_) {
        RoundGroup(block, tile.grids[begin / step], rounded);
      } else {
        RoundColumns(block, tile.rows, &tile.grids[begin], rounded);
      }
      std::copy_n(rounded.values[0].data(), count * kLanes,
                  tile.values.row(begin));
      const size_t end = begin + count;
      Multiply(Transposed(rows.Columns(end, w_.cols - end)),
               MatrixView<const float>(rounded.losses[0].data(), count, kLanes),
               MatrixView(left).Rows(end, w_.cols - end), 1.0f);
    }
  }

  // Groups along the inputs: one per lane, of all columns of the block.
  void RoundGroup(const ColumnBlock& block, LaneGrids& best,
                  RoundedBlock& rounded) const {
    std::array<Extent, kLanes> extents;
    for (size_t j = 0; j < block.weights.rows; ++j) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        extents[lane].Add(block.weights.row(j)[lane]);
      }
    }
    const auto round_to = [&](const LaneGrids& grids) {
      RoundBlock(
          block, range_,
          [&](size_t, const Lanes&) -> const LaneGrids& { return grids; },
          rounded);
    };
    Lanes least;
    least.fill(std::numeric_limits<float>::infinity());
    LaneGrids tried;
    for (const Candidate& candidate : candidates_) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        tried.Set(lane, GridOf(candidate, extents[lane], format_.has_minimum));
      }
      round_to(tried);
      for (size_t lane = 0; lane < kLanes; ++lane) {
        if (!(rounded.loss[lane] < least[lane])) continue;
        least[lane] = rounded.loss[lane];
        best.Set(lane, tried[lane]);
      }
    }
    round_to(best);
  }

  // Groups along the outputs: of neighbouring lanes, for each column.
  void RoundColumns(const ColumnBlock& block, size_t rows, LaneGrids* grids,
                    RoundedBlock& rounded) const {
    const size_t group = format_.group;
    const auto grids_of = [&](size_t j,
                              const Lanes& values) -> const LaneGrids& {
      for (size_t lane = 0; lane < rows; lane += group) {
        const Grid best =
            BestGrid(values.data() + lane, std::min(group, rows - lane));
        for (size_t i = 0; i < group; ++i) grids[j].Set(lane + i, best);
      }
      return grids[j];
    };
    RoundBlock(block, range_, grids_of, rounded);
  }

  Grid BestGrid(const float* values, size_t count) const {
    Extent extent;
    for (size_t i = 0; i < count; ++i) extent.Add(values[i]);
    Grid best;
    float least = std::numeric_limits<float>::infinity();
    for (const Candidate& candidate : candidates_) {
      const Grid grid = GridOf(candidate, extent, format_.has_minimum);
      const float loss = LossOf(values, count, grid, range_);
      if (!(loss < least)) continue;
      least = loss;
      best = grid;
    }
    return best;
  }

  // Coordinate descent: takes each weight to the value of its grid that is best
  // beside all others as they are (QuantEase, arXiv 2309.01885). The loss does
  // not grow.
  void Refine(Tile& tile) const {
    const MatrixView<const float> moments(inputs_.moments);
    Matrix<float> errors = tile.weights;  // (cols, kLanes)
    for (size_t i = 0; i < errors.values.size(); ++i) {
      errors.values[i] -= tile.values.values[i];
    }
    Matrix<float> slopes(w_.cols, kLanes);  // H times errors
    Multiply(moments, errors, slopes);
    std::array<Lanes, kColumns> changes;
    for (size_t begin = 0; begin < w_.cols; begin += kColumns) {
      const size_t count = std::min(kColumns, w_.cols - begin);
      const MatrixView<const float> rows = moments.Rows(begin, count);
      for (size_t j = 0; j < count; ++j) {
        Lanes slope;
        std::copy_n(slopes.row(begin + j), kLanes, slope.data());
        AddEarlier(rows.Columns(begin, count), j, changes, slope);
        const LaneGrids& grids = tile.grids[(begin + j) / GridColumns()];
        const float inverse = 1 / rows.row(j)[begin + j];
        float* const values = tile.values.row(begin + j);
        for (size_t lane = 0; lane < kLanes; ++lane) {
          const float value =
              Nearest(values[lane] + slope[lane] * inverse, grids[lane],
                      grids.divisors[lane], range_);
          changes[j][lane] = values[lane] - value;
          values[lane] = value;
        }
      }
      Multiply(Transposed(rows),
               MatrixView<const float>(changes[0].data(), count, kLanes),
               slopes, 1.0f);
    }
  }

  void Store(const Tile& tile) {
    for (size_t lane = 0; lane < tile.rows; ++lane) {
      const size_t row = tile.first + lane;
      for (size_t j = 0; j < w_.cols; ++j) {
        values_.row(row)[j] = tile.values.row(j)[lane];
      }
      for (size_t i = 0; i < tile.grids.size(); ++i) {
        const size_t run = by_row_ ? row : i;
        const size_t group = by_row_ ? i : row / format_.group;
        scales_.row(run)[group] = tile.grids[i].scales[lane];
        minimums_.row(run)[group] = tile.grids[i].minimums[lane];
      }
    }
  }

  const Matrix<float>& w_;  // what the result should compute
  const InputMoments& inputs_;
  const WeightFormat& format_;
  bool by_row_;
  IntegerRange range_;
  std::vector<Candidate> candidates_;
  size_t run_length_;
  Matrix<float> values_;    // (rows, cols), on their grids
  Matrix<float> scales_;    // (runs, groups)
  Matrix<float> minimums_;  // (runs, groups)
};

Result<PackedMatrix> Rounder::Pack(const Matrix<float>& w, WeightType type,
                                   Layout layout, Executor& executor) const {
  QuantizationError error;
  for (size_t i = 0; i < w.values.size(); ++i) {
    const double weight = w.values[i];
    error.squares += weight * weight;
    error.error += (weight - values_.values[i]) * (weight - values_.values[i]);
  }
  if (!std::isfinite(error.error)) {
    return Failed(
        "calibrated rounding made weights that are not finite; use more "
        "calibration tokens, or round to nearest without --calibration");
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      PackedMatrix packed, PackedMatrix::Zero(w_.rows, w_.cols, type, layout));
  const size_t pitch = RunWeights(run_length_);
  ParallelFor(executor, packed.runs(), [&](size_t run, size_t) {
    std::vector<float> values(pitch);
    for (size_t i = 0; i < run_length_; ++i) {
      values[i] = by_row_ ? values_.row(run)[i] : values_.row(i)[run];
    }
    // Values that are a scale times an integer, plus a minimum, are kept.
    packed.SetRun(run, values.data(), scales_.row(run), minimums_.row(run));
  });
  const auto owner = std::make_shared<const PackedMatrix>(std::move(packed));
  return PackedMatrix::Adopt(owner->rows(), owner->cols(), type, layout,
                             {owner->data(), owner->bytes()}, owner, error);
}

// `matrix` (n, n) with its rows and its columns in the opposite order.
Matrix<double> Reversed(Matrix<double> matrix) {
  std::reverse(matrix.values.begin(), matrix.values.end());
  return matrix;
}

}  // namespace

Result<InputMoments> InputMoments::Of(Matrix<double> moments,
                                      Executor& executor) {
  const size_t n = moments.rows;
  double mean = 0;
  for (size_t i = 0; i < n; ++i) {
    mean += moments.row(i)[i] / static_cast<double>(n);
  }
  // Inputs that are all zero say nothing. The scale of H does not matter;
  // floats hold it best where its mean is 1.
  if (mean == 0) mean = 1;
  for (double& moment : moments.values) moment /= mean;
  for (size_t i = 0; i < n; ++i) moments.row(i)[i] += kDamping;
  InputMoments inputs{
      .moments = Narrow(moments), .inverse_factor = {}, .unit = mean};
  // With H = R R^T for an upper triangular R, U is R^-1. R is what the Cholesky
  // factor of the reversed matrix is, reversed.
  RANKFORGE_ASSIGN_OR_RETURN(const Matrix<double> lower,
                             CholeskyFactor(Reversed(std::move(moments))));
  Matrix<double> inverse(n, n);
  for (size_t i = 0; i < n; ++i) inverse.row(i)[i] = 1;
  SolveLower(lower, false, inverse, executor);
  inputs.inverse_factor = Narrow(Reversed(std::move(inverse)));
  return inputs;
}

Matrix<float> Corrected(const Matrix<float>& w, const Matrix<float>& wanted,
                        const InputMoments& inputs, Executor& executor) {
  const Matrix<float>& factor = inputs.inverse_factor;
  Matrix<float> corrected =
      Product(executor, Product(executor, wanted, Transposed(factor)), factor);
  for (size_t i = 0; i < w.values.size(); ++i) {
    corrected.values[i] =
        w.values[i] + corrected.values[i] / static_cast<float>(inputs.unit);
  }
  return corrected;
}

Result<PackedMatrix> RoundMatrix(const Matrix<float>& w,
                                 const Matrix<float>& target,
                                 const InputMoments& inputs, WeightType type,
                                 Layout layout, Executor& executor) {
  Rounder rounder(target, inputs, type, layout);
  ParallelFor(executor, rounder.tiles(),
              [&](size_t tile, size_t) { rounder.RoundTile(tile); });
  return rounder.Pack(w, type, layout, executor);
}

}  // namespace rankforge
