// The entries of librankforge-tuner.
#include <array>
#include <vector>

#include "capi/arguments.h"
#include "capi/problem.h"
#include "include/rankforge/rankforge_tuner.h"
#include "tuner/tuner.h"

namespace rankforge::capi {
namespace {

constexpr std::array kRigorNumbers = {Rigor::kMeasure, Rigor::kEstimate,
                                      Rigor::kPatient};

TuneOptions OptionsOf(const rankforge_tune_options& given) {
  // Programs for version 0.1 say there that kernels may round inputs.
  if (given.reserved_start != 0) {
    throw ArgumentError(
        "options: reserved_start is {}; it must be 0: activations of each "
        "problem say whether its inputs are rounded",
        given.reserved_start);
  }
  CheckReserved(given.reserved, "options");
  TuneOptions options;
  if (given.rigor < 0 ||
      static_cast<size_t>(given.rigor) >= kRigorNumbers.size()) {
    throw ArgumentError("rigor: {} is not in [0, {})", given.rigor,
                        kRigorNumbers.size());
  }
  options.rigor = kRigorNumbers[static_cast<size_t>(given.rigor)];
  if (!(given.budget_seconds >= 0)) {
    throw ArgumentError("budget_seconds: {} is no time", given.budget_seconds);
  }
  if (given.budget_seconds != 0) options.budget_seconds = given.budget_seconds;
  options.seed = given.seed;
  options.allow_noise = given.allow_noise != 0;
  if (given.journal != nullptr) options.journal = given.journal;
  options.resume = given.resume != 0;
  if (options.resume && options.journal.empty()) {
    throw ArgumentError("resume: is set, but journal is null");
  }
  if (given.progress != nullptr) {
    options.progress = [given](const TuneProgress& progress) {
      given.progress(given.user, progress.done, progress.total,
                     progress.seconds_left, progress.message.c_str());
    };
  }
  return options;
}

Workload WorkloadOf(const rankforge_problem& given) {
  // As many as the tuner's own executors may have.
  constexpr size_t kMostThreads = 4096;
  rankforge_problem asked = given;
  if (asked.threads == 0) asked.threads = 1;
  const CallProblem call = ReadProblem(asked, kMostThreads);
  if (call.tokens > 1) {
    throw UnsupportedError(
        "tokens: {}, but problems of several tokens have one kernel each and "
        "are not tuned",
        call.tokens);
  }
  // Plans take one value for all products of a layer; what is measured is one.
  const auto stated = ReadActivations(given.activations);
  if (stated && call.problem.activations != *stated) {
    throw ArgumentError(
        "activations: {} is not for {} in {}: it keeps its inputs",
        Name(*stated), Name(call.problem.operation), Name(call.problem.type));
  }
  Workload workload;
  workload.problem = call.problem;
  workload.density = call.density;
  return workload;
}

}  // namespace
}  // namespace rankforge::capi

using namespace rankforge;        // NOLINT: the entries of the library
using namespace rankforge::capi;  // NOLINT

rankforge_status rankforge_tune(const rankforge_problem* problems, size_t count,
                                const rankforge_tune_options* options,
                                const char* path) {
  return Guarded([&] {
    rankforge_tune_options given = RANKFORGE_TUNE_OPTIONS_INIT;
    if (options != nullptr) given = ReadStruct(options, "options");
    const TuneOptions tune_options = OptionsOf(given);
    Checked(path, "path");
    std::vector<Workload> workloads;
    for (size_t i = 0; i < count; ++i) {
      workloads.push_back(WorkloadOf(ReadElement(problems, i, "problems")));
    }
    Check(ValueOf(Tune(workloads, tune_options)).Save(path));
  });
}

const char* rankforge_tuner_last_error(void) { return LastError(); }
