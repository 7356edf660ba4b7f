#include "runtime/model/format/config_fields.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "base/json_fields.h"

namespace rankforge {

using nlohmann::json;

size_t ReadSize(JsonFields& fields, const std::string& name, size_t most,
                std::optional<size_t> absent) {
  if (absent && !fields.Has(name)) return *absent;
  return fields.Count(name, 1, most);
}

double ReadPositive(JsonFields& fields, const std::string& name,
                    std::optional<double> absent) {
  if (absent && !fields.Has(name)) return *absent;
  const json* value =
      fields.Get(name, "a finite number above 0", [](const json& v) {
        return v.is_number() && v.get<double>() > 0 &&
               std::isfinite(v.get<double>());
      });
  return value == nullptr ? absent.value_or(1) : value->get<double>();
}

bool ReadFlag(JsonFields& fields, const std::string& name, bool absent) {
  return fields.Has(name) ? fields.Flag(name) : absent;
}

std::vector<int> ReadTokenIds(JsonFields& fields, const std::string& name) {
  const json* const value = fields.Find(name);
  if (value == nullptr) return {};
  const json list = value->is_array() ? *value : json::array({*value});
  std::vector<int> ids;
  for (const json& entry : list) {
    const auto id = entry.is_number_integer() ? entry.get<int64_t>() : -2;
    if (id < -1 || id > std::numeric_limits<int>::max()) {
      fields.Fail(name, Shown(*value),
                  "it must be a token id or a list of them");
      return {};
    }
    if (id >= 0) ids.push_back(static_cast<int>(id));
  }
  return ids;
}

namespace {

void Require(JsonFields& fields, const std::string& name, const json& wanted) {
  const json* const value = fields.Find(name);
  if (value != nullptr && *value != wanted) {
    fields.Fail(name, Shown(*value),
                fmt::format("only {} is supported, use another checkpoint",
                            Shown(wanted)));
  }
}

}  // namespace

void RequireFlag(JsonFields& fields, const std::string& name, bool wanted) {
  Require(fields, name, wanted);
}

void RequireNumber(JsonFields& fields, const std::string& name, double wanted) {
  Require(fields, name, wanted);
}

}  // namespace rankforge
