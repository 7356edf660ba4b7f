// The command line of peers_bench.
#ifndef RANKFORGE_BENCH_PEERS_PEERS_OPTIONS_H_
#define RANKFORGE_BENCH_PEERS_PEERS_OPTIONS_H_

#include <CLI/CLI.hpp>
#include <cstddef>
#include <string>
#include <vector>

#include "base/status.h"
#include "meta/types.h"

namespace rankforge {

struct PeerShape {
  size_t rows;
  size_t cols;
};

struct PeersOptions {
  // As they are given. What they stand for is below.
  std::vector<std::string> shape_names = {"4096x11008", "11008x4096"};
  std::vector<std::string> type_names = {"f32", "bf16", "i8_group32",
                                         "i4_group32"};
  std::vector<std::string> mask_names = {"column_mask"};

  std::vector<double> densities = {0.25, 0.5, 1};  // 1: dense
  std::vector<size_t> threads;
  size_t rounds = 9;
  double tune_seconds = 20;
  bool cached = false;
  bool exact = false;
  std::string csv;  // empty: none

  std::vector<PeerShape> shapes() const;
  std::vector<WeightType> types() const;
  std::vector<Operation> masks() const;  // operations at densities below 1
};

void AddPeersOptions(CLI::App& program, PeersOptions& options);

}  // namespace rankforge

#endif  // RANKFORGE_BENCH_PEERS_PEERS_OPTIONS_H_
