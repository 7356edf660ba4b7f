#include "optimize/type_groups.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "meta/variants.h"

namespace rankforge {
namespace {

constexpr size_t kParts = 3;

constexpr BySite<const char*> kSiteNames = {{"qkv", "o", "gate_up", "down"}};

std::string NameOf(Site site, size_t begin, size_t end) {
  return end == begin + 1
             ? fmt::format("{} of block {}", kSiteNames[site], begin)
             : fmt::format("{} of blocks {} to {}", kSiteNames[site], begin,
                           end - 1);
}

}  // namespace

std::vector<TypeGroup> TypeGroupsOf(const ModelConfig& config) {
  std::vector<TypeGroup> groups;
  const size_t parts = std::min(kParts, config.layers);
  for (size_t part = 0; part < parts; ++part) {
    const size_t begin = part * config.layers / parts;
    const size_t end = (part + 1) * config.layers / parts;
    for (const Site site : kSites) {
      groups.push_back({NameOf(site, begin, end), site, begin, end});
    }
  }
  groups.push_back({"lm_head", {}, 0, 0});
  return groups;
}

void ForEachTypedProduct(
    const ModelConfig& config, const Adapter* adapter,
    std::span<const TypeGroup> groups,
    const std::function<void(size_t group, const ProductSpec& product)>& use) {
  const ModelSpec spec = DescribeModel(config, adapter);
  for (size_t g = 0; g < groups.size(); ++g) {
    const TypeGroup& group = groups[g];
    if (!group.site) {
      use(g, spec.lm_head);
      continue;
    }
    for (size_t layer = group.begin; layer < group.end; ++layer) {
      const ProjectionSpec& projection = spec.blocks[layer][*group.site];
      for (const ProductSpec& product : projection.direct) use(g, product);
      if (projection.b) use(g, *projection.b);
      for (const ProductSpec& product : projection.a) use(g, product);
    }
  }
}

StoredTypes TypesByTensor(const ModelConfig& config, const Adapter* adapter,
                          std::span<const TypeGroup> groups,
                          std::span<const WeightType> types,
                          Activations activations) {
  StoredTypes stored;
  stored.chosen = true;
  // Where no product has them, they say nothing, and readers refuse that.
  bool taken = false;
  ForEachTypedProduct(
      config, adapter, groups, [&](size_t group, const ProductSpec& product) {
        taken |= ActivationsFor(product.operation, types[group], activations) ==
                 activations;
      });
  stored.activations = taken ? activations : Activations::kF32;
  const auto add = [&](size_t group, const ProductSpec& product) {
    for (const TensorShape& tensor : product.tensors) {
      stored.by_tensor[tensor.name] = types[group];
    }
  };
  ForEachTypedProduct(config, nullptr, groups, add);
  if (adapter != nullptr) ForEachTypedProduct(config, adapter, groups, add);
  return stored;
}

ModelOptions OptionsWith(StoredTypes types, size_t threads) {
  ModelOptions options;
  options.activations = types.activations;
  options.stored_types = std::make_shared<const StoredTypes>(std::move(types));
  options.type = WeightType::kBf16;
  options.lm_head_type = WeightType::kBf16;
  options.kv_type = DefaultKvType(options.type);
  options.threads = threads;
  return options;
}

}  // namespace rankforge
