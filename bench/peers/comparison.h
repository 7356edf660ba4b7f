// Times contestants in turn. The machine drifts by a fifth within minutes: only
// times of one round are compared.
#ifndef RANKFORGE_BENCH_PEERS_COMPARISON_H_
#define RANKFORGE_BENCH_PEERS_COMPARISON_H_

#include <cstddef>
#include <string>
#include <vector>

#include "bench/peers/peers.h"
#include "tuner/measure/read_bandwidth.h"

namespace rankforge {

// One contestant at one product.
struct Entry {
  const PeerProduct* product;
  Contestant contestant;
  bool ours = false;
  std::vector<double> ns = {};  // median of the calls of a turn, by round
};

// What is wrong with y (rows,). Empty if it is the product, to within what the
// rounding of the weights to their type may cost.
std::string WhatIsWrong(const PeerProduct& product, const float* y);

// Keeps the threads that a contestant starts off the CPU of the calling thread,
// as ours are: pins those that appear between construction and PinNew.
class HelperPinning {
 public:
  HelperPinning();
  void PinNew() const;

 private:
  std::vector<int> cpus_;
  std::vector<int> before_;  // thread ids
};

// Every entry and `read` take a turn (TurnNs) in each of `rounds` rounds. With
// `pause`, a pause follows each turn, so that the next one meets no spinning
// threads.
void Compare(std::vector<Entry>& entries, size_t rounds, bool pause,
             ReadBandwidthMeter& read);

}  // namespace rankforge

#endif  // RANKFORGE_BENCH_PEERS_COMPARISON_H_
