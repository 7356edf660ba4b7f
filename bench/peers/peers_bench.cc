// RankForge beside other libraries: the same matrix and the same vector, in
// turn within one run. Weights come from memory unless --cached.
//
//   peers_bench --shapes 4096x11008,11008x4096 --types f32,bf16
//               --densities 0.25,0.5,1 --threads 1,2 [--csv FILE]
//
// RankForge runs what its tuner chooses in --tune-seconds for these problems.
// Every result is checked against the product in f64 before it is timed.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <set>

#include "base/atomic_file.h"
#include "base/statistics.h"
#include "bench/peers/comparison.h"
#include "bench/peers/peers.h"
#include "bench/peers/peers_options.h"
#include "bench/program.h"
#include "tuner/tuner.h"

namespace rankforge {
namespace {

void PrintMessage(const std::string& message) {
  fmt::print(stderr, "peers_bench: {}\n", message);
}

// For messages that each product repeats.
void PrintOnce(const std::string& message) {
  static std::set<std::string> printed;
  if (printed.insert(message).second) PrintMessage(message);
}

std::vector<float> RandomWeights(const std::vector<PeerShape>& shapes) {
  size_t count = 0;
  for (const PeerShape& shape : shapes) {
    count = std::max(count, shape.rows * shape.cols);
  }
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> weights(count);
  for (float& weight : weights) weight = uniform(random);
  return weights;
}

// The dense product if a density is 1, and every mask at every other.
std::vector<Workload> WorkloadsOf(const PeersOptions& options,
                                  const PeerShape& shape, WeightType type,
                                  size_t threads) {
  std::vector<double> masked;
  std::vector<Workload> workloads;
  const auto add = [&](Operation operation, double density) {
    Workload workload;
    workload.problem = PeerProblem(operation, shape.rows, shape.cols, type,
                                   threads, options.exact);
    workload.density = density;
    workloads.push_back(workload);
  };
  for (const double density : options.densities) {
    if (density == 1) {
      add(Operation::kDense, 1);
    } else {
      for (const Operation mask : options.masks()) add(mask, density);
    }
  }
  return workloads;
}

// One shape, type and number of threads: all contestants with all products.
class Match {
 public:
  Match(const PeersOptions& options, const DispatchTable& table,
        const PeerShape& shape, WeightType type, size_t threads,
        std::span<const float> weights)
      : group_(shape.rows, shape.cols, type, threads, weights,
               std::ranges::min(options.densities), options.cached) {
    for (const Workload& workload :
         WorkloadsOf(options, shape, type, threads)) {
      products_.push_back(std::make_unique<PeerProduct>(
          group_, workload.problem.operation, workload.density, options.exact));
    }
    for (const auto& product : products_) {
      AddOurs(table, *product);
      for (const Peer& peer : Peers()) AddPeer(peer, *product);
    }
  }

  ReadBandwidth Run(size_t rounds) {
    // Four times the cache, read in every round; a gigabyte would take longer
    // than all turns.
    ReadBandwidthMeter read(group_.threads(), ColdBytes());
    Compare(entries_, rounds, group_.threads() > 1, read);
    return read.Best();
  }
  const std::vector<Entry>& entries() const { return entries_; }
  const PeerGroup& group() const { return group_; }

 private:
  void AddOurs(const DispatchTable& table, const PeerProduct& product) {
    const Choice choice = table.Lookup(product.problem).choice;
    std::vector<GemvPlan> plans;
    for (const PackedMatrix& w : group_.Packed(choice.layout)) {
      plans.push_back(GemvPlan::Bind(w, product.problem, choice));
    }
    const std::string how =
        fmt::format("{} in {}", plans[0].EntryAt(product.density).FullName(),
                    Name(choice.layout));
    const auto run =
        [this, &product, plans,
         y = std::vector<float>(group_.rows())](size_t turn) mutable {
          const GemvCall call =
              product.input.CallOn(plans[turn % plans.size()], y.data());
          RunCalls({&call, 1}, group_.executor());
          return static_cast<const float*>(y.data());
        };
    AddIfRight({&product, {"rankforge", how, run, nullptr}, true});
  }

  void AddPeer(const Peer& peer, const PeerProduct& product) {
    if (peer.offer == nullptr) {
      PrintOnce(fmt::format("without {}: {}", peer.name, peer.remedy));
      return;
    }
    const HelperPinning pinning;
    std::vector<Contestant> contestants;
    const Status status = peer.offer(group_, product, contestants);
    if (!status.ok()) {
      PrintOnce(fmt::format("without {}: {}", peer.name, status.message()));
    }
    for (Contestant& contestant : contestants) {
      AddIfRight({&product, std::move(contestant)});
    }
    pinning.PinNew();
  }

  void AddIfRight(Entry entry) {
    const std::string wrong =
        WhatIsWrong(*entry.product, entry.contestant.run(0));
    if (entry.contestant.rest) entry.contestant.rest();
    if (!wrong.empty()) {
      PrintMessage(fmt::format("without {}, {}: {}", entry.contestant.name,
                               entry.product->problem.ToString(), wrong));
      return;
    }
    entries_.push_back(std::move(entry));
  }

