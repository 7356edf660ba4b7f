// Entries that are compiled for one shape against the same variants for any
// shape, one product at a time. Weights come from memory unless --cached.
//
//   static_bench --plugin FILE --kept 0.1,0.5,1 --threads 1 [--filter REGEX]
//
// Both take turns in each round; ratios are medians over rounds. With --cached,
// cases whose kept weights do not fit three quarters of the last-level cache
// are left out.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "base/affinity.h"
#include "base/atomic_file.h"
#include "bench/gemv_case.h"
#include "bench/program.h"
#include "kernels/registry.h"
#include "meta/rules.h"
#include "runtime/plugin_file.h"

namespace rankforge {
namespace {

struct Options : LayerOptions {
  std::vector<std::string> plugins;
  std::string filter;
  std::string csv;
};

Problem ProblemOf(const KernelEntry& entry, size_t threads) {
  return {entry.spec.operation,
          entry.static_rows,
          entry.static_cols,
          entry.spec.type,
          1,
          1,
          threads};
}

class Comparison {
 public:
  explicit Comparison(const Options& options)
      : options_(options), executor_(MakeDefaultExecutor(options.threads)) {
    fmt::print("{} threads, {}\n{:<62} {:>5} {:>9} {:>9}  {}\n",
               options.threads, ResidenceName(options.cached), "variant",
               "kept", "static us", "any us", "any/static");
  }

  void Run(const KernelEntry& entry, const KernelEntry& dynamic) {
    const Problem problem = ProblemOf(entry, options_.threads);
    const Layout layout = *std::ranges::find_if(
        kLayouts, [&](Layout each) { return Accepts(entry.spec, each); });
    PackedMatrix matrix =
        RandomWeights(problem.rows, problem.cols, problem.type, layout);
    for (const double kept : options_.kept) {
      if (problem.operation == Operation::kDense && kept < 1) continue;
      const double bytes = kept * static_cast<double>(matrix.bytes());
      if (options_.cached && bytes > CachedBytes()) continue;
      std::vector<PackedMatrix> matrices =
          CopiesOf(std::move(matrix),
                   CopiesFor(static_cast<size_t>(bytes), options_.cached));
      Compare(entry, PlansOf(entry, problem, matrices),
              PlansOf(dynamic, problem, matrices), GemvInput(problem, kept),
              kept);
      matrix = std::move(matrices[0]);
    }
  }
  const std::string& csv() const { return csv_; }

 private:
  static double CachedBytes() {
    return 0.75 * static_cast<double>(CpuInfo::Detect().l3_bytes);
  }

  void Compare(const KernelEntry& entry, const std::vector<GemvPlan>& of_shape,
               const std::vector<GemvPlan>& of_any, const GemvInput& input,
               double kept) {
    std::vector<float> y(entry.static_rows);
    size_t turn = 0;
    const auto turn_of = [&](const std::vector<GemvPlan>& plans) {
      return TurnNs(turn, [&](size_t i) {
        const GemvCall call = input.CallOn(plans[i % plans.size()], y.data());
        RunCalls({&call, 1}, *executor_);
      });
    };
    std::vector<double> fixed, any;
    for (size_t round = 0; round < options_.rounds; ++round) {
      // The second one finds the threads awake, so the order alternates.
      if (round % 2 == 0) fixed.push_back(turn_of(of_shape));
      any.push_back(turn_of(of_any));
      if (round % 2 == 1) fixed.push_back(turn_of(of_shape));
    }
    const Timing ratio = PairedRatio(any, fixed);
    const double fixed_us = Summarise(fixed).median / 1e3;
    const double any_us = Summarise(any).median / 1e3;
    fmt::print("{:<62} {:>5.2f} {:>9.1f} {:>9.1f}  {:.3f} +-{:.3f}\n",
               entry.variant, kept, fixed_us, any_us, ratio.median, ratio.mad);
    std::fflush(stdout);
    csv_ += fmt::format("{},{},{},{},{:.2f},{:.2f},{:.4f},{:.4f}\n",
                        entry.FullName(), kept, options_.threads,
                        options_.cached ? "cache" : "memory", fixed_us, any_us,
                        ratio.median, ratio.mad);
  }

  const Options& options_;
  std::unique_ptr<Executor> executor_;
  std::string csv_ =
      "variant,kept,threads,weights,static_us,any_us,any_over_static,mad\n";
};

Status Run(const Options& options) {
  for (const std::string& plugin : options.plugins) {
    RANKFORGE_RETURN_IF_ERROR(LoadPlugin(plugin));
  }
  std::regex filter;
  try {
    filter = std::regex(options.filter);
  } catch (const std::regex_error& error) {
    return UsageError(
        fmt::format("--filter {}: {}", options.filter, error.what()));
  }
  const Registry& registry = Registry::Get();
  const PinnedHere pin(UsableCpus().front());
  Comparison comparison(options);
  for (const KernelEntry& entry : registry.entries()) {
    if (entry.static_rows == 0 || !Serves(entry.spec, 1) ||
        !std::regex_search(entry.FullName(), filter)) {
      continue;
    }
    const KernelEntry* any =
        registry.Find(std::string(entry.backend) + "/" + entry.target + "/" +
                      std::string(NameOf(entry.spec).view()));
    if (any != nullptr) comparison.Run(entry, *any);
  }
  if (options.csv.empty()) return {};
  return WriteFileAtomically(options.csv, comparison.csv());
}

void AddOptions(CLI::App& program, Options& options) {
  options.kept = {0.1, 0.5, 1};
  AddLayerOptions(program, options);
  program
      .add_option("--plugin", options.plugins, "Plug-in of `rankforge forge`")
      ->required();
  program.add_option("--filter", options.filter,
                     "Only variants that this regular expression finds");
  program.add_option("--csv", options.csv, "Also write the figures there");
}

}  // namespace
}  // namespace rankforge

int main(int argc, char** argv) {
  return rankforge::RunBenchProgram<rankforge::Options>(
      "static_bench", "Variants for one shape against the same for any shape.",
      rankforge::AddOptions, rankforge::Run, argc, argv);
}
