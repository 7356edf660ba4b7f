#include "adapt/run/options.h"

#include <fmt/format.h>

#include <type_traits>

#include "base/content_hash.h"

namespace rankforge {
namespace {

std::string Text(const std::string& value) { return value; }
std::string Text(bool value) { return value ? "true" : "false"; }
std::string Text(size_t value) { return std::to_string(value); }
std::string Text(double value) { return fmt::format("{}", value); }

template <class Enum>
std::string Text(const std::set<Enum>& values) {
  std::string names;
  for (const Enum value : values) names += " " + NameOf(value);
  return names;
}

std::string Text(const ProductCost& cost) {
  return fmt::format("{} + n * ({} + {} * length)", cost.fixed, cost.per_run,
                     cost.per_weight);
}

// What keep is a share of.
std::string Text(const std::optional<CostModel>& times) {
  if (!times) return "multiply-adds";
  return fmt::format("time: dense {}, column_mask {}", Text(times->dense),
                     Text(times->column_mask));
}

std::string Text(
    const std::array<std::optional<double>, kComponents>& component_keep) {
  std::string text;
  for (size_t i = 0; i < kComponents; ++i) {
    if (!component_keep[i]) continue;
    text += fmt::format(" {} {}", NameOf(static_cast<Component>(i)),
                        *component_keep[i]);
  }
  return text;
}

template <class Signature>
std::string Text(const std::function<Signature>&) {
  return "";  // decides nothing
}

}  // namespace

const std::vector<std::string>& NamesOf(Refinement) {
  static const std::vector<std::string> names = {
      "sinks",       "fisher",        "refit",       "behind",
      "cross-layer", "rank-adapters", "input-masks", "search",
      "rotation",    "gains",         "refit-down",  "refit-o",
      "mixed-ranks", "group-outputs"};
  return names;
}

const std::vector<std::string>& NamesOf(Component) {
  static const std::vector<std::string> names = {"qk", "ov", "mlp"};
  return names;
}

AdaptIdentity IdentityOf(const std::string& checkpoint_hash,
                         std::span<const int> ids,
                         const AdaptOptions& options) {
  AdaptIdentity identity = {{"checkpoint", checkpoint_hash},
                            {"calibration", HashBytes(std::as_bytes(ids))}};
  VisitOptions(options, [&](const OptionInfo& info, const auto& value) {
    if (info.decides) identity[info.name] = Text(value);
  });
  return identity;
}

std::map<std::string, std::string> RecordedOptions(
    const AdaptOptions& options) {
  std::map<std::string, std::string> recorded;
  VisitOptions(options, [&](const OptionInfo& info, const auto& value) {
    const std::string text = Text(value);
    if (info.recorded && !text.empty()) recorded[info.name] = text;
  });
  return recorded;
}

}  // namespace rankforge