  PeerGroup group_;
  std::vector<std::unique_ptr<PeerProduct>> products_;
  std::vector<Entry> entries_;
};

// The dense peer with the lowest median, if there is one.
const Entry* BestDensePeer(const std::vector<Entry>& entries) {
  const Entry* best = nullptr;
  for (const Entry& entry : entries) {
    const bool dense = entry.product->problem.operation == Operation::kDense;
    if (entry.ours || !dense) continue;
    if (best == nullptr || Median(entry.ns) < Median(best->ns)) best = &entry;
  }
  return best;
}

std::string ProductName(const PeerProduct& product) {
  return product.problem.operation == Operation::kDense
             ? "dense"
             : fmt::format("{} {}", Name(product.problem.operation),
                           product.density);
}

// Prints a match as a table, and collects it as lines of CSV.
class Report {
 public:
  void Add(const Match& match, const ReadBandwidth& read, bool cached) {
    const PeerGroup& group = match.group();
    fmt::print("\n{} {}x{}, {} thread{}, {}; read {:.1f} GB/s\n",
               Name(group.type()), group.rows(), group.cols(), group.threads(),
               group.threads() == 1 ? "" : "s", ResidenceName(cached),
               read.gbps);
    fmt::print("  {:<17} {:<21} {:>9} {:>6} {:>6}   {}\n", "product", "by",
               "us", "GB/s", "share", "rankforge is");
    const Entry* ours = nullptr;
    const Entry* best = BestDensePeer(match.entries());
    for (const Entry& entry : match.entries()) {
      if (entry.ours) ours = &entry;
      // Ours precedes its peers, unless its result was wrong.
      const bool comparable = ours != nullptr && ours->product == entry.product;
      AddEntry(entry, comparable ? ours : nullptr, best, read.gbps, cached);
    }
    std::fflush(stdout);
  }
  const std::string& csv() const { return csv_; }
  // The largest share of the read bandwidth of a match, over all matches.
  double largest_share() const { return largest_share_; }

 private:
  void AddEntry(const Entry& entry, const Entry* ours, const Entry* best,
                double read_gbps, bool cached) {
    const Problem& problem = entry.product->problem;
    const Timing time = Summarise(entry.ns);
    const double gbps = entry.product->input.useful_bytes() / time.median;
    largest_share_ = std::max(largest_share_, gbps / read_gbps);
    // Our own line compares with the best peer that reads all weights.
    const Entry* rival = &entry;
    if (entry.ours) rival = best;
    const bool compared = ours != nullptr && rival != nullptr;
    const Timing ratio = compared ? PairedRatio(rival->ns, ours->ns) : Timing{};
    std::string says;
    if (compared) {
      says = fmt::format(
          "{:.2f} +-{:.2f} times as fast as {}", ratio.median, ratio.mad,
          entry.ours ? rival->contestant.name + ", dense" : "this");
    }
    fmt::print("  {:<17} {:<21} {:>9.1f} {:>6.1f} {:>6.2f}   {}\n",
               ProductName(*entry.product), entry.contestant.name,
               time.median / 1e3, gbps, gbps / read_gbps, says);
    csv_ += fmt::format(
        "{},{},{},{},{},{},{},{},\"{}\",{:.2f},{:.2f},{:.3f},{:.3f},{:.4f},{},"
        "{:.4f},{:.4f}\n",
        Name(problem.operation), Name(problem.type), problem.rows, problem.cols,
        entry.product->density, problem.threads, cached, entry.contestant.name,
        entry.contestant.detail, time.median / 1e3, time.mad / 1e3, gbps,
        read_gbps, gbps / read_gbps, compared ? rival->contestant.name : "",
        ratio.median, ratio.mad);
  }

  double largest_share_ = 0;
  std::string csv_ =
      "operation,type,rows,cols,density,threads,cached,by,how,us,us_mad,"
      "useful_gbps,read_gbps,roofline,rival,rival_over_ours,mad\n";
};

Result<DispatchTable> TuneFor(const PeersOptions& options) {
  DispatchTable table;
  table.cpu = CpuInfo::Detect();
  if (options.tune_seconds == 0) return table;
  std::vector<Workload> workloads;
  for (const PeerShape& shape : options.shapes()) {
    for (const WeightType type : options.types()) {
      for (const size_t threads : options.threads) {
        for (const Workload& workload :
             WorkloadsOf(options, shape, type, threads)) {
          workloads.push_back(workload);
        }
      }
    }
  }
  TuneOptions how;
  how.budget_seconds = options.tune_seconds;
  how.cold = !options.cached;
  how.allow_noise = true;  // ratios are taken within a round
  return Tune(workloads, how);
}

Status Run(const PeersOptions& options) {
  RANKFORGE_ASSIGN_OR_RETURN(const DispatchTable table, TuneFor(options));
  const std::vector<float> weights = RandomWeights(options.shapes());
  Report report;
  for (const WeightType type : options.types()) {
    for (const PeerShape& shape : options.shapes()) {
      for (const size_t threads : options.threads) {
        Match match(options, table, shape, type, threads, weights);
        const ReadBandwidth read = match.Run(options.rounds);
        report.Add(match, read, options.cached);
      }
    }
  }
  if (!options.csv.empty()) {
    RANKFORGE_RETURN_IF_ERROR(WriteFileAtomically(options.csv, report.csv()));
  }
  return CheckLargestShare(options.cached, report.largest_share());
}

}  // namespace
}  // namespace rankforge

int main(int argc, char** argv) {
  return rankforge::RunBenchProgram<rankforge::PeersOptions>(
      "peers_bench",
      "Dense and masked matrix-vector products of RankForge beside those of "
      "other libraries: the same data, in turn; medians in us and the median "
      "ratio within a round.",
      rankforge::AddPeersOptions, rankforge::Run, argc, argv);
}
