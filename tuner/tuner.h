// Finds the fastest layout, thread count and variant for every workload of a
// model on this CPU, at the densities that occur, and writes a dispatch table.
#ifndef RANKFORGE_TUNER_TUNER_H_
#define RANKFORGE_TUNER_TUNER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "meta/types.h"
#include "runtime/table/problem.h"
#include "runtime/table/rigor.h"
#include "runtime/table/table.h"

namespace rankforge {

struct TuneProgress {
  size_t done = 0;  // workloads
  size_t total = 0;
  double seconds_left = 0;  // estimate
  std::string message;      // what is being measured
};

struct TuneOptions {
  Rigor rigor = Rigor::kMeasure;
  // A soft limit, divided among the workloads. One that gets no time is left to
  // the default, and the table says so.
  double budget_seconds = 90;
  uint64_t seed = 0;
  double margin = 0.02;
  // Dense products of integers have layouts whose runs are rows alone, where a
  // model keeps the blocks of its file (runtime/model/weights/stored_types.h).
  bool integers_on_rows = false;
  bool allow_noise = false;  // measure where CheckEnvironment refuses
  // Weights come from memory. False only for a model that fits the last-level
  // cache as a whole: then they come from there.
  bool cold = true;
  std::string journal;  // JSONL of all trials, empty: none
  bool resume = false;  // continue from that journal
  std::function<void(const TuneProgress&)> progress;
};

// Fails on workloads that cannot occur, on an unusable journal, and when a
// default variant is wrong; never for lack of time.
Result<DispatchTable> Tune(const std::vector<Workload>& workloads,
                           const TuneOptions& options);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_TUNER_H_
