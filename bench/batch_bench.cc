// Several tokens in one call through the union of their column masks. They are
// compared with one token that has the union as its mask, and with one call per
// token, each with its own mask. Weights come from memory unless --cached;
// variants are the defaults.
//
//   batch_bench --rows 11008 --cols 4096 --dtype bf16 --density 0.5
//               --tokens 2,4,8 --threads 2
//
// Tokens keep each column with the given probability. Masks are "own",
// independent of each other, or "same", one for all. All contestants and the
// read bandwidth take a turn in each round; ratios are medians over rounds.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/affinity.h"
#include "base/statistics.h"
#include "bench/gemv_case.h"
#include "bench/program.h"
#include "tuner/measure/read_bandwidth.h"

namespace rankforge {
namespace {

struct Options : ProgramOptions {
  size_t rows = 11008;
  size_t cols = 4096;
  double density = 0.5;
  std::vector<size_t> tokens = {2, 4, 8, 16};
};

// Inputs (tokens, cols), a mask of each, and their union.
class Tokens {
 public:
  Tokens(const Options& options, size_t tokens, bool same)
      : cols_(options.cols),
        x_(tokens * cols_),
        scratch_(tokens, MaskScratch(cols_)),
        union_scratch_(tokens, cols_) {
    std::mt19937 random(7);
    std::uniform_real_distribution<float> uniform(0, 1);
    for (float& value : x_) value = uniform(random);
    std::vector<const uint64_t*> bits;
    for (size_t t = 0; t < tokens; ++t) {
      // Uniform values: those above 1 - density are that share.
      const float* const score = x_.data() + (same ? 0 : t * cols_);
      own_.push_back(
          MakeMask(x_.data() + t * cols_, cols_,
                   {.score = score,
                    .common_tau = static_cast<float>(1 - options.density)},
                   scratch_[t].storage()));
      bits.push_back(own_[t].bits);
    }
    together_ = UnionOfMasks(bits, 1, x_.data(), cols_, cols_,
                             union_scratch_.storage());
  }
  size_t size() const { return own_.size(); }
  const MaskView& own(size_t t) const { return own_[t]; }
  const MaskView& together() const { return together_; }
  // The union as the mask of one token.
  MaskView first_of_union() const {
    MaskView mask = together_;
    mask.bits = nullptr;
    return mask;
  }

 private:
  size_t cols_;
  std::vector<float> x_;
  std::vector<MaskScratch> scratch_;
  UnionScratch union_scratch_;
  std::vector<MaskView> own_;
  MaskView together_;
};

class BatchRuns {
 public:
  explicit BatchRuns(const Options& options)
      : options_(options),
        problem_{Operation::kColumnMask,
                 options.rows,
                 options.cols,
                 options.weight_type(),
                 1,
                 1,
                 options.threads},
        executor_(MakeDefaultExecutor(options.threads)),
        read_(options.threads, ColdBytes()) {
    PackedMatrix matrix = RandomWeights(options.rows, options.cols,
                                        problem_.type, Layout::kInOut);
    const double touched =
        options.density * static_cast<double>(matrix.bytes());
    const size_t copies =
        CopiesFor(static_cast<size_t>(touched), options.cached);
    weights_ = CopiesOf(std::move(matrix), copies);
    Problem several = problem_;
    several.batch = kMostTokens;
    for (const PackedMatrix& copy : weights_) {
      one_.push_back(GemvPlan::Bind(copy, problem_, DefaultChoice(problem_)));
      several_.push_back(GemvPlan::Bind(copy, several, DefaultChoice(several)));
    }
  }

  void Run() {
    fmt::print("{} {}x{}, density {}, {} thread(s), {}\n", options_.type,
               options_.rows, options_.cols, options_.density, options_.threads,
               ResidenceName(options_.cached));
    fmt::print("  {:>6} {:>5} {:>7} {:>9} {:>9} {:>12} {:>17} {:>9} {:>6}\n",
               "tokens", "masks", "union", "union us", "batch us",
               "union/batch", "one by one/batch", "read GB/s", "share");
    for (const size_t tokens : options_.tokens) {
      for (const bool same : {true, false}) {
        RunTokens(Tokens(options_, tokens, same), same);
      }
    }
  }
  // The largest share of the read bandwidth, over all lines.
  double largest_share() const { return largest_share_; }

