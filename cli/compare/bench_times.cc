#include "cli/compare/bench_times.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/json_fields.h"

namespace rankforge {
namespace {

using Fields = JsonFields;

constexpr const char* kWork[] = {"model",   "method",  "keep",   "dtype",
                                 "threads", "context", "tokens", "layers"};
constexpr const char* kAmounts[] = {"bytes_per_token", "dense_bytes_per_token",
                                    "kv_bytes_per_position", "tuned",
                                    "dense_tuned"};
constexpr const char* kRooflines[] = {"roofline", "dense_roofline"};

// Where a document has the times of a model.
struct ModelKeys {
  const char* name;
  const char* token_ms;
  const char* stages;
};
constexpr ModelKeys kDense = {"dense", "dense_ms_per_token", "dense_stages"};
constexpr ModelKeys kAdapted = {"adapted", "decode_ms_per_token", "stages"};

void Add(std::string name, double ms, BenchTimes& times) {
  if (ms > 0) times.entries.push_back({std::move(name), ms});
}

// Stages are means, and one of them, "between", is what the others leave of a
// token: their sum is the mean of a token. The median does not show what hits
// few tokens.
void AddModel(const ModelKeys& keys, Fields& document, BenchTimes& times) {
  const std::string name = keys.name;
  const double median = document.Number(keys.token_ms);
  Fields stages = document.Object(keys.stages);
  std::vector<BenchEntry> kinds;
  double mean = 0;
  for (const auto& [kind, stage] : stages.json().items()) {
    const double ms = stages.Object(kind).Number("ms_per_token");
    kinds.push_back({name + " " + kind, ms});
    mean += ms;
  }
  Add(name + " token median", median, times);
  Add(name + " token mean", mean, times);
  for (const BenchEntry& kind : kinds) Add(kind.name, kind.ms, times);
}

bool AboveRoofline(const Fields& fields) {
  return std::ranges::any_of(kRooflines, [&](const char* key) {
    const auto* value = fields.Find(key);
    return value != nullptr && value->is_number() && value->get<double>() > 1;
  });
}

// Of --context the first one has all of the above, the others their medians.
void AddContexts(const Fields& document, const std::vector<ModelKeys>& models,
                 FieldError& wrong, BenchTimes& times) {
  const auto* contexts = document.Find("by_context");
  if (contexts == nullptr || !contexts->is_array()) return;
  for (size_t i = 0; i < contexts->size(); ++i) {
    Fields at((*contexts)[i], fmt::format("by_context[{}]", i), &wrong);
    times.above_roofline |= at.ok() && AboveRoofline(at);
    if (i == 0) continue;
    const uint64_t context = at.Count("context");
    for (const ModelKeys& model : models) {
      std::string name =
          fmt::format("{} token median at context {}", model.name, context);
      if (times.Find(name) > 0) {
        at.Fail("context", std::to_string(context), "as one before it");
      }
      Add(std::move(name), at.Number(model.token_ms), times);
    }
  }
}

}  // namespace

double BenchTimes::Find(const std::string& name) const {
  const auto found = std::ranges::find(entries, name, &BenchEntry::name);
  return found == entries.end() ? 0 : found->ms;
}

Result<BenchTimes> ReadBenchTimes(const std::string& document) {
  RANKFORGE_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(document));
  FieldError wrong;
  Fields fields(json, "", &wrong);
  BenchTimes times;
  // Without an adapter both columns are one model, to the last digit.
  std::vector<ModelKeys> models = {kDense};
  if (fields.ok() && json.value(kDense.stages, nlohmann::json()) !=
                         json.value(kAdapted.stages, nlohmann::json())) {
    models.push_back(kAdapted);
  }
  for (const ModelKeys& model : models) AddModel(model, fields, times);
  for (const char* key : kWork) {
    const auto* value =
        fields.Get(key, "a value", [](const auto&) { return true; });
    if (value != nullptr) times.work[key] = Json(*value);
  }
  // Programs before 0.2 do not say it. Their inputs are exact, unless they have
  // a table with kernels that round.
  const auto* activations = fields.ok() ? fields.Find("activations") : nullptr;
  times.work["activations"] =
      activations == nullptr ? Json{{"f32", 1.0}} : Json(*activations);
  for (const char* key : kAmounts) {
    if (fields.ok() && fields.Has(key)) times.amounts[key] = fields.Number(key);
  }
  times.read_gbps = fields.Number("read_gbps", 1e-6);
  times.above_roofline = fields.ok() && AboveRoofline(fields);
  if (fields.ok()) AddContexts(fields, models, wrong, times);
  if (!wrong.empty()) {
    return Failed(fmt::format("field '{:.80}' is {}, {}",
                              PathOf(wrong.where, wrong.field), wrong.value,
                              wrong.reason));
  }
  return times;
}

}  // namespace rankforge
