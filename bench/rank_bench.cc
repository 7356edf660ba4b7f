// Whole rank adapters y = A (m(z) * z), z = B x against the dense y = W x they
// stand for: over a grid of shapes, ranks and kept shares, fused (one hand-over
// to the threads) and apart (two), weights from memory unless --cached.
//
//   rank_bench --rows 4096,11008 --cols 4096 --ranks 512,1024,2048
//              --kept .25,.5,1 --threads 2 [--table FILE] [--csv FILE]
//
// All three take turns within a round; ratios are medians over rounds. The CSV
// is the break-even surface: `dense_over_fused` as a function of rank and kept
// share (scripts/plot_break_even.py draws it).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "bench/gemv_case.h"
#include "bench/program.h"
#include "meta/packing.h"
#include "runtime/affinity.h"
#include "runtime/atomic_file.h"
#include "runtime/cpu.h"
#include "runtime/rank_stages.h"
#include "runtime/table.h"
#include "tuner/read_bandwidth.h"
#include "tuner/statistics.h"

namespace rankforge {
namespace {

struct Options {
  std::vector<size_t> rows = {4096, 11008};
  std::vector<size_t> cols = {4096};
  std::vector<size_t> ranks = {256, 512, 1024, 2048};
  std::vector<double> kept = {0.25, 0.5, 0.75, 1};
  std::string type = "bf16";
  size_t threads = CpuInfo::Detect().cores;
  size_t rounds = 9;
  bool cached = false;
  std::string table;
  std::string csv;
};

// Copies of a matrix of random weights, with a plan each; one if cached.
class Layer {
 public:
  Layer(const Problem& problem, const Dispatcher& dispatcher, bool cached) {
    const Decision decision = dispatcher.Decide(problem).decision;
    PackedMatrix matrix = PackedMatrix::Zero(problem.rows, problem.cols,
                                             problem.type, decision.layout)
                              .value();
    std::minstd_rand random(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> run(RunWeights(matrix.run_length()));
    for (size_t i = 0; i < matrix.runs(); ++i) {
      std::generate_n(run.begin(), matrix.run_length(),
                      [&] { return uniform(random); });
      matrix.SetRun(i, run.data());
    }
    const size_t copies = CopiesFor(matrix.bytes(), cached);
    copies_ = CopiesOf(std::move(matrix), copies);
    for (const PackedMatrix& copy : copies_) {
      plans_.push_back(GemvPlan::Bind(copy, problem, decision, nullptr));
    }
  }
  const GemvPlan& At(size_t turn) const { return plans_[turn % plans_.size()]; }
  double useful_bytes() const { return copies_[0].useful_bytes(); }

 private:
  std::vector<PackedMatrix> copies_;
  std::vector<GemvPlan> plans_;
};

// The threshold that keeps `count` of the values: all with magnitudes of at
// least the count-th.
float ThresholdFor(std::vector<float> values, size_t count) {
  if (count == 0) return std::numeric_limits<float>::infinity();
  for (float& value : values) value = std::abs(value);
  const auto smallest_kept = values.begin() + static_cast<ptrdiff_t>(count - 1);
  std::nth_element(values.begin(), smallest_kept, values.end(),
                   std::greater<>());
  return *smallest_kept;
}

// Nanoseconds of a call, by round.
struct Times {
  std::vector<double> dense, apart, fused;
};

class RankGrid {
 public:
  RankGrid(const Options& options, WeightType type,
           const Dispatcher& dispatcher)
      : options_(options),
        type_(type),
        dispatcher_(dispatcher),
        executor_(MakeDefaultExecutor(options.threads)),
        read_(options.threads, ColdBytes()) {}

  void Run() {
    for (const size_t rows : options_.rows) {
      for (const size_t cols : options_.cols) RunShape(rows, cols);
    }
  }
  const std::string& csv() const { return csv_; }
  // Of the read bandwidth, over all points.
  double largest_share() const { return largest_share_; }

 private:
  Problem ProblemOf(Operation operation, size_t rows, size_t cols) const {
    return {operation, rows, cols, type_, 1, 1, options_.threads};
  }

  void RunShape(size_t rows, size_t cols) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    x_.resize(cols);
    for (float& value : x_) value = normal(random);
    y_.resize(rows);
    const Layer dense(ProblemOf(Operation::kDense, rows, cols), dispatcher_,
                      options_.cached);
    fmt::print("\n{} {}x{}, {} threads, {}\n", Name(type_), rows, cols,
               options_.threads, options_.cached ? "in cache" : "from memory");
    fmt::print("  {:>5} {:>5} {:>6} {:>9} {:>9} {:>9} {:>12} {:>12} {:>6}\n",
               "rank", "kept", "bytes", "dense us", "apart us", "fused us",
               "apart/fused", "dense/fused", "share");
    for (const size_t rank : options_.ranks) RunRank(dense, rows, cols, rank);
  }

