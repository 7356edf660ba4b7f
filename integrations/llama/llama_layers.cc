#include "integrations/llama/llama_layers.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace rankforge::llama {
namespace {

using Step = ggml::PatchedLayers::Step;

class Packer {
 public:
  Packer(const Context& context, const Table& table, int32_t weight_type,
         uint32_t tokens)
      : context_(context), table_(table) {
    options_.weight_type = weight_type;
    options_.tokens = tokens;
  }

  Result<std::vector<Step>> Pack(const std::vector<LayerProduct>& products) {
    std::vector<Step> steps;
    for (const LayerProduct& product : products) {
      std::vector<Source> sources;
      for (const rankforge_source& given : product.sources) {
        Source source;
        static_cast<rankforge_source&>(source) = given;
        sources.push_back(source);
      }
      options_.operation = product.operation;
      options_.rule.taus = product.taus;
      auto linear = ggml::Linear::Make(context_, sources, options_, table_);
      if (!linear) return linear.error();
      error_ = std::max(error_, (*linear)->quantization_error());
      steps.push_back({std::move(*linear), product.input, product.output,
                       product.to_ranks});
    }
    return steps;
  }
  double quantization_error() const { return error_; }

 private:
  const Context& context_;
  const Table& table_;
  ggml::LinearOptions options_;
  double error_ = 0;
};

}  // namespace

Result<double> AddLayers(const Context& context, const Table& table,
                         const AdapterLayers& layers, int32_t weight_type,
                         uint32_t tokens, ggml::GraphPatch& patch) {
  Packer packer(context, table, weight_type, tokens);
  for (const LayerStack& stack : layers.stacks) {
    ggml::PatchedLayers patched;
    patched.rows = stack.rows;
    patched.cols = stack.cols;
    patched.ranks = stack.ranks;
    Result<std::vector<Step>> first = packer.Pack(stack.first);
    if (!first) return first.error();
    Result<std::vector<Step>> second = packer.Pack(stack.second);
    if (!second) return second.error();
    patched.first = std::move(*first);
    patched.second = std::move(*second);
    for (const LayerMember& member : stack.members) {
      patched.members.push_back({member.weights, 0, member.rows, member.order});
    }
    Result<void> added = patch.Add(std::move(patched));
    if (!added) return added.error();
  }
  return packer.quantization_error();
}

}  // namespace rankforge::llama
