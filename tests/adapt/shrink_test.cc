// The closed-form solutions reach the error that they promise, and no other of
// their rank is better.
#include "adapt/a3/shrink.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "tests/adapt/adapt_testing.h"

namespace rankforge {
namespace {

Matrix<double> Random(size_t rows, size_t cols, unsigned seed) {
  return Widen(RandomMatrix(rows, cols, seed));
}

Matrix<double> Inputs(size_t tokens, size_t cols, unsigned seed) {
  return Widen(RandomInputs(tokens, cols, cols, seed));
}

double SquaredError(const Matrix<double>& a, const Matrix<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.values.size(); ++i) {
    sum += (a.values[i] - b.values[i]) * (a.values[i] - b.values[i]);
  }
  return sum;
}

Matrix<double> Gram(const Matrix<double>& x) {
  return Product(Transposed(x), x);
}

void Add(const Matrix<double>& more, Matrix<double>& to) {
  for (size_t i = 0; i < to.values.size(); ++i) to.values[i] += more.values[i];
}

// Rows x W + b; no bias where `bias` is 0.
Matrix<double> Linear(const Matrix<double>& x, const Matrix<double>& w,
                      float bias, unsigned seed) {
  Matrix<double> y = Product(x, w);
  const Matrix<double> b = Random(1, w.cols, seed);
  for (size_t i = 0; i < y.rows; ++i) {
    for (size_t j = 0; j < y.cols; ++j) {
      y.row(i)[j] += bias * b.row(0)[j];
    }
  }
  return y;
}

struct Case {
  size_t group;  // query heads of one KV head
  float bias;
};
constexpr Case kCases[] = {{1, 0}, {1, 1}, {4, 0}, {4, 1}};

TEST(ShrinkTest, RootsAreRoots) {
  const Matrix<double> moments = Gram(Inputs(50, 12, 1));
  const MomentRoots roots = RootsOf(moments).value();
  double size = 0;
  for (const double v : moments.values) size += v * v;
  EXPECT_LT(SquaredError(Product(roots.root, roots.root), moments),
            1e-20 * size);
  const Matrix<double> identity = Product(roots.root, roots.inverse);
  for (size_t i = 0; i < 12; ++i) {
    for (size_t j = 0; j < 12; ++j) {
      EXPECT_NEAR(identity.row(i)[j], i == j ? 1 : 0, 1e-9);
    }
  }
}

// Theorem 2 and its joint form: all scores of a group, over all pairs of
// positions.
TEST(ShrinkTest, ScoresWithoutRotationReachTheClosedForm) {
  constexpr size_t kDim = 16, kTokens = 60, kHidden = 40;
  for (const Case& c : kCases) {
    const Matrix<double> x = Inputs(kTokens, kHidden, 3);
    const Matrix<double> k = Linear(x, Random(kHidden, kDim, 4), c.bias, 5);
    std::vector<Matrix<double>> q;
    Matrix<double> q_moments(kDim, kDim);
    for (unsigned head = 0; head < c.group; ++head) {
      q.push_back(
          Linear(x, Random(kHidden, kDim, 10 + head), c.bias, 20 + head));
      Add(Gram(q.back()), q_moments);
    }
    const ShrunkScores scores =
        ShrunkScores::Make(q_moments, Gram(k), 0).value();
    EXPECT_EQ(scores.pairs(), 0);
    EXPECT_EQ(scores.unrotated(), kDim);
    // All scores of the group, one below the other: its singular values say
    // what any product of this rank must lose.
    Matrix<double> all(c.group * kTokens, kTokens);
    for (size_t head = 0; head < c.group; ++head) {
      const Matrix<double> s = Product(q[head], Transposed(k));
      std::copy(s.values.begin(), s.values.end(), all.row(head * kTokens));
    }
    const SingularValues svd = DecomposeSingular(all).value();
    for (const size_t rank : {1, 4, 9, 15, 16}) {
      const Matrix<double> new_k = Product(k, scores.KeyMap(0, rank));
      double error = 0;
      for (size_t head = 0; head < c.group; ++head) {
        const Matrix<double> new_q = Product(q[head], scores.QueryMap(0, rank));
        error += SquaredError(
            Product(new_q, Transposed(new_k)),
            BlockOfMatrix(all, head * kTokens, 0, kTokens, kTokens));
      }
      double optimum = 0, total = 0;
      for (size_t i = svd.values.size(); i > 0; --i) {
        const double square = svd.values[i - 1] * svd.values[i - 1];
        total += square;
        if (i > rank) optimum += square;
      }
      EXPECT_NEAR(error, optimum, 1e-6 * optimum + 1e-18 * total) << rank;
      EXPECT_NEAR(scores.Loss(0, rank), optimum, 1e-6 * optimum + 1e-12 * total)
          << rank;
    }
  }
}

// Theorem 3: what a head adds to the residual stream; and for a group, values
// that all its heads read, weighted alike.
TEST(ShrinkTest, OutputsReachTheClosedForm) {
  constexpr size_t kDim = 16, kTokens = 60, kHidden = 40;
  for (const Case& c : kCases) {
    const Matrix<double> z = Linear(Inputs(kTokens, kHidden, 3),
                                    Random(kHidden, kDim, 4), c.bias, 5);
    Matrix<double> all(kTokens, c.group * kHidden);  // heads side by side
    std::vector<Matrix<double>> o;
    Matrix<double> o_moments(kDim, kDim);
    for (unsigned head = 0; head < c.group; ++head) {
      o.push_back(Random(kDim, kHidden, 30 + head));
      Add(Product(o.back(), Transposed(o.back())), o_moments);
      const Matrix<double> y = Product(z, o.back());
      for (size_t t = 0; t < kTokens; ++t) {
        std::copy_n(y.row(t), kHidden, all.row(t) + head * kHidden);
      }
    }
    const SharedSpace space = SharedSpace::Make(Gram(z), o_moments).value();
    const SingularValues svd = DecomposeSingular(all).value();
    for (const size_t rank : {1, 5, 12, 15}) {
      const Matrix<double> small = Product(z, space.Left(rank));
      double error = 0;
      for (size_t head = 0; head < c.group; ++head) {
        const Matrix<double> new_o =
            Product(Transposed(space.Right(rank)), o[head]);
        error += SquaredError(
            Product(small, new_o),
            BlockOfMatrix(all, 0, head * kHidden, kTokens, kHidden));
      }
      double optimum = 0;
      for (size_t i = rank; i < svd.values.size(); ++i) {
        optimum += svd.values[i] * svd.values[i];
      }
      EXPECT_NEAR(error, optimum, 1e-6 * optimum) << rank;
      EXPECT_NEAR(space.Loss(rank), optimum, 1e-6 * optimum) << rank;
    }
  }
}

// Fewer tokens than elements: what they never take costs nothing, and nothing
// becomes infinite.
TEST(ShrinkTest, MomentsMayBeSingular) {
  const Matrix<double> q = Random(5, 12, 1), k = Random(40, 12, 2);
  const SharedSpace space = SharedSpace::Make(Gram(q), Gram(k)).value();
  const Matrix<double> scores = Product(q, Transposed(k));
  const Matrix<double> same = Product(Product(q, space.Left(5)),
                                      Transposed(Product(k, space.Right(5))));
  double total = 0;
  for (const double v : scores.values) total += v * v;
  EXPECT_LT(SquaredError(same, scores), 1e-9 * total);
  const Matrix<double> none(12, 12);
  const SharedSpace empty = SharedSpace::Make(none, Gram(k)).value();
  for (const double v : empty.Left(4).values) EXPECT_TRUE(std::isfinite(v));
}

// The paper's score with square roots of the inputs' moments, equal to second
// moments of q and k (A5).
TEST(ShrinkTest, PairScoresAreThoseOfThePaper) {
  constexpr size_t kDim = 8, kTokens = 40, kHidden = 20;
  const Matrix<double> x = Inputs(kTokens, kHidden, 7);
  const Matrix<double> w_q = Random(kHidden, kDim, 8);
  const Matrix<double> w_k = Random(kHidden, kDim, 9);
  const MomentRoots root = RootsOf(Gram(x)).value();
  const Matrix<double> left = Product(root.root, w_q);
  const Matrix<double> right = Product(root.root, w_k);
  std::vector<double> channel(kDim);
  for (size_t i = 0; i < kDim; ++i) {
    double l = 0, r = 0;
    for (size_t row = 0; row < kHidden; ++row) {
      l += left.row(row)[i] * left.row(row)[i];
      r += right.row(row)[i] * right.row(row)[i];
    }
    channel[i] = l * r;
  }
  const ShrunkScores scores =
      ShrunkScores::Make(Gram(Product(x, w_q)), Gram(Product(x, w_k)), kDim)
          .value();
  std::vector<std::pair<double, size_t>> pairs;
  for (size_t i = 0; i < kDim / 2; ++i) {
    pairs.emplace_back(channel[i] + channel[i + kDim / 2], i);
  }
  std::sort(pairs.rbegin(), pairs.rend());
  double dropped = 0;
  for (size_t kept = kDim / 2; kept-- > 0;) {
    dropped += pairs[kept].first;
    EXPECT_NEAR(scores.Loss(kept, 0), dropped, 1e-9 * dropped);
    std::vector<size_t> expected;
    for (size_t i = 0; i < kept; ++i) expected.push_back(pairs[i].second);
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(scores.Pairs(kept), expected);
  }
}

// Rotated elements are picked, the others share a space; with all of them kept,
// nothing is mixed.
TEST(ShrinkTest, PartlyRotatedHeadsHaveBoth) {
  constexpr size_t kDim = 12, kRotated = 8;
  const Matrix<double> q = Random(50, kDim, 1), k = Random(50, kDim, 2);
  const ShrunkScores scores =
      ShrunkScores::Make(Gram(q), Gram(k), kRotated).value();
  const Matrix<double> map = scores.QueryMap(2, 3);
  ASSERT_EQ(map.rows, kDim);
  ASSERT_EQ(map.cols, 7);
  const std::vector<size_t> pairs = scores.Pairs(2);
  for (size_t i = 0; i < kRotated; ++i) {
    for (size_t j = 0; j < 7; ++j) {
      const bool picked = (j < 2 && i == pairs[j]) ||
                          (j >= 2 && j < 4 && i == 4 + pairs[j - 2]);
      EXPECT_EQ(map.row(i)[j], picked ? 1 : 0) << i << " " << j;
    }
  }
  const SharedSpace rest = SharedSpace::Make(BlockOfMatrix(Gram(q), 8, 8, 4, 4),
                                             BlockOfMatrix(Gram(k), 8, 8, 4, 4))
                               .value();
  EXPECT_EQ(BlockOfMatrix(map, 8, 4, 4, 3).values, rest.Left(3).values);
  const Matrix<double> all = scores.KeyMap(4, 4);
  for (size_t i = 0; i < kDim; ++i) {
    for (size_t j = 0; j < kDim; ++j) {
      EXPECT_EQ(all.row(i)[j], i == j ? 1 : 0);
    }
  }
}

TEST(ShrinkTest, ChannelScoresAreWhatIsLost) {
  const Matrix<double> x = Inputs(70, 9, 4);
  const Matrix<float> down = RandomMatrix(6, 9, 5);
  std::vector<double> moments(9);
  for (size_t i = 0; i < 9; ++i) moments[i] = Gram(x).row(i)[i];
  const std::vector<double> scores = ChannelScores(moments, down);
  for (size_t i = 0; i < 9; ++i) {
    double lost = 0;
    for (size_t t = 0; t < x.rows; ++t) {
      for (size_t row = 0; row < 6; ++row) {
        const double part = x.row(t)[i] * down.row(row)[i];
        lost += part * part;
      }
    }
    EXPECT_NEAR(scores[i], lost, 1e-9 * lost);
  }
  EXPECT_EQ(LargestOf(std::vector<double>{1, 5, 5, 2, 5}, 2),
            (std::vector<size_t>{1, 2}));
}

// Without a ridge no other weights are better; a large ridge changes nothing.
TEST(ShrinkTest, RefitIsLeastSquares) {
  constexpr size_t kTokens = 80, kAll = 10, kKept = 6, kRows = 4;
  const Matrix<double> x = Inputs(kTokens, kAll, 6);
  const Matrix<double> w = Random(kRows, kAll, 7);
  const Matrix<double> y = Product(x, Transposed(w));
  const Matrix<double> kept = BlockOfMatrix(x, 0, 0, kTokens, kKept);
  const Matrix<double> start = BlockOfMatrix(w, 0, 0, kRows, kKept);
  Matrix<double> missing = y;
  const Matrix<double> had = Product(kept, Transposed(start));
  for (size_t i = 0; i < y.values.size(); ++i)
    missing.values[i] -= had.values[i];
  const Matrix<double> residual = Product(Transposed(missing), kept);
  const std::unique_ptr<Executor> executor = MakeDefaultExecutor(2);
  const auto error = [&](const Matrix<double>& weights) {
    return SquaredError(Product(kept, Transposed(weights)), y);
  };
  const Matrix<double> refit =
      RefitWeights(start, residual, Gram(kept), 0, *executor).value();
  EXPECT_LT(error(refit), 0.9 * error(start));
  for (size_t i = 0; i < refit.values.size(); ++i) {
    for (const double step : {-1e-3, 1e-3}) {
      Matrix<double> other = refit;
      other.values[i] += step;
      EXPECT_GT(error(other), error(refit));
    }
  }
  const Matrix<double> ridged =
      RefitWeights(start, residual, Gram(kept), 0.1, *executor).value();
  EXPECT_LT(error(ridged), error(start));
  EXPECT_GT(error(ridged), error(refit));
  EXPECT_LT(
      SquaredError(
          RefitWeights(start, residual, Gram(kept), 1e12, *executor).value(),
          start),
      1e-12);
}

}  // namespace
}  // namespace rankforge
