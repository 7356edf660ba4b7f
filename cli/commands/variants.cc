// `rankforge variants`: the compiled entries, or the declared list that is the
// same on every machine.
#include "meta/variants.h"

#include <fmt/ranges.h>

#include <memory>
#include <regex>

#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/plugin_option.h"
#include "kernels/registry.h"

namespace rankforge {
namespace {

struct VariantsOptions {
  CommonOptions common;
  std::string filter;
  bool declared = false;
};

std::vector<std::string> LayoutNames(const VariantSpec& spec) {
  std::vector<std::string> names;
  for (const Layout layout : kLayouts) {
    if (Accepts(spec, layout)) names.emplace_back(Name(layout));
  }
  return names;
}

// Whether this entry runs on its target when nothing was tuned.
bool RunsUntuned(const KernelEntry& entry) {
  return std::string_view(entry.backend) == "hwy" && entry.static_rows == 0 &&
         IsDefault(entry.spec);
}

// Contents of generated/variants.json: only what meta/variants.h says.
void PrintDeclared(const std::regex& filter) {
  Json names = Json::array();
  for (const VariantSpec& spec : kVariants) {
    const std::string name(NameOf(spec).view());
    if (std::regex_search(name, filter)) names.push_back(name);
  }
  PrintJson({{"_generated", "rankforge variants --declared"},
             {"count", names.size()},
             {"variants", names}});
}

Status RunVariants(const VariantsOptions& options) {
  std::regex filter;
  try {
    filter = std::regex(options.filter);
  } catch (const std::regex_error& error) {
    return UsageError(fmt::format("--filter {}: no regular expression: {}",
                                  options.filter, error.what()));
  }
  if (options.declared) {
    PrintDeclared(filter);
    return {};
  }

  Json variants = Json::array();
  for (const KernelEntry& entry : Registry::Get().entries()) {
    const std::string name = entry.FullName();
    if (!std::regex_search(name, filter)) continue;
    if (!options.common.json) {
      Print("{}\n", name);
      continue;
    }
    variants.push_back({{"name", name},
                        {"operation", Name(entry.spec.operation)},
                        {"dtype", Name(entry.spec.type)},
                        {"layouts", LayoutNames(entry.spec)},
                        {"mask", Name(entry.spec.form)},
                        {"granularity", entry.spec.granularity},
                        {"default", RunsUntuned(entry)},
                        {"activations", Name(ActivationsOf(entry.spec))},
                        {"reassociates", entry.reassociates},
                        {"spec", fmt::format("{:016x}", entry.spec_hash)}});
  }
  if (options.common.json) PrintJson({{"variants", variants}});
  return {};
}

}  // namespace

void AddVariants(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "variants", "The compiled kernel entries that this CPU can run");
  auto options = std::make_shared<VariantsOptions>();
  command->add_option("--filter", options->filter,
                      "Only names that this regular expression finds");
  command->add_flag("--declared", options->declared,
                    "The declared list, the same on every CPU, as JSON: what "
                    "generated/variants.json holds");
  AddJson(*command, options->common);
  AddPlugins(*command, action);
  SetAction(*command, action, RunVariants, options);
}

}  // namespace rankforge
