// The command line of peers_bench.
#ifndef RANKFORGE_BENCH_PEERS_PEERS_OPTIONS_H_
#define RANKFORGE_BENCH_PEERS_PEERS_OPTIONS_H_

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
  std::vector<PeerShape> shapes;
  std::vector<WeightType> types;
  std::vector<Operation> masks;   // operations at densities below 1
  std::vector<double> densities;  // 1: dense
  std::vector<size_t> threads;
  size_t rounds = 9;
  double tune_seconds = 20;
  bool cached = false;
  std::string csv;  // empty: none
  bool help = false;
};

// Prints the help itself. A usage error names option, value and what it takes.
Result<PeersOptions> ParsePeersOptions(int argc, char** argv);

}  // namespace rankforge

#endif  // RANKFORGE_BENCH_PEERS_PEERS_OPTIONS_H_