 private:
  void RunTokens(const Tokens& tokens, bool same) {
    // An odd number of cache lines between tokens.
    const size_t y_stride = ((options_.rows + 15) / 16 | 1) * 16;
    std::vector<float> y(tokens.size() * y_stride);
    // Each call reads the next copy, whoever makes it: in a model all other
    // layers lie between two calls of one.
    size_t copy = 0;
    const auto next =
        [&](const std::vector<GemvPlan>& plans) -> const GemvPlan& {
      return plans[copy++ % plans.size()];
    };
    std::vector<double> once, batch, apart;
    size_t turn = 0;
    for (size_t round = 0; round < options_.rounds; ++round) {
      read_.Round();
      once.push_back(TurnNs(turn, [&](size_t) {
        const GemvCall call =
            next(one_).ColumnMask(tokens.first_of_union(), {.y = y.data()});
        RunCalls({&call, 1}, *executor_);
      }));
      batch.push_back(TurnNs(turn, [&](size_t) {
        const GemvCall call = next(several_).ColumnMask(
            tokens.together(), {.y = y.data()},
            {.tokens = tokens.size(), .y_stride = y_stride});
        RunCalls({&call, 1}, *executor_);
      }));
      apart.push_back(TurnNs(turn, [&](size_t) {
        for (size_t t = 0; t < tokens.size(); ++t) {
          const GemvCall call = next(one_).ColumnMask(
              tokens.own(t), {.y = y.data() + t * y_stride});
          RunCalls({&call, 1}, *executor_);
        }
      }));
    }
    const double density = static_cast<double>(tokens.together().kept) /
                           static_cast<double>(options_.cols);
    const double bytes = density * weights_[0].useful_bytes();
    const double read_gbps = read_.Best().gbps;
    const double once_ns = Summarise(once).median;
    const double share = bytes / once_ns / read_gbps;
    largest_share_ = std::max(largest_share_, share);
    const Timing against_once = PairedRatio(once, batch);
    const Timing against_apart = PairedRatio(apart, batch);
    fmt::print(
        "  {:>6} {:>5} {:>7.2f} {:>9.1f} {:>9.1f} {:>6.2f} +-{:.2f} {:>11.2f} "
        "+-{:.2f} {:>9.1f} {:>6.2f}\n",
        tokens.size(), same ? "same" : "own", density, once_ns / 1e3,
        Summarise(batch).median / 1e3, against_once.median, against_once.mad,
        against_apart.median, against_apart.mad, read_gbps, share);
    std::fflush(stdout);
  }

  const Options& options_;
  Problem problem_;
  std::unique_ptr<Executor> executor_;
  ReadBandwidthMeter read_;
  std::vector<PackedMatrix> weights_;
  std::vector<GemvPlan> one_, several_;
  double largest_share_ = 0;
};

void AddOptions(CLI::App& program, Options& options) {
  AddProgramOptions(program, options);
  program.add_option("--rows", options.rows, "Outputs")->check(SideRange());
  program.add_option("--cols", options.cols, "Inputs")->check(SideRange());
  program
      .add_option("--density", options.density,
                  "Share of the columns that a token keeps")
      ->check(ShareFrom(0.01));
  program.add_option("--tokens", options.tokens, "Tokens of a call")
      ->delimiter(',')
      ->check(CLI::Range(size_t{1}, kMostTokens));
}

Status Run(const Options& options) {
  const PinnedHere pin(UsableCpus().front());
  BatchRuns runs(options);
  runs.Run();
  return CheckLargestShare(options.cached, runs.largest_share());
}

}  // namespace
}  // namespace rankforge

int main(int argc, char** argv) {
  return rankforge::RunBenchProgram<rankforge::Options>(
      "batch_bench", "Several tokens through the union of their masks.",
      rankforge::AddOptions, rankforge::Run, argc, argv);
}
