// `rankforge table`: the list of its subcommands, and how they print problems
// and decisions.
#include "cli/table/table_commands.h"

namespace rankforge {
namespace {

constexpr void (*kSubcommands[])(CLI::App&, Action&) = {
    AddTableShow, AddTableExplain, AddTableMerge, AddTableDiff, AddTableVerify,
};

}  // namespace

Json ToJson(const Problem& problem) {
  return {{"operation", Name(problem.operation)},
          {"rows", problem.rows},
          {"cols", problem.cols},
          {"type", Name(problem.type)},
          {"granularity", problem.granularity},
          {"batch", problem.batch},
          {"threads", problem.threads},
          {"activations", Name(problem.activations)}};
}

Json ToJson(const Decision& decision) {
  Json buckets = Json::array();
  for (const Bucket& bucket : decision.by_density) {
    buckets.push_back({{"max_density", Rounded(bucket.max_density)},
                       {"variant", bucket.variant},
                       {"ns", Rounded(bucket.ns.median)},
                       {"ns_mad", Rounded(bucket.ns.mad)},
                       {"samples", bucket.ns.n},
                       {"useful_gbps", Rounded(bucket.useful_gbps)},
                       {"roofline", Rounded(bucket.roofline)},
                       {"vs_default", Rounded(bucket.vs_default)},
                       {"runner_up", bucket.runner_up},
                       {"runner_up_ns", Rounded(bucket.runner_up_ns)}});
  }
  return {{"layout", Name(decision.layout)},
          {"threads", decision.threads},
          {"default", decision.default_variant},
          {"by_density", buckets}};
}

Json ToJson(std::span<const CpuDifference> differences) {
  Json list = Json::array();
  for (const CpuDifference& difference : differences) {
    list.push_back({{"field", difference.field},
                    {"breaks", Name(difference.breaks)},
                    {"a", difference.a},
                    {"b", difference.b}});
  }
  return list;
}

void AddTable(CLI::App& program, Action& action) {
  CLI::App* table =
      program.add_subcommand("table", "Read and compare dispatch tables");
  table->require_subcommand(1);
  for (const auto add : kSubcommands) add(*table, action);
}

}  // namespace rankforge
