#include "cli/report/results.h"

#include <fmt/format.h>

#include <sstream>
#include <string_view>

#include "base/files.h"
#include "cli/support/session.h"

namespace rankforge {
namespace {

// A pattern has the shape of what it describes. Its keys must be there, but
// for those that end in '?'; "*" stands for any key. A string stands for a
// string, null for a string or null, true for a boolean, a list for elements
// like its first one, and a number for a number: 1 for a positive one, 0 for
// one that is not negative, -1 for any.
Json EvalPattern() {
  const Json shares = {0};
  return {{"model", ""},
          {"adapter", nullptr},
          {"method", ""},
          {"keep", 0},
          {"dtype", ""},
          {"activations?", {{"*", 0}}},
          {"tau_scale", 0},
          {"perplexity", 1},
          {"loss", 0},
          {"linear_flops_ratio", 1},
          {"bytes_per_token", 1},
          {"density", {{"*", 0}}},
          {"density_quantiles", {{"*", {{"*", 0}}}}},
          {"layers?",
           {{"*",
             {{"error", 0},
              {"keep_frequency?", shares},
              {"contributions?",
               {{"lowest", -1},
                {"bin_width", 1},
                {"ranks", shares},
                {"kept", shares},
                {"energy", shares}}}}}}}};
}

Json BenchPattern() {
  return {{"model", ""},
          {"adapter", nullptr},
          {"method", ""},
          {"keep", 0},
          {"dtype", ""},
          {"activations?", {{"*", 0}}},
          {"decode_ms_per_token", 1},
          {"dense_ms_per_token", 1},
          {"synthetic", true},
          {"by_context", Json::array({{{"context", 1},
                                       {"decode_ms_per_token", 1},
                                       {"dense_ms_per_token", 1}}})}};
}

// What of `value` `pattern` describes. `field` names it in errors.
Result<Json> Matched(const Json& pattern, const Json& value,
                     const std::string& field) {
  const auto wrong = [&](std::string_view wanted) {
    return Failed(fmt::format(
        "field '{:.80}' is {:.40}, not {}", field,
        value.is_structured() ? value.type_name() : value.dump(-1, ' ', true),
        wanted));
  };
  if (pattern.is_object()) {
    if (!value.is_object()) return wrong("an object");
    Json matched = Json::object();
    const auto add = [&](const Json& of, const std::string& key) -> Status {
      RANKFORGE_ASSIGN_OR_RETURN(
          matched[key],
          Matched(of, value.at(key), field.empty() ? key : field + "." + key));
      return {};
    };
    for (const auto& [name, of] : pattern.items()) {
      if (name == "*") {
        for (const auto& [key, element] : value.items()) {
          RANKFORGE_RETURN_IF_ERROR(add(of, key));
        }
        continue;
      }
      const bool optional = name.ends_with('?');
      const std::string key = optional ? name.substr(0, name.size() - 1) : name;
      if (value.contains(key)) {
        RANKFORGE_RETURN_IF_ERROR(add(of, key));
      } else if (!optional) {
        return Failed(fmt::format("there is no field '{}{}{}'", field,
                                  field.empty() ? "" : ".", key));
      }
    }
    return matched;
  }
  if (pattern.is_array()) {
    if (!value.is_array() || value.empty()) return wrong("a list");
    Json matched = Json::array();
    for (const Json& element : value) {
      RANKFORGE_ASSIGN_OR_RETURN(
          Json one, Matched(pattern.front(), element,
                            fmt::format("{}[{}]", field, matched.size())));
      matched.push_back(std::move(one));
    }
    return matched;
  }
  if (pattern.is_boolean()) {
    return value.is_boolean() ? Result<Json>(value) : wrong("true or false");
  }
  if (pattern.is_number()) {
    if (!value.is_number()) return wrong("a number");
    const double number = value.get<double>();
    const int least = pattern.get<int>();
    if (least >= 0 && number < 0) return wrong("0 or more");
    if (least == 1 && number == 0) return wrong("above 0");
    return value;
  }
  if (pattern.is_null() && value.is_null()) return value;
  return value.is_string() ? Result<Json>(value) : wrong("a string");
}

// Lists of bins have equal lengths.
Status CheckBins(const Json& result) {
  if (!result.contains("layers")) return {};
  for (const auto& [module, layer] : result["layers"].items()) {
    if (!layer.contains("contributions")) continue;
    const Json& bins = layer["contributions"];
    if (!layer.contains("keep_frequency") ||
        bins["kept"].size() != bins["ranks"].size() ||
        bins["energy"].size() != bins["ranks"].size()) {
      return Failed(
          fmt::format("field 'layers.{:.80}.contributions' has lists of "
                      "different lengths",
                      module));
    }
  }
  return {};
}

Result<Json> ReadResult(const Json& document) {
  const bool eval = document.is_object() && document.contains("perplexity");
  if (!eval &&
      !(document.is_object() && document.contains("decode_ms_per_token"))) {
    return Failed("it has neither 'perplexity' nor 'decode_ms_per_token'");
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      Json result,
      Matched(eval ? EvalPattern() : BenchPattern(), document, ""));
  RANKFORGE_RETURN_IF_ERROR(CheckBins(result));
  result["kind"] = eval ? "eval" : "bench";
  return result;
}

}  // namespace

Result<Json> ReadResults(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(path, kMaxTextBytes));
  std::istringstream stream(text);
  Json results = Json::array();
  while (!(stream >> std::ws).eof()) {
    const auto failed = [&](std::string_view reason) {
      return Failed(fmt::format(
          "{}: document {}: {:.200}; give what `eval --json` and `bench "
          "--json` of this build print",
          path, results.size() + 1, reason));
    };
    Json document;
    try {
      stream >> document;
    } catch (const Json::exception& error) {
      return failed(error.what());
    }
    Result<Json> result = ReadResult(document);
    if (!result.ok()) return failed(result.status().message());
    results.push_back(*std::move(result));
  }
  if (results.empty()) {
    return Failed(path +
                  ": is empty, there is nothing to plot; write what `eval "
                  "--json` and `bench --json` print to it");
  }
  return results;
}

}  // namespace rankforge
