// Typed access to the fields of a JSON object, for code that reads a format.
// Only .cc files include this: no other header of a library shows JSON.
#ifndef RANKFORGE_BASE_JSON_FIELDS_H_
#define RANKFORGE_BASE_JSON_FIELDS_H_

#include <array>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace rankforge {

// What a document may not have besides wrong syntax.
struct JsonLimits {
  // Arrays and objects inside each other. No format of ours nests deeper, and
  // code that walks a document calls itself once per level.
  size_t depth = 64;
  // Whether a key that an object has twice is an error. Otherwise the last one
  // counts. Finding it takes as long again as reading.
  bool unique_keys = true;
};

// The document in `text`. A message says what is wrong ("is no JSON from byte 3
// of 7 on") and names neither the file nor the next step.
Result<nlohmann::json> ParseJson(const std::string& text,
                                 const JsonLimits& limits = {});
// The same, for documents too large to become a tree: `keep` sees every part as
// it is read and says whether the tree gets it. Keys may occur twice.
Result<nlohmann::json> ParseJson(const std::string& text, size_t depth,
                                 const nlohmann::json::parser_callback_t& keep);

// `value` on one line, short enough for a message.
std::string Shown(const nlohmann::json& value);

// The first thing that is wrong with a document, in parts: each format has its
// own words for it and its own next step.
struct FieldError {
  std::string where;  // the object that has the field; "": the document
  std::string field;
  std::string value;   // as Shown, or "missing"
  std::string reason;  // "expected a string"; "": nothing is wrong

  bool empty() const { return reason.empty(); }
  bool missing() const { return value == "missing"; }
};

// "entries[0].problem.rows": the path of a field in its document.
std::string PathOf(const std::string& where, const std::string& field);

// The fields of one object. The first field that is missing or wrong sets the
// error; reads after that, here or in other objects with the same error, give
// the lowest value that is allowed. Find and Has take null for absent, as
// Hugging Face's own readers do.
class JsonFields {
 public:
  using Json = nlohmann::json;

  static constexpr double kMaxNumber = 1e15;

  // `object` and `error` must outlive this. `where` names the object.
  JsonFields(const Json& object, std::string where, FieldError* error);
  // The fields of an object inside this one.
  JsonFields Inner(const Json& object, std::string where) const {
    return {object, std::move(where), error_};
  }
  JsonFields Object(const std::string& key);

  std::string Text(const std::string& key);
  bool Flag(const std::string& key);
  double Number(const std::string& key, double low = 0,
                double high = kMaxNumber);
  uint64_t Count(const std::string& key, uint64_t low = 0,
                 uint64_t high = std::numeric_limits<uint64_t>::max());
  // 16 hexadecimal digits.
  uint64_t Hash(const std::string& key);
  std::vector<std::string> Texts(const std::string& key);
  const Json& Array(const std::string& key);
  // One of an enumeration's values, by its name.
  template <class Enum, size_t n>
  Enum OneOf(const std::string& key, const std::array<Enum, n>& values) {
    std::optional<Enum> result;
    Get(key, "a name this build knows", [&](const Json& value) {
      if (value.is_string()) {
        result = FromName(values, value.template get<std::string>());
      }
      return result.has_value();
    });
    return result.value_or(values[0]);
  }
  // The value of `key` if it is there and `valid`, else null and an error.
  template <class Valid>
  const Json* Get(const std::string& key, const std::string& expected,
                  Valid valid) {
    if (!ok()) return nullptr;
    const auto found = object_.find(key);
    if (found != object_.end() && valid(*found)) return &*found;
    Fail(key, found == object_.end() ? "missing" : Shown(*found),
         "expected " + expected);
    return nullptr;
  }

  // Null where the field is absent or null.
  const Json* Find(const std::string& key) const;
  bool Has(const std::string& key) const { return Find(key) != nullptr; }
  void Fail(const std::string& key, const std::string& value,
            const std::string& reason);

  bool ok() const { return error_->empty(); }
  const Json& json() const { return object_; }
  std::string PathOf(const std::string& key) const {
    return rankforge::PathOf(where_, key);
  }

 private:
  const Json& object_;
  std::string where_;
  FieldError* error_;
};

}  // namespace rankforge

#endif  // RANKFORGE_BASE_JSON_FIELDS_H_
