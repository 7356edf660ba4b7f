#include "optimize/prices.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <map>
#include <utility>

#include "runtime/model/weights/modules.h"

namespace rankforge {
namespace {

// Adds what `more`, of the same problem, says of masks.
void Widen(const Workload& more, Workload& workload) {
  for (const std::string& layer : more.layers) {
    if (std::ranges::count(workload.layers, layer) == 0) {
      workload.layers.push_back(layer);
    }
  }
  if (workload.problem.operation == Operation::kDense) return;
  workload.density_p05 = std::min(workload.density_p05, more.density_p05);
  workload.density_p95 = std::max(workload.density_p95, more.density_p95);
  workload.density = (workload.density + more.density) / 2;
  // Frequencies of adapters with other budgets describe none of them.
  workload.keep_frequency.clear();
}

double BytesOf(const Problem& problem, double density) {
  return density * WeightBytes(problem.type, static_cast<double>(problem.rows *
                                                                 problem.cols));
}

// The rate in GB/s of the measured bucket that serves `density`, or is nearest
// to that. 0: none was measured.
double RateOf(const TableEntry& entry, double density) {
  const std::vector<Bucket>& buckets = entry.decision.by_density;
  const auto serving = std::ranges::find_if(
      buckets, [&](const Bucket& b) { return density <= b.max_density; });
  const auto at = std::distance(buckets.begin(), serving);
  double rate = 0;
  std::ptrdiff_t nearest = 0;
  for (std::ptrdiff_t i = 0; i < std::ssize(buckets); ++i) {
    const Bucket& bucket = buckets[static_cast<size_t>(i)];
    // n = 0: taken over from a neighbouring density.
    if (bucket.ns.n == 0 || !(bucket.useful_gbps > 0)) continue;
    if (rate > 0 && std::abs(i - at) >= std::abs(nearest - at)) continue;
    nearest = i;
    rate = bucket.useful_gbps;
  }
  return rate;
}

// 0: the table cannot say.
double NsOf(const Problem& problem, double density,
            const DispatchTable& table) {
  const auto entry =
      std::ranges::find(table.entries, problem, &TableEntry::problem);
  double gbps = entry == table.entries.end() ? 0 : RateOf(*entry, density);
  const auto& read = table.environment.read_gbps;
  if (gbps == 0 && !read.empty()) gbps = read.rbegin()->second;
  // GB/s are bytes per nanosecond.
  return gbps > 0 ? BytesOf(problem, density) / gbps : 0;
}

}  // namespace

std::vector<Workload> WorkloadsOfTypes(const ModelConfig& config,
                                       std::span<const Adapter* const> adapters,
                                       std::span<const WeightType> types,
                                       Activations activations,
                                       size_t threads) {
  std::map<Problem, Workload> by_problem;
  const auto add = [&](const Adapter* adapter, WeightType type) {
    ModelOptions options;
    options.type = type;
    options.lm_head_type = type;
    options.activations = activations;
    options.threads = threads;
    for (Workload& workload : ModelWorkloads(config, adapter, options)) {
      const auto [known, added] =
          by_problem.try_emplace(workload.problem, workload);
      if (!added) Widen(workload, known->second);
    }
  };
  for (const WeightType type : types) {
    add(nullptr, type);
    for (const Adapter* adapter : adapters) add(adapter, type);
  }
  std::vector<Workload> workloads;
  for (auto& [problem, workload] : by_problem) {
    workloads.push_back(std::move(workload));
  }
  return workloads;
}

Result<std::vector<std::vector<double>>> PricesOf(
    const ModelConfig& config, const Adapter* adapter,
    std::span<const TypeGroup> groups, std::span<const WeightType> types,
    Activations activations, const DispatchTable& table, size_t threads) {
  std::vector<std::vector<double>> prices(groups.size(),
                                          std::vector<double>(types.size()));
  Status status;
  ForEachTypedProduct(
      config, adapter, groups, [&](size_t group, const ProductSpec& product) {
        for (size_t t = 0; t < types.size(); ++t) {
          const Problem problem =
              ProblemOf(product, types[t], activations, threads);
          const double ns = NsOf(problem, product.density, table);
          prices[group][t] += ns;
          if (ns > 0 || !status.ok()) continue;
          status = Failed(fmt::format(
              "optimize: tuning measured neither {} nor what memory gives; "
              "give it more time with --budget",
              problem.ToString()));
        }
      });
  RANKFORGE_RETURN_IF_ERROR(status);
  return prices;
}

}  // namespace rankforge