  void RunRank(const Layer& dense, size_t rows, size_t cols, size_t rank) {
    const Layer b(ProblemOf(Operation::kDense, rank, cols), dispatcher_,
                  options_.cached);
    const Layer a(ProblemOf(Operation::kColumnMask, rows, rank), dispatcher_,
                  options_.cached);
    RankScratch scratch(options_.threads, rank);
    std::vector<float> z(rank);
    const auto b_call = [&](size_t turn) {
      return b.At(turn).Dense(x_.data(), {.y = z.data()});
    };
    const GemvCall once = b_call(0);
    RunCalls({&once, 1}, *executor_);
    const std::vector<float> values = z;
    for (const double share : options_.kept) {
      const auto count =
          static_cast<size_t>(std::llround(share * static_cast<double>(rank)));
      const std::vector<float> tau(rank, ThresholdFor(values, count));
      const auto run_rank = [&](size_t turn, auto run_stages) {
        const GemvCall first = b_call(turn);
        const RankBranch branch{
            &a.At(turn), z.data(), {.tau = tau.data()}, {.y = y_.data()}};
        run_stages(std::span(&first, 1), std::span(&branch, 1), *executor_,
                   scratch);
      };
      Times times;
      size_t turn = 0;
      for (size_t round = 0; round < options_.rounds; ++round) {
        read_.Round();
        times.dense.push_back(TurnNs(turn, [&](size_t i) {
          const GemvCall call = dense.At(i).Dense(x_.data(), {.y = y_.data()});
          RunCalls({&call, 1}, *executor_);
        }));
        times.apart.push_back(
            TurnNs(turn, [&](size_t i) { run_rank(i, &RunRankStagesApart); }));
        times.fused.push_back(
            TurnNs(turn, [&](size_t i) { run_rank(i, &RunRankStages); }));
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
  const Dispatcher& dispatcher_;
  std::unique_ptr<Executor> executor_;
  // A gigabyte would take longer than the products; this is still four times
  // the cache, and is read in every round.
  ReadBandwidthMeter read_;
  std::vector<float> x_, y_;
  double largest_share_ = 0;
  std::string csv_ =
      "type,rows,cols,rank,kept,threads,bytes_ratio,dense_us,apart_us,fused_us,"
      "apart_over_fused,dense_over_fused,read_gbps,roofline\n";
};

void AddOptions(CLI::App& program, Options& options) {
  program.option_defaults()->always_capture_default();
  constexpr size_t kMaxSide = size_t{1} << 17;
  const auto list = [&](const char* name, std::vector<size_t>& values,
                        const char* text) {
    program.add_option(name, values, text)
        ->delimiter(',')
        ->check(CLI::Range(size_t{1}, kMaxSide));
  };
  list("--rows", options.rows, "Outputs of W");
  list("--cols", options.cols, "Inputs of W");
  list("--ranks", options.ranks,
       "Inner dimensions d of A (rows, d) B (d, cols)");
  program
      .add_option("--kept", options.kept, "Shares of the ranks that are kept")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 1.0));
  std::vector<std::string> types;
  for (const WeightType type : kWeightTypes) types.emplace_back(Name(type));
  program.add_option("--dtype", options.type, "Weight type")
      ->check(CLI::IsMember(types));
  program.add_option("--threads", options.threads, "Threads")
      ->check(CLI::Range(1, 256));
  program.add_option("--rounds", options.rounds, "Rounds of turns")
      ->check(CLI::Range(1, 10000));
  program.add_flag("--cached", options.cached,
                   "Repeat one copy of the weights; not given: from memory");
  program.add_option("--table", options.table,
                     "Dispatch table; not given: default variants");
  program.add_option("--csv", options.csv, "Also write the figures there");
}

Status Run(const Options& options) {
  std::optional<DispatchTable> table;
  if (!options.table.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(table, DispatchTable::Load(options.table));
  }
  const Dispatcher dispatcher(table ? &*table : nullptr);
  const PinnedHere pin(UsableCpus().front());
  RankGrid grid(options, *FromName(kWeightTypes, options.type), dispatcher);
  grid.Run();
  if (!options.csv.empty()) {
    RANKFORGE_RETURN_IF_ERROR(WriteFileAtomically(options.csv, grid.csv()));
  }
  return options.cached
             ? Status()
             : CheckRoofline("the largest share", grid.largest_share());
}

int Main(int argc, char** argv) {
  CLI::App program(
      "Whole rank adapters A (m(Bx)) against the dense product they stand "
      "for.");
  Options options;
  AddOptions(program, options);
  return RunProgram(program, "rank_bench", argc, argv,
                    [&] { return Run(options); });
}

}  // namespace
}  // namespace rankforge

int main(int argc, char** argv) { return rankforge::Main(argc, argv); }
