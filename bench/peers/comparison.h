// Times contestants in turn and says who takes how long. The machine drifts by
// a fifth within minutes: only what is measured within one round is compared.
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

// What is wrong with y (rows,); empty: it is the product, to what rounding the
// weights to their type may cost.
std::string WhatIsWrong(const PeerProduct& product, const float* y);

// Keeps threads that a contestant starts off the calling thread's CPU, as ours
// are: pins those that appear between construction and PinNew.
class HelperPinning {
 public:
  HelperPinning();
  void PinNew() const;

 private:
  std::vector<int> cpus_;
  std::vector<int> before_;  // thread ids
};

// `rounds` rounds of one turn each (TurnNs). With several threads a pause
// follows, so that the next one meets no spinning threads. `read` takes a turn
// in each round.
void Compare(std::vector<Entry>& entries, size_t rounds, bool pause,
             ReadBandwidthMeter& read);

}  // namespace rankforge

#endif  // RANKFORGE_BENCH_PEERS_COMPARISON_H_
