// No option is forgotten where options are listed: in the identity of a run, in
// metadata, among what the methods read.
#include "adapt/run/options.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adapt/adapt.h"

namespace rankforge {
namespace {

// Anything that a field may be made from.
struct Any {
  template <class T>
  operator T() const {
    return T();
  }
};

template <class T, class... Fields>
constexpr size_t FieldsOf() {
  if constexpr (requires { T{Fields{}..., Any{}}; }) {
    return FieldsOf<T, Fields..., Any>();
  } else {
    return sizeof...(Fields);
  }
}

struct TwoFields {
  size_t a = 0;
  std::set<int> b;
};
static_assert(FieldsOf<TwoFields>() == 2);

TEST(VisitOptions, VisitsEveryFieldOnce) {
  const AdaptOptions options;
  std::set<std::string> names;
  std::set<const void*> values;
  VisitOptions(options, [&](const OptionInfo& info, const auto& value) {
    names.insert(info.name);
    values.insert(&value);
  });
  EXPECT_EQ(names.size(), FieldsOf<AdaptOptions>());
  EXPECT_EQ(values.size(), FieldsOf<AdaptOptions>());
}

void Change(std::string& value) { value += "x"; }
void Change(bool& value) { value = !value; }
void Change(size_t& value) { ++value; }
void Change(double& value) { value /= 2; }
template <class Enum>
void Change(std::set<Enum>& values) {
  if (values.erase(Enum{}) == 0) values.insert(Enum{});
}
void Change(std::optional<CostModel>& times) {
  times = CostModel{{.fixed = 1}, {}};
}
void Change(std::array<std::optional<double>, kComponents>& keep) {
  keep.back() = 0.5;
}
void Change(WorkMeter::Report& report) {
  report = [](size_t, size_t, const std::string&, std::optional<double>) {};
}
void Change(WorkMeter::Cancelled& cancelled) {
  cancelled = [] { return false; };
}

// The options, each with one field changed, by name.
std::vector<std::pair<std::string, AdaptOptions>> ChangedOptions() {
  std::vector<std::pair<std::string, AdaptOptions>> all;
  for (size_t i = 0; i < FieldsOf<AdaptOptions>(); ++i) {
    AdaptOptions& options = all.emplace_back().second;
    size_t field = 0;
    VisitOptions(options, [&](const OptionInfo& info, auto& value) {
      if (field++ != i) return;
      all.back().first = info.name;
      Change(value);
    });
  }
  return all;
}

TEST(IdentityOf, TellsApartWhatDecidesTheResult) {
  const std::vector<int> ids = {1, 2, 3};
  const AdaptIdentity same = IdentityOf("hash", ids, {});
  const std::set<std::string> decide_nothing = {"bos", "threads", "progress",
                                                "cancelled"};
  for (const auto& [name, options] : ChangedOptions()) {
    const bool differs = IdentityOf("hash", ids, options) != same;
    EXPECT_EQ(differs, !decide_nothing.contains(name)) << name;
  }
  EXPECT_NE(IdentityOf("other", ids, {}), same);
  EXPECT_NE(IdentityOf("hash", {{1, 2, 4}}, {}), same);
}

TEST(IdentityOf, TellsApartCosts) {
  CostModel costs;
  std::set<std::string> seen;
  for (double* part :
       {&costs.dense.fixed, &costs.dense.per_run, &costs.dense.per_weight,
        &costs.column_mask.fixed, &costs.column_mask.per_run,
        &costs.column_mask.per_weight}) {
    *part += 1;
    AdaptOptions options;
    options.times = costs;
    seen.insert(IdentityOf("hash", {}, options).at("keep_of"));
  }
  EXPECT_EQ(seen.size(), 6u);
}

// Files that people have carry these names.
TEST(RecordedOptions, AreThoseOfAdapterFiles) {
  using Recorded = std::map<std::string, std::string>;
  EXPECT_EQ(RecordedOptions({}), (Recorded{{"effort", "1"},
                                           {"round_d", "true"},
                                           {"seed", "0"},
                                           {"group_blocks", "2"},
                                           {"split_tokens", "4096"},
                                           {"window", "256"}}));
  AdaptOptions options;
  options.without = {Refinement::kRefit, Refinement::kInputMasks};
  options.bos = "no";
  EXPECT_EQ(RecordedOptions(options).at("bos"), "no");
  EXPECT_EQ(RecordedOptions(options).at("without"), " refit input-masks");
}

TEST(Methods, NameOptionsAndRefinementsThatThereAre) {
  std::set<std::string> names;
  AdaptOptions options;
  VisitOptions(options,
               [&](const OptionInfo& info, auto&) { names.insert(info.name); });
  std::set<Refinement> refinements;
  for (const Method& method : Methods()) {
    EXPECT_EQ(MethodNamed(method.name), &method);
    EXPECT_EQ(method.make != nullptr, method.makes == Makes::kAdapter);
    EXPECT_EQ(method.choose != nullptr, method.makes == Makes::kLayers);
    for (const std::string& option : method.options) {
      EXPECT_TRUE(names.contains(option)) << method.name << " " << option;
    }
    for (const Refinement refinement : method.refinements) {
      // Only what nearly all methods of adapters have is of several.
      EXPECT_TRUE(refinements.insert(refinement).second ||
                  refinement == Refinement::kSinks)
          << NameOf(refinement) << " is of two methods";
    }
    // rana-paper sees all tokens, as in the paper.
    EXPECT_EQ(method.refinements.contains(Refinement::kSinks),
              method.makes == Makes::kAdapter &&
                  std::string_view(method.name) != "rana-paper")
        << method.name;
  }
  EXPECT_EQ(refinements.size(), NamesOf(Refinement{}).size());
  EXPECT_EQ(Methods().front().name, AdaptOptions().method);
}

}  // namespace
}  // namespace rankforge
