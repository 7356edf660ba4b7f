#include "bench/peers/comparison.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <thread>

#include "base/affinity.h"

namespace rankforge {
namespace {

// Root mean square error over root mean square of y that is still the product.
// Rounding the weights to integers of 4 bits costs 0.06, to bf16 0.003 where
// the input is rounded, too. One missing column of a thousand costs 0.03.
double ToleranceOf(WeightType type) {
  switch (FormatOf(type).bits) {
    case 32:
      return 1e-5;
    case 16:
      return 5e-3;
    case 8:
      return 2e-2;
    default:
      return 0.1;
  }
}

std::vector<int> ThreadIds() {
  std::vector<int> ids;
  for (const auto& task :
       std::filesystem::directory_iterator("/proc/self/task")) {
    ids.push_back(std::stoi(task.path().filename().string()));
  }
  std::ranges::sort(ids);
  return ids;
}

// How long threads of OpenBLAS (2^26 cycles) and GNU OpenMP spin for work.
constexpr std::chrono::milliseconds kPause{35};

double TakeTurn(const Contestant& contestant, size_t& turn) {
  const double ns = TurnNs(turn, contestant.run);
  if (contestant.rest) contestant.rest();
  return ns;
}

}  // namespace

std::string WhatIsWrong(const PeerProduct& product, const float* y) {
  const std::vector<double>& expected = product.expected;
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += (y[i] - expected[i]) * (y[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  const double relative = std::sqrt(error / std::max(norm, 1e-300));
  const double tolerance = ToleranceOf(product.problem.type);
  if (relative <= tolerance) return "";
  return fmt::format("computes something else: error {:.2g}, {:.2g} allowed",
                     relative, tolerance);
}

HelperPinning::HelperPinning() : cpus_(UsableCpus()), before_(ThreadIds()) {}

void HelperPinning::PinNew() const {
  if (cpus_.size() < 2) return;
  size_t next = 1;
  for (const int id : ThreadIds()) {
    if (std::ranges::binary_search(before_, id)) continue;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpus_[next], &set);
    // Refused when the thread has ended.
    static_cast<void>(sched_setaffinity(id, sizeof(set), &set));
    next = next % (cpus_.size() - 1) + 1;
  }
}

void Compare(std::vector<Entry>& entries, size_t rounds, bool pause,
             ReadBandwidthMeter& read) {
  const PinnedHere pin(UsableCpus().front());
  size_t turn = 0;
  // Lets the threads fall asleep that the check woke.
  if (pause) std::this_thread::sleep_for(kPause);
  for (size_t round = 0; round < rounds; ++round) {
    read.Round();
    for (size_t i = 0; i < entries.size(); ++i) {
      // Each round begins with another entry, so that none always follows the
      // contestant that leaves the machine in its worst state.
      Entry& entry = entries[(i + round) % entries.size()];
      entry.ns.push_back(TakeTurn(entry.contestant, turn));
      if (pause) std::this_thread::sleep_for(kPause);
    }
  }
}

}  // namespace rankforge
