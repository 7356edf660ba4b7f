// The activations against the library's functions in double.
#include "kernels/layer/activation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/random_vector.h"

namespace rankforge {
namespace {

constexpr Activation kActivations[] = {Activation::kSilu, Activation::kGelu,
                                       Activation::kGeluTanh};

double Expected(Activation activation, double x) {
  constexpr double kSqrtHalf = 0.70710678118654752;
  constexpr double kSqrtTwoOverPi = 0.79788456080286536;
  switch (activation) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGelu:
      return x * 0.5 * std::erfc(-x * kSqrtHalf);
    case Activation::kGeluTanh:
      return 0.5 * x *
             (1 + std::tanh(kSqrtTwoOverPi * (x + 0.044715 * x * x * x)));
  }
  return 0;
}

// Every 2^-7 from -20 to 20, and far beyond.
TEST(ActivationTest, NearTheirDefinitionEverywhere) {
  std::vector<float> x = {-1e30f, -1000, -88, 88, 1000, 1e30f};
  for (float v = -20; v <= 20; v += 0x1p-7f) x.push_back(v);
  for (const Activation activation : kActivations) {
    std::vector<float> out(x.size());
    Activate(activation, x.data(), nullptr, x.size(), out.data());
    for (size_t i = 0; i < x.size(); ++i) {
      const double bound = 2e-7 * std::max(1.0f, std::fabs(x[i]));
      EXPECT_NEAR(out[i], Expected(activation, x[i]), x[i] < -20 ? 2e-7 : bound)
          << x[i];
    }
  }
}

TEST(ActivationTest, LanesDoNotDependOnEachOther) {
  constexpr size_t kMost = 100;
  const std::vector<float> gate = RandomVector(kMost, 1, 4);
  const std::vector<float> up = RandomVector(kMost, 2);
  for (const Activation activation : kActivations) {
    std::vector<float> all(kMost), alone(kMost);
    Activate(activation, gate.data(), up.data(), kMost, all.data());
    for (size_t i = 0; i < kMost; ++i) {
      Activate(activation, &gate[i], &up[i], 1, &alone[i]);
    }
    EXPECT_EQ(all, alone);
    for (const size_t n : {size_t{0}, size_t{1}, size_t{7}, size_t{33}}) {
      std::vector<float> part(n + 1, 7.0f);
      Activate(activation, gate.data(), up.data(), n, part.data());
      EXPECT_TRUE(std::equal(part.begin(), part.end() - 1, all.begin()));
      EXPECT_EQ(part.back(), 7.0f);
    }
    std::vector<float> in_place = gate;
    Activate(activation, in_place.data(), up.data(), kMost, in_place.data());
    EXPECT_EQ(in_place, all);
  }
}

// Every 2^-6 from -100 to 100: within 4 units in the last place, or 2e-36.
TEST(ActivationTest, SiluIsWithinFourUnitsEverywhere) {
  std::vector<float> gate;
  for (float g = -100; g <= 100; g += 0x1p-6f) gate.push_back(g);
  const std::vector<float> up(gate.size(), 1);
  std::vector<float> out(gate.size());
  Activate(Activation::kSilu, gate.data(), up.data(), gate.size(), out.data());
  for (size_t i = 0; i < gate.size(); ++i) {
    const double g = gate[i], expected = g / (1 + std::exp(-g));
    EXPECT_NEAR(out[i], expected, 0x1p-22 * std::abs(expected) + 2e-36) << g;
  }
}

TEST(ActivationTest, SiluOfEdgeValues) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> gate = {std::numeric_limits<float>::quiet_NaN(),
                                   kInfinity,
                                   -kInfinity,
                                   3e38f,
                                   -3e38f,
                                   0};
  const std::vector<float> up(gate.size(), 2);
  std::vector<float> out(gate.size());
  Activate(Activation::kSilu, gate.data(), up.data(), gate.size(), out.data());
  EXPECT_TRUE(std::isnan(out[0]));
  EXPECT_EQ(out[1], kInfinity);
  EXPECT_NEAR(out[2], 0, 1e-35f);
  EXPECT_EQ(out[3], kInfinity);  // times 2
  EXPECT_NEAR(out[4], 0, 1e-35f);
  EXPECT_EQ(out[5], 0);
}

TEST(ActivationTest, ValuesThatAreNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {std::nanf(""), kInfinity, -kInfinity};
  for (const Activation activation : kActivations) {
    std::vector<float> out(x.size());
    Activate(activation, x.data(), nullptr, x.size(), out.data());
    EXPECT_TRUE(std::isnan(out[0]));
    EXPECT_EQ(out[1], kInfinity);
    EXPECT_NEAR(out[2], 0, 2e-7);
  }
}

}  // namespace
}  // namespace rankforge
