// Whether what peers_bench compares may be compared: peers that compute the
// product, a check that notices when one does not, ratios within a round.
#include "bench/peers/peers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <random>
#include <sstream>

#include "../cli/program.h"
#include "bench/peers/comparison.h"

namespace rankforge {
namespace {

std::vector<float> RandomWeights(size_t count) {
  std::minstd_rand random(3);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> weights(count);
  for (float& weight : weights) weight = uniform(random);
  return weights;
}

// Everybody who is installed, at shapes with tails, with no, some and all
// weights taking part. Two calls: the first leaves no state that the second
// could pass with.
TEST(PeersTest, ComputeTheProduct) {
  struct Shape {
    size_t rows, cols;
  };
  for (const Shape& shape : {Shape{1, 1}, Shape{67, 101}, Shape{16, 256}}) {
    const std::vector<float> weights = RandomWeights(shape.rows * shape.cols);
    for (const WeightType type : kWeightTypes) {
      PeerGroup group(shape.rows, shape.cols, type, 2, weights, 1, true);
      for (const Operation operation : kOperations) {
        for (const double density : {1e-9, 0.3, 1.0}) {
          const PeerProduct product(group, operation, density);
          for (const Peer& peer : Peers()) {
            if (peer.offer == nullptr) continue;
            std::vector<Contestant> contestants;
            // A library that is not there, or has no such product.
            static_cast<void>(peer.offer(group, product, contestants));
            for (const Contestant& contestant : contestants) {
              for (size_t turn : {0, 1}) {
                EXPECT_EQ(WhatIsWrong(product, contestant.run(turn)), "")
                    << contestant.name << ", " << product.problem.ToString()
                    << ", density " << density << ", turn " << turn;
              }
            }
          }
        }
      }
    }
  }
}

class WhatIsWrongTest : public testing::TestWithParam<WeightType> {
 protected:
  static constexpr size_t kRows = 40;
  static constexpr size_t kCols = 96;

  // The product over the columns or rows of the mask, except `missing` entries.
  std::vector<float> Compute(const PeerProduct& product, size_t missing) const {
    const MaskView& mask = product.input.mask();
    const bool rows = product.problem.operation == Operation::kRowMask;
    std::vector<float> y(kRows);
    for (size_t k = missing; k < mask.kept; ++k) {
      for (size_t other = 0; other < (rows ? kCols : kRows); ++other) {
        const size_t row = rows ? mask.index[k] : other;
        const size_t col = rows ? other : mask.index[k];
        y[row] += weights_[row * kCols + col] * product.input.x()[col];
      }
    }
    return y;
  }

  const std::vector<float> weights_ = RandomWeights(kRows * kCols);
};

TEST_P(WhatIsWrongTest, NoticesWhatIsMissing) {
  const PeerGroup group(kRows, kCols, GetParam(), 1, weights_, 1, true);
  for (const Operation operation :
       {Operation::kColumnMask, Operation::kRowMask}) {
    const PeerProduct product(group, operation, 0.5);
    EXPECT_EQ(WhatIsWrong(product, Compute(product, 0).data()), "");
    EXPECT_NE(WhatIsWrong(product, Compute(product, 1).data()), "");
  }
}

TEST_P(WhatIsWrongTest, NoticesNaN) {
  const PeerGroup group(kRows, kCols, GetParam(), 1, weights_, 1, true);
  const PeerProduct product(group, Operation::kColumnMask, 0.5);
  std::vector<float> y = Compute(product, 0);
  y[kRows / 2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(WhatIsWrong(product, y.data()), "");
}

INSTANTIATE_TEST_SUITE_P(Types, WhatIsWrongTest,
                         testing::ValuesIn(kWeightTypes),
                         [](const auto& type_info) {
                           return std::string(Name(type_info.param));
                         });

TEST(CopiesTest, AreColdForTheSparsestProduct) {
  const std::vector<float> weights(64 * 64);
  const PeerGroup dense(64, 64, WeightType::kF32, 1, weights, 1, false);
  const PeerGroup sparse(64, 64, WeightType::kF32, 1, weights, 0.25, false);
  const PeerGroup cached(64, 64, WeightType::kF32, 1, weights, 0.25, true);
  const size_t bytes = size_t{16} << 20;
  EXPECT_GE(dense.Copies(bytes) * bytes, ColdBytes());
  EXPECT_GE(sparse.Copies(bytes) * bytes / 4, ColdBytes());
  EXPECT_EQ(cached.Copies(bytes), 1u);
}

// The machine doubled its speed after the second round; within each round the
// first took half the time of the second.
TEST(PairedRatioTest, IsTakenWithinRounds) {
  const std::vector<double> a = {100, 110, 40};
  const std::vector<double> b = {200, 220, 80};
  EXPECT_EQ(PairedRatio(a, b).median, 0.5);
  EXPECT_EQ(PairedRatio(a, b).mad, 0);
}

TEST(CommandTest, RefusesWhatItCannotDo) {
  const std::vector<std::vector<std::string>> commands = {
      {"--types", "f33"},     {"--shapes", "4096x"},   {"--shapes", "x4096"},
      {"--shapes", "0x64"},   {"--shapes", "64x64x"},  {"--shapes", "1x131073"},
      {"--threads", "0"},     {"--threads", "two"},    {"--densities", "0"},
      {"--densities", "1.5"}, {"--densities", "nan"},  {"--masks", "dense"},
      {"--rounds", "0"},      {"--tune-seconds", "x"}, {"--unknown"},
  };
  for (const std::vector<std::string>& command : commands) {
    const ProgramResult result = RunProgram(command);
    EXPECT_EQ(result.exit_code, 2) << command.back();
    EXPECT_EQ(result.out, "") << command.back();
    EXPECT_TRUE(result.err.starts_with("peers_bench: ")) << result.err;
    EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
  }
}

TEST(CommandTest, ComparesAndWritesWhatItPrinted) {
  const TemporaryFolder folder;
  const std::string csv = folder.Path("peers.csv");
  const ProgramResult result = RunProgram(
      {"--cached", "--tune-seconds", "0", "--rounds", "1", "--shapes", "64x96",
       "--types", "f32", "--threads", "1", "--densities", "0.25,1", "--masks",
       "column_mask,row_mask", "--csv", csv});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err.find("computes something else"), std::string::npos)
      << result.err;
  const std::string written = ReadWhole(csv);
  for (const std::string line : {"column_mask,f32,64,96,0.25,1,true,rankforge,",
                                 "row_mask,f32,64,96,0.25,1,true,rankforge,",
                                 "dense,f32,64,96,1,1,true,rankforge,"}) {
    EXPECT_NE(written.find(line), std::string::npos) << written;
  }
  // Every line has as many fields as the header; commas may be quoted.
  std::istringstream lines(written);
  std::optional<int64_t> commas;
  for (std::string line; std::getline(lines, line);) {
    bool quoted = false;
    const int64_t found = std::ranges::count_if(line, [&](char c) {
      quoted ^= c == '"';
      return c == ',' && !quoted;
    });
    EXPECT_EQ(commas.value_or(found), found) << line;
    commas = found;
  }
  // A header each, a title and an empty line.
  EXPECT_EQ(std::ranges::count(written, '\n') + 2,
            std::ranges::count(result.out, '\n'))
      << result.out;
}

}  // namespace
}  // namespace rankforge
