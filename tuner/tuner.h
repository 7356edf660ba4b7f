// Finds the fastest layout, thread count and variant for every workload of a
// model on this CPU, at the densities that occur, and writes a dispatch table.
#ifndef RANKFORGE_TUNER_TUNER_H_
#define RANKFORGE_TUNER_TUNER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "runtime/problem.h"
#include "runtime/status.h"
#include "runtime/table.h"

namespace rankforge {

enum class Rigor { kEstimate, kMeasure, kPatient };

struct TuneProgress {
  size_t done = 0;   // workloads
  size_t total = 0;
  double seconds_left = 0;  // estimate
  std::string message;      // what is being measured
};

struct TuneOptions {
  Rigor rigor = Rigor::kMeasure;
  double budget_seconds = 90;  // soft: a usable table is always written
  uint64_t seed = 0;
  double margin = 0.02;
  bool allow_reassociation = false;
  // Weights come from cache only if all of the model fits it.
  bool cold = true;
  std::string journal;  // JSONL of all trials, empty: none
  bool resume = false;  // continue from that journal
  std::function<void(const TuneProgress&)> progress;
};

Result<DispatchTable> Tune(const std::vector<Workload>& workloads,
                           const TuneOptions& options);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_TUNER_H_
