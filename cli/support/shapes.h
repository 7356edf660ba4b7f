// The problems that --model, --preset and --shapes pose.
#ifndef RANKFORGE_CLI_SUPPORT_SHAPES_H_
#define RANKFORGE_CLI_SUPPORT_SHAPES_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "cli/support/options.h"
#include "runtime/table/problem.h"

namespace rankforge {

struct WorkloadOptions {
  std::string model;
  std::string preset;
  std::string shapes;
  double keep = 1;  // of a preset; 1: dense
  // Of problems without recorded masks.
  MaskStructure mask_structure = MaskStructure::kBernoulli;
};

// Adds --model, --preset, --shapes (exactly one, or where not `needed` at most
// one), --keep, --mask-structure, and the common options that change what a
// model poses.
void AddWorkloadOptions(CLI::App& command, WorkloadOptions& options,
                        CommonOptions& common, bool needed = true);

// The workloads with `threads` threads available. With an adapter or --keep
// they are those of the adapted and of the dense model, so that one table
// serves both. None if none of the three is given.
Result<std::vector<Workload>> LoadWorkloads(const WorkloadOptions& options,
                                            const CommonOptions& common,
                                            size_t threads);

// The problems of one token in order, of the adapted model where there is an
// adapter or --keep; of a shapes file, each once.
Result<std::vector<Problem>> LoadSequence(const WorkloadOptions& options,
                                          const CommonOptions& common,
                                          size_t threads);

// Bytes of all weights that the workloads stand for.
size_t WeightBytes(const std::vector<Workload>& workloads);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_SUPPORT_SHAPES_H_
