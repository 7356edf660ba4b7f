#include "base/json_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

namespace rankforge {

using Json = nlohmann::json;

namespace {

// Whether more than `depth` brackets of `text` are open at once. It runs before
// the parser, whose tree must not get so deep.
bool NestsDeeper(const std::string& text, size_t depth) {
  size_t open = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') {
      for (++i; i < text.size() && text[i] != '"'; ++i) {
        if (text[i] == '\\') ++i;
      }
    } else if (text[i] == '[' || text[i] == '{') {
      if (++open > depth) return true;
    } else if ((text[i] == ']' || text[i] == '}') && open > 0) {
      --open;
    }
  }
  return false;
}

}  // namespace

Result<Json> ParseJson(const std::string& text, size_t depth,
                       const Json::parser_callback_t& keep) {
  if (NestsDeeper(text, depth)) {
    return Failed(fmt::format("nested deeper than {} levels", depth));
  }
  try {
    return Json::parse(text, keep);
  } catch (const Json::parse_error& error) {
    if (error.byte > text.size()) {
      return Failed(fmt::format("is no JSON: it ends too early, after {} bytes",
                                text.size()));
    }
    return Failed(fmt::format("is no JSON from byte {} of {} on", error.byte,
                              text.size()));
  } catch (const std::exception&) {
    return Failed("holds a number out of range");
  }
}

Result<Json> ParseJson(const std::string& text, const JsonLimits& limits) {
  if (!limits.unique_keys) return ParseJson(text, limits.depth, nullptr);
  std::vector<std::set<std::string>> keys;  // of the objects now open
  std::string problem;
  Result<Json> document = ParseJson(
      text, limits.depth, [&](int, Json::parse_event_t event, Json& parsed) {
        if (event == Json::parse_event_t::object_start) keys.emplace_back();
        if (event == Json::parse_event_t::object_end) keys.pop_back();
        if (event == Json::parse_event_t::key &&
            !keys.back().insert(parsed.get<std::string>()).second &&
            problem.empty()) {
          problem =
              fmt::format("key {} occurs twice in one object", Shown(parsed));
        }
        return true;
      });
  if (!document.ok() || problem.empty()) return document;
  return Failed(problem);
}

std::string Shown(const Json& value) {
  constexpr size_t kMost = 48;
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kMost) text = text.substr(0, kMost - 3) + "...";
  return text;
}

std::string PathOf(const std::string& where, const std::string& field) {
  return where.empty() ? field : where + "." + field;
}

JsonFields::JsonFields(const Json& object, std::string where, FieldError* error)
    : object_(object), where_(std::move(where)), error_(error) {
  if (!ok() || object.is_object()) return;
  *error_ = {"", where_, Shown(object), "expected an object"};
}

JsonFields JsonFields::Object(const std::string& key) {
  static const Json kEmpty = Json::object();
  const Json* value =
      Get(key, "an object", [](const Json& v) { return v.is_object(); });
  return Inner(value == nullptr ? kEmpty : *value, PathOf(key));
}

std::string JsonFields::Text(const std::string& key) {
  const Json* value =
      Get(key, "a string", [](const Json& v) { return v.is_string(); });
  return value == nullptr ? "" : value->get<std::string>();
}

bool JsonFields::Flag(const std::string& key) {
  const Json* value =
      Get(key, "true or false", [](const Json& v) { return v.is_boolean(); });
  return value != nullptr && value->get<bool>();
}

double JsonFields::Number(const std::string& key, double low, double high) {
  const Json* value = Get(key, fmt::format("a number from {} to {}", low, high),
                          [&](const Json& v) {
                            return v.is_number() && v.get<double>() >= low &&
                                   v.get<double>() <= high;
                          });
  return value == nullptr ? low : value->get<double>();
}

uint64_t JsonFields::Count(const std::string& key, uint64_t low,
                           uint64_t high) {
  const Json* value =
      Get(key, fmt::format("an integer from {} to {}", low, high),
          [&](const Json& v) {
            return v.is_number_unsigned() && v.get<uint64_t>() >= low &&
                   v.get<uint64_t>() <= high;
          });
  return value == nullptr ? low : value->get<uint64_t>();
}

uint64_t JsonFields::Hash(const std::string& key) {
  uint64_t hash = 0;
  Get(key, "16 hexadecimal digits", [&](const Json& v) {
    if (!v.is_string()) return false;
    const auto& text = v.get_ref<const std::string&>();
    const char* const end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, hash, 16);
    return text.size() == 16 && parsed.ec == std::errc() && parsed.ptr == end;
  });
  return hash;
}

std::vector<std::string> JsonFields::Texts(const std::string& key) {
  const Json* value = Get(key, "an array of strings", [](const Json& v) {
    return v.is_array() && std::ranges::all_of(v, [](const Json& element) {
             return element.is_string();
           });
  });
  return value == nullptr ? std::vector<std::string>()
                          : value->get<std::vector<std::string>>();
}

const Json& JsonFields::Array(const std::string& key) {
  static const Json kEmpty = Json::array();
  const Json* value =
      Get(key, "an array", [](const Json& v) { return v.is_array(); });
  return value == nullptr ? kEmpty : *value;
}

const Json* JsonFields::Find(const std::string& key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void JsonFields::Fail(const std::string& key, const std::string& value,
                      const std::string& reason) {
  if (ok()) *error_ = {where_, key, value, reason};
}

}  // namespace rankforge
