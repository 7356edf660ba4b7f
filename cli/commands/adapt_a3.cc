#include "cli/commands/adapt_a3.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "cli/support/interrupt.h"
#include "cli/support/output.h"
#include "cli/support/progress.h"

namespace rankforge {
namespace {

// The value of the enumeration that `names` lists `name` of.
template <class Enum>
Enum ValueNamed(const std::vector<std::string>& names,
                const std::string& name) {
  return static_cast<Enum>(std::find(names.begin(), names.end(), name) -
                           names.begin());
}

Json ToJson(const A3Summary& summary, const std::string& out) {
  Json layers = Json::array();
  for (size_t layer = 0; layer < summary.config.layers; ++layer) {
    Json lost = Json::object();
    for (size_t i = 0; i < kComponents; ++i) {
      lost[ComponentNames()[i]] = Rounded(summary.losses[layer][i]);
    }
    layers.push_back({{"qk", summary.config.qk_dim(layer)},
                      {"ov", summary.config.vo_dim(layer)},
                      {"mlp", summary.config.mlp_width(layer)},
                      {"lost", lost}});
  }
  return {{"method", "a3"},
          {"linear_flops_ratio", Rounded(summary.linear_flops_ratio)},
          {"calibration_tokens", summary.calibration_tokens},
          {"layers", layers},
          {"model", out}};
}

void PrintSummary(const A3Summary& summary, const std::string& out) {
  Print("{:>5} {:>6} {:>6} {:>7} {:>9} {:>9} {:>9}\n", "layer", "qk", "ov",
        "mlp", "qk lost", "ov lost", "mlp lost");
  for (size_t layer = 0; layer < summary.config.layers; ++layer) {
    const auto& [qk, ov, mlp] = summary.losses[layer];
    Print("{:>5} {:>6} {:>6} {:>7} {:>9.4f} {:>9.4f} {:>9.4f}\n", layer,
          summary.config.qk_dim(layer), summary.config.vo_dim(layer),
          summary.config.mlp_width(layer), qk, ov, mlp);
  }
  Print(
      "{}: {:.3f} of the parameters of the linear layers, calibrated on {} "
      "tokens\n",
      out, summary.linear_flops_ratio, summary.calibration_tokens);
}

}  // namespace

std::vector<CLI::Option*> AddA3Options(CLI::App& command,
                                       A3Arguments& arguments) {
  A3Options& options = arguments.options;
  CLI::Option_group& group = *command.add_option_group("method a3");
  std::vector<CLI::Option*> added = {
      group
          .add_option("--components", arguments.components,
                      "What is made smaller, separated by commas; not given: "
                      "all")
          ->delimiter(',')
          ->check(CLI::IsMember(ComponentNames())),
      group.add_flag("--uniform", options.uniform,
                     "The same sizes in every layer"),
      group
          .add_option("--head-multiple", options.head_multiple,
                      "Elements of heads are a multiple of this, an even "
                      "number; not given: 16 for heads of 64 and more, 4 below")
          ->check(CLI::PositiveNumber),
      group
          .add_option("--mlp-multiple", options.mlp_multiple,
                      "Channels of MLPs are a multiple of this; not given: 64 "
                      "from 1024 on, 32 below")
          ->check(CLI::PositiveNumber)};
  for (size_t i = 0; i < kComponents; ++i) {
    added.push_back(group
                        .add_option("--keep-" + ComponentNames()[i],
                                    options.component_keep[i],
                                    "--keep of this component alone")
                        ->check(CLI::Range(0.0, 1.0)));
  }
  return added;
}

Status RunA3(const A3Arguments& arguments, const Checkpoint& checkpoint,
             std::span<const int> ids) {
  A3Options options = arguments.options;
  if (!arguments.components.empty()) {
    options.components.clear();
    for (const std::string& name : arguments.components) {
      options.components.insert(ValueNamed<Component>(ComponentNames(), name));
    }
  }
  for (const std::string& name : arguments.without) {
    const auto& names = A3RefinementNames();
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      return UsageError(fmt::format(
          "--without {}: method a3 has nothing of this name, it has {}", name,
          fmt::join(names, ", ")));
    }
    options.without.insert(ValueNamed<A3Refinement>(names, name));
  }
  Result<A3Summary> summary = [&] {
    Progress progress("adapt");
    const InterruptScope interrupts;
    options.cancelled = InterruptScope::Asked;
    options.progress = [&](size_t done, size_t total, const std::string& what) {
      progress.Update(done, total, what);
    };
    return ShrinkCheckpoint(checkpoint, ids, options, arguments.out);
  }();
  if (!summary.ok()) return summary.status();
  if (arguments.json) {
    PrintJson(ToJson(*summary, arguments.out));
  } else {
    PrintSummary(*summary, arguments.out);
  }
  return {};
}

}  // namespace rankforge
