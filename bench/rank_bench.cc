// Whole rank adapters y = A (m(z) * z), z = B x against the dense y = W x that
// they replace, over a grid of shapes, ranks and kept shares: fused (one
// hand-over to the threads) and apart (two). Weights come from memory unless
// --cached.
//
//   rank_bench --rows 4096,11008 --cols 4096 --ranks 512,1024,2048
//              --kept 0.25,0.5,1 --threads 2 [--table FILE] [--csv FILE]
//
// All three take turns in each round; ratios are medians over rounds. The CSV
// is the break-even surface: `dense_over_fused` as a function of rank and kept
// share (scripts/plot_break_even.py draws it).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/affinity.h"
#include "base/atomic_file.h"
#include "base/statistics.h"
#include "bench/gemv_case.h"
#include "bench/program.h"
#include "runtime/plan/rank_stages.h"
#include "runtime/table/cpu.h"
#include "runtime/table/dispatch.h"
#include "tuner/measure/read_bandwidth.h"

namespace rankforge {
namespace {

struct Options : LayerOptions {
  std::vector<size_t> rows = {4096, 11008};
  std::vector<size_t> cols = {4096};
  std::vector<size_t> ranks = {256, 512, 1024, 2048};
  std::string csv;
};

// Nanoseconds per call, by round.
struct Times {
  std::vector<double> dense, apart, fused;
};

class RankGrid {
 public:
  RankGrid(const Options& options, const Dispatcher& dispatcher)
      : options_(options),
        type_(options.weight_type()),
        dispatcher_(dispatcher),
        executor_(MakeDefaultExecutor(options.threads)),
        read_(options.threads, ColdBytes()) {}

  void Run() {
    for (const size_t rows : options_.rows) {
      for (const size_t cols : options_.cols) RunShape(rows, cols);
    }
  }
  const std::string& csv() const { return csv_; }
  // The largest share of the read bandwidth, over all points.
  double largest_share() const { return largest_share_; }

 private:
  void RunShape(size_t rows, size_t cols) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    x_.resize(cols);
    for (float& value : x_) value = normal(random);
    y_.resize(rows);
    InputScratch input(cols);
    input_ = &input;
    const LayerCopies dense(options_.ProblemOf(Operation::kDense, rows, cols),
                            dispatcher_, options_.cached);
    fmt::print("\n{} {}x{}, {} threads, {}\n", Name(type_), rows, cols,
               options_.threads, ResidenceName(options_.cached));
    fmt::print("  {:>5} {:>5} {:>6} {:>9} {:>9} {:>9} {:>12} {:>12} {:>6}\n",
               "rank", "kept", "bytes", "dense us", "apart us", "fused us",
               "apart/fused", "dense/fused", "share");
    for (const size_t rank : options_.ranks) RunRank(dense, rows, cols, rank);
  }

  void RunRank(const LayerCopies& dense, size_t rows, size_t cols,
               size_t rank) {
    const LayerCopies b(options_.ProblemOf(Operation::kDense, rank, cols),
                        dispatcher_, options_.cached);
    const LayerCopies a(options_.ProblemOf(Operation::kColumnMask, rows, rank),
                        dispatcher_, options_.cached);
    RankScratch scratch(options_.threads, rank);
    std::vector<float> z(rank);
    const auto b_call = [&](size_t turn) {
      return b.At(turn).Dense(x_.data(), {.y = z.data()}, {}, input_);
    };
    const GemvCall once = b_call(0);
    RunCalls({&once, 1}, *executor_);
    const std::vector<float> values = z;
    for (const double share : options_.kept) {
      const ThresholdRule rule{.common_tau = ThresholdFor(values, share)};
      const auto run_rank = [&](size_t turn, HandOver hand_over) {
        const GemvCall first = b_call(turn);
        const RankBranch branch{&a.At(turn), z.data(), rule, {.y = y_.data()}};
        RunRankStages({&first, 1}, {&branch, 1}, *executor_, scratch,
                      hand_over);
      };
      Times times;
      size_t turn = 0;
      for (size_t round = 0; round < options_.rounds; ++round) {
        read_.Round();
        times.dense.push_back(TurnNs(turn, [&](size_t i) {
          const GemvCall call =
              dense.At(i).Dense(x_.data(), {.y = y_.data()}, {}, input_);
          RunCalls({&call, 1}, *executor_);
        }));
        times.apart.push_back(
            TurnNs(turn, [&](size_t i) { run_rank(i, HandOver::kOneEach); }));
        times.fused.push_back(
            TurnNs(turn, [&](size_t i) { run_rank(i, HandOver::kOne); }));
      }
      const double bytes = b.useful_bytes() + share * a.useful_bytes();
      Report(rows, cols, rank, share, bytes, dense.useful_bytes(), times);
    }
  }

