// What --model, --preset and --shapes pose as problems to tune.
#ifndef RANKFORGE_CLI_SHAPES_H_
#define RANKFORGE_CLI_SHAPES_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/options.h"
#include "runtime/problem.h"
#include "runtime/status.h"

namespace rankforge {

struct WorkloadOptions {
  std::string model;
  std::string preset;
  std::string shapes;
  double keep = 1;  // of a preset; 1: dense
};

// Adds --model, --preset, --shapes (exactly one is needed), --keep, and the
// common options that change what a model poses.
void AddWorkloadOptions(CLI::App& command, WorkloadOptions& options,
                        CommonOptions& common);

// The workloads with `threads` threads available. With an adapter or --keep
// they are those of the adapted and of the dense model, so that one table
// serves both.
Result<std::vector<Workload>> LoadWorkloads(const WorkloadOptions& options,
                                            const CommonOptions& common,
                                            size_t threads);

// Bytes of all weights that the workloads stand for.
size_t WeightBytes(const std::vector<Workload>& workloads);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SHAPES_H_
