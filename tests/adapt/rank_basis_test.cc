#include "adapt/forms/rank_basis.h"

#include <gtest/gtest.h>

#include "tests/adapt/adapt_testing.h"

namespace rankforge {
namespace {

RankBasis BasisOf(const Matrix<float>& w, const Matrix<float>& x) {
  const auto executor = MakeSerialExecutor();
  const Matrix<double> moments =
      RegularMoments(SecondMoments(x, *executor)).value();
  const BasisProblem problem{&w, &moments};
  Result<std::vector<RankBasis>> bases =
      MakeRankBases({&problem, 1}, *executor);
  EXPECT_TRUE(bases.ok()) << bases.status().message();
  return std::move(bases->front());
}

TEST(SecondMoments, AgreeWithTheSumAndWithAnyThreads) {
  const Matrix<float> x = RandomInputs(1500, 100, 100, 1);
  const auto one = MakeSerialExecutor();
  const auto two = MakeTeamExecutor(2);
  const Matrix<double> moments = SecondMoments(x, *one);
  for (const auto& [i, j] :
       {std::pair{0, 0}, {99, 0}, {0, 99}, {64, 63}, {63, 64}, {70, 80}}) {
    double sum = 0;
    for (size_t t = 0; t < x.rows; ++t) {
      sum += static_cast<double>(x.row(t)[i]) * x.row(t)[j];
    }
    EXPECT_NEAR(moments.row(i)[j], sum, 1e-9 * moments.row(i)[i]);
  }
  EXPECT_EQ(moments.values, SecondMoments(x, *two).values);
}

TEST(RegularMoments, RefuseInputsThatAreAllZero) {
  EXPECT_FALSE(RegularMoments(Matrix<double>(8, 8)).ok());
}

struct Shape {
  size_t rows, cols, directions;
};

class RankBasisShapes : public testing::TestWithParam<Shape> {};

// The last shapes take fewer directions than there are inputs: a basis that
// only knew those would lose the rest of W.
INSTANTIATE_TEST_SUITE_P(All, RankBasisShapes,
                         testing::Values(Shape{120, 48, 48},
                                         Shape{48, 120, 120}, Shape{64, 64, 64},
                                         Shape{120, 48, 7}, Shape{30, 48, 7}));

TEST_P(RankBasisShapes, AllRanksAreTheDenseLayer) {
  const auto [rows, cols, directions] = GetParam();
  const Matrix<float> w = RandomMatrix(rows, cols, 5);
  const RankBasis basis = BasisOf(w, RandomInputs(800, cols, directions, 6));
  EXPECT_EQ(basis.rank(), std::min(rows, cols));
  Matrix<float> product(rows, cols);
  Multiply(Transposed(basis.a), basis.b, product);
  EXPECT_LT(SquaredDistance(product, w), 1e-10 * SquaredNorm(w));
}

TEST_P(RankBasisShapes, ColumnsOfAAreOrthonormal) {
  const auto [rows, cols, directions] = GetParam();
  const RankBasis basis = BasisOf(RandomMatrix(rows, cols, 7),
                                  RandomInputs(800, cols, directions, 8));
  const Matrix<float> gram = TimesTransposed(basis.a, basis.a);
  for (size_t i = 0; i < gram.rows; ++i) {
    for (size_t j = 0; j < gram.cols; ++j) {
      EXPECT_NEAR(gram.row(i)[j], i == j ? 1.0f : 0.0f, 1e-5f);
    }
  }
}

// A layer whose rows depend on each other: W^T W cannot tell its small
// directions.
TEST(RankBasis, LayersThatLoseRankAreDecomposedDirectly) {
  Matrix<float> w = RandomMatrix(60, 24, 20);
  for (size_t i = 0; i < w.rows; ++i) w.row(i)[7] = 2 * w.row(i)[3];
  const RankBasis basis = BasisOf(w, RandomInputs(500, 24, 24, 21));
  const Matrix<float> gram = TimesTransposed(basis.a, basis.a);
  for (size_t i = 0; i < gram.rows; ++i) {
    for (size_t j = 0; j < gram.cols; ++j) {
      EXPECT_NEAR(gram.row(i)[j], i == j ? 1.0f : 0.0f, 1e-5f);
    }
  }
  Matrix<float> product(w.rows, w.cols);
  Multiply(Transposed(basis.a), basis.b, product);
  EXPECT_LT(SquaredDistance(product, w), 1e-10 * SquaredNorm(w));
}

TEST(RankBasis, ProblemsSideBySideDoNotDependOnThreads) {
  const auto one = MakeSerialExecutor();
  const auto two = MakeTeamExecutor(2);
  const Matrix<float> tall = RandomMatrix(300, 70, 22);
  const Matrix<float> wide = RandomMatrix(40, 70, 23);
  const Matrix<double> moments =
      RegularMoments(SecondMoments(RandomInputs(400, 70, 70, 24), *one))
          .value();
  const BasisProblem problems[] = {{&tall, &moments}, {&wide, &moments}};
  const auto serial = MakeRankBases(problems, *one).value();
  const auto team = MakeRankBases(problems, *two).value();
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(serial[i].a.values, team[i].a.values);
    EXPECT_EQ(serial[i].b.values, team[i].b.values);
  }
}

// Eckart-Young: on the text itself, no other d directions of the output hold
// more of it.
TEST(RankBasis, FirstRanksHoldTheMost) {
  const Matrix<float> w = RandomMatrix(90, 40, 9);
  const Matrix<float> x = RandomInputs(700, 40, 40, 10);
  const RankBasis basis = BasisOf(w, x);
  const auto executor = MakeSerialExecutor();
  const Matrix<float> z = RankActivations(basis.b, x, *executor);
  double before = 1e300;
  double total = 0;
  for (size_t k = 0; k < z.rows; ++k) {
    double energy = 0;
    for (size_t t = 0; t < z.cols; ++t) {
      energy += static_cast<double>(z.row(k)[t]) * z.row(k)[t];
    }
    EXPECT_LE(energy, before * (1 + 1e-5));
    before = energy;
    total += energy;
  }
  EXPECT_NEAR(total, SquaredNorm(TimesTransposed(x, w)), 1e-5 * total);
  // Uncorrelated ranks: the directions are the principal ones.
  double cross = 0;
  double first = 0;
  for (size_t t = 0; t < z.cols; ++t) {
    cross += static_cast<double>(z.row(0)[t]) * z.row(1)[t];
    first += static_cast<double>(z.row(0)[t]) * z.row(0)[t];
  }
  EXPECT_LT(std::fabs(cross), 1e-4 * first);
}

// B^T B = M: what ranks hold adds up in the metric of the loss. A B = W still,
// and ranks come by what they hold of the inputs in that metric.
TEST(RankBasis, FisherInformationIsTheMetric) {
  constexpr size_t kRows = 120, kCols = 48;
  const Matrix<float> w = RandomMatrix(kRows, kCols, 5);
  const Matrix<float> x = RandomInputs(800, kCols, kCols, 6);
  // Gradients that some directions hardly have.
  const Matrix<float> g = RandomInputs(300, kCols, kCols / 2, 7);
  const auto executor = MakeSerialExecutor();
  const Matrix<double> moments =
      RegularMoments(SecondMoments(x, *executor)).value();
  const Matrix<double> fisher = SecondMoments(g, *executor);
  const BasisProblem problem{&w, &moments, &fisher};
  const RankBasis basis =
      std::move(MakeRankBases({&problem, 1}, *executor).value().front());
  ASSERT_EQ(basis.rank(), kCols);

  Matrix<float> product(kRows, kCols);
  Multiply(Transposed(basis.a), basis.b, product);
  EXPECT_LT(SquaredDistance(product, w), 1e-8 * SquaredNorm(w));

  const Matrix<double> gram = SecondMoments(w, *executor);
  const Matrix<double> found = SecondMoments(basis.b, *executor);
  double gram_trace = 0, fisher_trace = 0;
  for (size_t i = 0; i < kCols; ++i) {
    gram_trace += gram.row(i)[i];
    fisher_trace += fisher.row(i)[i];
  }
  for (size_t i = 0; i < gram.values.size(); ++i) {
    EXPECT_NEAR(found.values[i],
                (fisher.values[i] * gram_trace / fisher_trace +
                 kPlainShare * gram.values[i]) /
                    (1 + kPlainShare),
                1e-5 * gram_trace);
  }

  const Matrix<float> z = RankActivations(basis.b, x, *executor);
  std::vector<double> held(kCols);
  for (size_t k = 0; k < kCols; ++k) {
    for (const float* v = z.row(k); v != z.row(k + 1); ++v) {
      held[k] += static_cast<double>(*v) * *v;
    }
  }
  for (size_t k = 1; k < kCols; ++k) {
    EXPECT_LE(held[k], held[k - 1] * (1 + 1e-3) + 1e-6 * held[0]) << k;
  }

  // Nothing to learn: the plain basis.
  const Matrix<double> none(kCols, kCols);
  const BasisProblem without{&w, &moments, &none};
  EXPECT_EQ(MakeRankBases({&without, 1}, *executor).value().front().b.values,
            BasisOf(w, x).b.values);
}

TEST(RankActivations, DoNotDependOnThreads) {
  const Matrix<float> b = RandomMatrix(130, 32, 11);
  const Matrix<float> x = RandomMatrix(300, 32, 12);
  const auto one = MakeSerialExecutor();
  const auto two = MakeTeamExecutor(2);
  const Matrix<float> z = RankActivations(b, x, *one);
  EXPECT_EQ(z.values, RankActivations(b, x, *two).values);
  EXPECT_LT(SquaredDistance(z, TimesTransposed(b, x)), 1e-8 * SquaredNorm(z));
}

}  // namespace
}  // namespace rankforge
