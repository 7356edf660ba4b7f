// The rotary embedding of a config.json: ReadRope.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "base/json_fields.h"
#include "runtime/model/format/config_fields.h"

namespace rankforge {
namespace {

using nlohmann::json;

// A readers' view of one object with rotary settings.
struct RopeObject {
  JsonFields& fields;
  const ModelConfig& config;  // its theta and share are those of the object
  // original_max_position_embeddings beside the object, which wins.
  std::optional<size_t> original_positions;

  // The length that the model was first trained for.
  size_t Positions() const {
    if (original_positions) return *original_positions;
    return ReadSize(fields, "original_max_position_embeddings", kMaxPositions,
                    config.max_positions);
  }
  // How far the scaling stretches that length.
  double Factor(size_t positions) const {
    return ReadPositive(fields, "factor",
                        static_cast<double>(config.max_positions) /
                            static_cast<double>(positions));
  }
};

RopeScaling ReadLinear(const RopeObject& rope) {
  return {.type = RopeScaling::Type::kLinear,
          .factor = ReadPositive(rope.fields, "factor")};
}

RopeScaling ReadDynamic(const RopeObject& rope) {
  return {.type = RopeScaling::Type::kDynamic,
          .factor = ReadPositive(rope.fields, "factor")};
}

RopeScaling ReadLlama3(const RopeObject& rope) {
  JsonFields& fields = rope.fields;
  RopeScaling scaling = {.type = RopeScaling::Type::kLlama3,
                         .factor = ReadPositive(fields, "factor"),
                         .low = ReadPositive(fields, "low_freq_factor"),
                         .high = ReadPositive(fields, "high_freq_factor"),
                         .positions = rope.Positions()};
  if (!(scaling.low < scaling.high)) {
    fields.Fail("low_freq_factor", fmt::to_string(scaling.low),
                "it must be below 'high_freq_factor'");
  }
  return scaling;
}

// The factor of cosines and sines that YaRN's authors recommend.
double YarnAttention(JsonFields& fields, double factor) {
  const auto of = [factor](double scale) {
    return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1;
  };
  const auto scale = [&](const char* name) {
    return fields.Has(name) ? fields.Number(name) : 0;
  };
  const double all = scale("mscale_all_dim");
  const double one = scale("mscale");
  return one > 0 && all > 0 ? of(one) / of(all) : of(1);
}

RopeScaling ReadYarn(const RopeObject& rope) {
  JsonFields& fields = rope.fields;
  RopeScaling scaling = {.type = RopeScaling::Type::kYarn,
                         .low = ReadPositive(fields, "beta_slow", 1),
                         .high = ReadPositive(fields, "beta_fast", 32),
                         .positions = rope.Positions(),
                         .truncate = ReadFlag(fields, "truncate", true)};
  scaling.factor = rope.Factor(scaling.positions);
  scaling.attention_factor = ReadPositive(
      fields, "attention_factor", YarnAttention(fields, scaling.factor));
  if (scaling.low > scaling.high) {
    fields.Fail("beta_slow", fmt::to_string(scaling.low),
                "it must be at most 'beta_fast'");
  }
  if (!(rope.config.rope_theta > 1)) {
    fields.Fail("rope_theta", fmt::to_string(rope.config.rope_theta),
                "yarn needs one above 1");
  }
  return scaling;
}

std::vector<double> ReadFactors(const RopeObject& rope, const char* name) {
  // A share above 1, which is refused later, would not fit.
  const size_t count =
      rope.config.rotary_share > 1 ? 0 : rope.config.rotary_dim() / 2;
  const auto positive = [](const json& v) {
    return v.is_number() && v.get<double>() > 0 &&
           std::isfinite(v.get<double>());
  };
  const json* const value = rope.fields.Get(
      name, fmt::format("a list of {} finite numbers above 0", count),
      [&](const json& v) {
        return v.is_array() && v.size() == count &&
               std::ranges::all_of(v, positive);
      });
  return value == nullptr ? std::vector<double>()
                          : value->get<std::vector<double>>();
}

RopeScaling ReadLong(const RopeObject& rope) {
  JsonFields& fields = rope.fields;
  RopeScaling scaling = {.type = RopeScaling::Type::kLong,
                         .positions = rope.Positions(),
                         .short_factors = ReadFactors(rope, "short_factor"),
                         .long_factors = ReadFactors(rope, "long_factor")};
  scaling.factor = rope.Factor(scaling.positions);
  if (scaling.positions < 2) {
    fields.Fail("original_max_position_embeddings",
                fmt::to_string(scaling.positions), "it must be at least 2");
    return scaling;
  }
  const double wide =
      std::sqrt(1 + std::log(scaling.factor) /
                        std::log(static_cast<double>(scaling.positions)));
  scaling.attention_factor =
      ReadPositive(fields, "attention_factor", scaling.factor <= 1 ? 1 : wide);
  return scaling;
}

struct RopeKind {
  std::string_view name;
  RopeScaling (*read)(const RopeObject&);
};
constexpr RopeKind kRopeKinds[] = {
    {"default", [](const RopeObject&) { return RopeScaling(); }},
    {"linear", ReadLinear},
    {"dynamic", ReadDynamic},
    {"llama3", ReadLlama3},
    {"yarn", ReadYarn},
    {"longrope", ReadLong},
};

RopeScaling ReadScaling(const ModelFamily& family, const RopeObject& rope) {
  JsonFields& fields = rope.fields;
  // "type" is the oldest spelling.
  const char* const field = fields.Has("rope_type") ? "rope_type" : "type";
  const json* const type = fields.Find(field);
  if (type == nullptr) return {};
  std::string name = type->is_string() ? type->get<std::string>() : "";
  if (std::ranges::count(family.longrope_names, name) > 0) name = "longrope";
  std::string names;
  for (const RopeKind& kind : kRopeKinds) {
    if (kind.name == name) return kind.read(rope);
    names += fmt::format("{}{}", names.empty() ? "" : ", ", kind.name);
  }
  fields.Fail(field, Shown(*type),
              fmt::format("supported: {}; use another checkpoint", names));
  return {};
}

// Theta and the rotated share: the object's own, else the family's field beside
// it, else what `config` has. Fields of other families must not contradict.
void ReadThetaAndShare(const ModelFamily& family, JsonFields& fields,
                       JsonFields& rope, ModelConfig& config) {
  config.rope_theta =
      ReadPositive(rope, "rope_theta",
                   ReadPositive(fields, family.rope_theta, config.rope_theta));
  for (const char* name : {"rope_theta", "rotary_emb_base"}) {
    if (name != family.rope_theta) {
      RequireNumber(fields, name, config.rope_theta);
    }
  }
  if (!family.rotary_share.empty()) {
    config.rotary_share = ReadPositive(
        rope, "partial_rotary_factor",
        ReadPositive(fields, family.rotary_share, config.rotary_share));
  } else {
    RequireNumber(rope, "partial_rotary_factor", 1);
  }
  for (const char* name : {"partial_rotary_factor", "rotary_pct"}) {
    if (name != family.rotary_share) {
      RequireNumber(fields, name, config.rotary_share);
    }
  }
}

// The object `name` of `fields`, or an empty one.
json ObjectOf(JsonFields& fields, const std::string& name) {
  const json* const object = fields.Find(name);
  if (object == nullptr) return json::object();
  if (object->is_object()) return *object;
  fields.Fail(name, Shown(*object), "it must be an object or null");
  return json::object();
}

// Where a family has two thetas: the rope of layers with a window, which is
// never scaled. `parameters` is rope_parameters, by kind of layer.
void ReadWindowRope(const ModelFamily& family, JsonFields& fields,
                    JsonFields parameters, ModelConfig& config) {
  const json object = ObjectOf(parameters, "sliding_attention");
  JsonFields rope = parameters.Inner(object, "'sliding_attention'");
  config.window_rope_theta = ReadPositive(
      rope, "rope_theta",
      ReadPositive(fields, family.window_rope_theta, config.window_rope_theta));
  for (const char* name : {"rope_type", "type"}) {
    const json* const type = rope.Find(name);
    if (type != nullptr && *type != "default") {
      rope.Fail(name, Shown(*type),
                "only default is supported in layers with a window, use "
                "another checkpoint");
    }
  }
}

}  // namespace

void ReadRope(const ModelFamily& family, JsonFields& fields,
              ModelConfig& config) {
  // A rope_scaling that says anything takes the place of rope_parameters.
  json object = ObjectOf(fields, "rope_scaling");
  json parameters = ObjectOf(fields, "rope_parameters");
  std::string where = "'rope_scaling'";
  if (!family.window_rope_theta.empty()) {
    ReadWindowRope(family, fields,
                   fields.Inner(parameters, "'rope_parameters'"), config);
    // Here it joins the settings of layers without a window.
    JsonFields kinds = fields.Inner(parameters, "'rope_parameters'");
    for (const auto& [kind, settings] : parameters.items()) {
      if (kind != "full_attention" && kind != "sliding_attention") {
        kinds.Fail(kind, Shown(settings),
                   "this family has an object for 'full_attention' and for "
                   "'sliding_attention' there");
      }
    }
    json full = ObjectOf(kinds, "full_attention");
    if (!full.empty() && object.empty()) where = "'full_attention'";
    full.update(object);
    object = std::move(full);
  } else if (object.empty()) {
    where = "'rope_parameters'";
    object = std::move(parameters);
  }
  JsonFields rope = fields.Inner(object, where);
  for (const auto& [name, value] : object.items()) {
    if (value.is_object()) {
      rope.Fail(name, Shown(value),
                "this family has one rotary embedding for all layers");
    }
  }
  ReadThetaAndShare(family, fields, rope, config);
  std::optional<size_t> original = family.original_positions;
  if (fields.Has("original_max_position_embeddings")) {
    original =
        ReadSize(fields, "original_max_position_embeddings", kMaxPositions);
  }
  config.rope_scaling = ReadScaling(family, {rope, config, original});
}

}  // namespace rankforge
