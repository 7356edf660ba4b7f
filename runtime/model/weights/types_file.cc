#include "runtime/model/weights/types_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/atomic_file.h"
#include "base/files.h"
#include "base/json_fields.h"
#include "meta/types.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;

constexpr char kSchema[] = "rankforge.types.1";
constexpr size_t kMostBytes = size_t{64} << 20;
constexpr char kNextStep[] = "write it again with `rankforge optimize`";

// Text of a file that nothing is known of, for a message.
std::string Plain(const std::string& text) {
  const bool is_plain =
      text.size() <= 64 &&
      std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
  return is_plain ? text : Shown(text);
}

// Sets the error for a key that no types file has.
void CheckKeys(JsonFields& fields) {
  static const std::set<std::string> kKnown = {
      "schema", "checkpoint", "adapter", "tensors", "activations"};
  for (const auto& [key, value] : fields.json().items()) {
    if (!kKnown.contains(key)) {
      fields.Fail(Plain(key), Shown(value), "expected no such field");
    }
  }
}

// The types of `tensors` by name. Every tensor of `products` is there, nothing
// else is, and those of one product agree.
std::map<std::string, WeightType> ReadTensors(
    JsonFields tensors, const std::vector<ProductSpec>& products) {
  std::map<std::string, WeightType> types;
  for (const ProductSpec& product : products) {
    const std::string& first = product.tensors.front().name;
    for (const TensorShape& tensor : product.tensors) {
      const WeightType type = tensors.OneOf(tensor.name, kWeightTypes);
      types[tensor.name] = type;
      if (!tensors.ok() || type == types[first]) continue;
      tensors.Fail(tensor.name, fmt::format("\"{}\"", Name(type)),
                   fmt::format("expected {}, the type of {}, which is read "
                               "with it",
                               Name(types[first]), first));
    }
  }
  for (const auto& [name, value] : tensors.json().items()) {
    if (!types.contains(name)) {
      tensors.Fail(Plain(name), Shown(value),
                   "expected a matrix of this model");
    }
  }
  return types;
}

Status CheckOrigin(const std::string& path, const TypesOrigin& made_for,
                   const TypesOrigin& here) {
  const auto wrong = [&](const char* field, const std::string& there,
                         const std::string& expected) {
    const auto shown = [](const std::string& identity) {
      return identity.empty() ? "none" : Plain(identity);
    };
    return UsageError(fmt::format(
        "{}: field '{}' is {}, here it is {}; give the model and the "
        "adapter that the types were chosen for, or {}",
        path, field, shown(there), shown(expected), kNextStep));
  };
  if (made_for.checkpoint != here.checkpoint) {
    return wrong("checkpoint", made_for.checkpoint, here.checkpoint);
  }
  if (made_for.adapter != here.adapter) {
    return wrong("adapter", made_for.adapter, here.adapter);
  }
  return {};
}

Status WrongField(const std::string& path, const FieldError& error) {
  return Failed(fmt::format("{}: field '{}' is {}, {}; {}", path,
                            PathOf(error.where, error.field), error.value,
                            error.reason, kNextStep));
}

}  // namespace

std::vector<ProductSpec> TypedProducts(const ModelConfig& config,
                                       const Adapter* adapter) {
  std::vector<ProductSpec> products;
  const auto add = [&](const ModelSpec& spec) {
    for (const BlockSpec& block : spec.blocks) {
      ForEachProduct(block, [&](const ProductSpec& product) {
        if (!product.turns_stream) products.push_back(product);
      });
    }
  };
  const ModelSpec dense = DescribeModel(config, nullptr);
  add(dense);
  products.push_back(dense.lm_head);
  if (adapter != nullptr) add(DescribeModel(config, adapter));
  return products;
}

Result<StoredTypes> LoadTypes(const std::string& path,
                              const ModelConfig& config, const Adapter* adapter,
                              const TypesOrigin& origin) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(path, kMostBytes));
  const Result<Json> document = ParseJson(text);
  if (!document.ok()) {
    return Failed(fmt::format("{}: {}; {}", path, document.status().message(),
                              kNextStep));
  }
  FieldError error;
  JsonFields fields(*document, "", &error);
  if (const std::string schema = fields.Text("schema"); schema != kSchema) {
    fields.Fail("schema", fmt::format("\"{:.48}\"", schema),
                fmt::format("expected \"{}\"", kSchema));
  }
  if (!fields.ok()) return WrongField(path, error);
  CheckKeys(fields);
  const TypesOrigin made_for = {fields.Text("checkpoint"),
                                fields.Text("adapter")};
  if (!fields.ok()) return WrongField(path, error);
  // Before the tensors: those of another model are many, and all wrong.
  RANKFORGE_RETURN_IF_ERROR(CheckOrigin(path, made_for, origin));
  StoredTypes types;
  types.chosen = true;
  // Files of builds that measured with exact inputs alone do not say it.
  types.activations = fields.Has("activations")
                          ? fields.OneOf("activations", kActivations)
                          : Activations::kF32;
  types.by_tensor =
      ReadTensors(fields.Object("tensors"), TypedProducts(config, adapter));
  if (!fields.ok()) return WrongField(path, error);
  return types;
}

Status SaveTypes(const StoredTypes& types, const TypesOrigin& origin,
                 const std::string& path) {
  Json tensors = Json::object();
  for (const auto& [name, type] : types.by_tensor) tensors[name] = Name(type);
  Json document = {{"schema", kSchema},
                   {"checkpoint", origin.checkpoint},
                   {"adapter", origin.adapter},
                   {"tensors", std::move(tensors)}};
  if (types.activations) document["activations"] = Name(*types.activations);
  return WriteFileAtomically(path, document.dump(1) + "\n");
}

}  // namespace rankforge