  void Report(size_t rows, size_t cols, size_t rank, double share, double bytes,
              double dense_bytes, const Times& times) {
    const Timing dense = Summarise(times.dense);
    const Timing apart = Summarise(times.apart);
    const Timing fused = Summarise(times.fused);
    const Timing gain = PairedRatio(times.apart, times.fused);
    const Timing speedup = PairedRatio(times.dense, times.fused);
    const double read_gbps = read_.Best().gbps;
    const double roofline = bytes / fused.median / read_gbps;
    largest_share_ = std::max(largest_share_, roofline);
    fmt::print(
        "  {:>5} {:>5.2f} {:>6.2f} {:>9.1f} {:>9.1f} {:>9.1f} {:>6.2f} "
        "+-{:.2f} {:>6.2f} +-{:.2f} {:>6.2f}\n",
        rank, share, bytes / dense_bytes, dense.median / 1e3,
        apart.median / 1e3, fused.median / 1e3, gain.median, gain.mad,
        speedup.median, speedup.mad, roofline);
    std::fflush(stdout);
    csv_ += fmt::format(
        "{},{},{},{},{},{},{:.4f},{:.2f},{:.2f},{:.2f},{:.4f},{:.4f},{:.3f},"
        "{:.4f}\n",
        Name(type_), rows, cols, rank, share, options_.threads,
        bytes / dense_bytes, dense.median / 1e3, apart.median / 1e3,
        fused.median / 1e3, gain.median, speedup.median, read_gbps, roofline);
  }

  const Options& options_;
  WeightType type_;
  InputScratch* input_ = nullptr;  // of the shape that runs
  const Dispatcher& dispatcher_;
  std::unique_ptr<Executor> executor_;
  // Four times the cache, read in every round; a gigabyte would take longer
  // than the products.
  ReadBandwidthMeter read_;
  std::vector<float> x_, y_;
  double largest_share_ = 0;
  std::string csv_ =
      "type,rows,cols,rank,kept,threads,bytes_ratio,dense_us,apart_us,fused_us,"
      "apart_over_fused,dense_over_fused,read_gbps,roofline\n";
};

void AddOptions(CLI::App& program, Options& options) {
  options.kept = {0.25, 0.5, 0.75, 1};
  AddLayerOptions(program, options);
  AddActivations(program, options);
  const auto list = [&](const char* name, std::vector<size_t>& values,
                        const char* text) {
    program.add_option(name, values, text)->delimiter(',')->check(SideRange());
  };
  list("--rows", options.rows, "Outputs of W");
  list("--cols", options.cols, "Inputs of W");
  list("--ranks", options.ranks,
       "Inner dimensions d of A (rows, d) B (d, cols)");
  program.add_option("--csv", options.csv, "Also write the figures there");
}

Status Run(const Options& options) {
  RANKFORGE_RETURN_IF_ERROR(options.CheckActivations());
  RANKFORGE_ASSIGN_OR_RETURN(const auto table, OpenTable(options));
  const Dispatcher dispatcher(table ? &*table : nullptr);
  const PinnedHere pin(UsableCpus().front());
  RankGrid grid(options, dispatcher);
  grid.Run();
  if (!options.csv.empty()) {
    RANKFORGE_RETURN_IF_ERROR(WriteFileAtomically(options.csv, grid.csv()));
  }
  return CheckLargestShare(options.cached, grid.largest_share());
}

}  // namespace
}  // namespace rankforge

int main(int argc, char** argv) {
  return rankforge::RunBenchProgram<rankforge::Options>(
      "rank_bench",
      "Whole rank adapters A (m(Bx)) against the dense product they stand for.",
      rankforge::AddOptions, rankforge::Run, argc, argv);
}
