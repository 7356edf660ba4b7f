#include "integrations/llama/adapter_layers.h"

#include <fmt/format.h>

#include <utility>

#include "runtime/model/format/adapter.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/format/gguf_model.h"
#include "runtime/model/weights/modules.h"

namespace rankforge::llama {
namespace {

struct Files {
  Files(GgufModel of_model, Adapter of_adapter)
      : model(std::move(of_model)), adapter(std::move(of_adapter)) {}

  GgufModel model;
  Adapter adapter;
};

rankforge_source SourceOf(const SourceMatrix& matrix) {
  rankforge_source source = RANKFORGE_SOURCE_INIT;
  source.format = static_cast<int32_t>(matrix.type);
  source.data = matrix.data;
  source.rows = matrix.rows;
  source.cols = matrix.cols;
  source.transposed = matrix.transposed ? 1 : 0;
  return source;
}

class Reader {
 public:
  explicit Reader(const Files& files) : files_(files) {}

  Result<std::vector<LayerStack>> Read() {
    const ModelConfig& config = files_.model.config();
    RANKFORGE_RETURN_IF_ERROR(CheckAdapter(config, files_.adapter));
    if (!files_.adapter.rotation.empty()) {
      return UsageError(
          "the adapter rotates the residual stream of blocks, which graphs of "
          "llama.cpp have no place for; make the adapter again with --without "
          "rotation, or by another method");
    }
    for (const auto& [module, mask] : files_.adapter.masks) {
      if (mask.gain.empty() && mask.bias.empty()) continue;
      return UsageError(module +
                        ": its mask has gains and biases, which graphs of "
                        "llama.cpp have no place for; make the adapter again "
                        "with --without gains");
    }
    const ModelSpec adapted = DescribeModel(config, &files_.adapter);
    const ModelSpec dense = DescribeModel(config, nullptr);
    std::vector<LayerStack> stacks;
    for (size_t layer = 0; layer < dense.blocks.size(); ++layer) {
      for (const Site site : kSites) {
        const ProjectionSpec& spec = adapted.blocks[layer][site];
        if (spec.gate_mask) {
          return UsageError(spec.name +
                            ": has a mask over its neurons, which graphs of "
                            "llama.cpp have no place for; use another method");
        }
        if (!spec.b && !spec.input_mask) continue;
        RANKFORGE_ASSIGN_OR_RETURN(LayerStack stack, StackOf(spec));
        RANKFORGE_ASSIGN_OR_RETURN(
            stack.members,
            MembersOf(dense.blocks[layer][site].direct.front().tensors));
        stacks.push_back(std::move(stack));
      }
    }
    return stacks;
  }

 private:
  Result<LayerStack> StackOf(const ProjectionSpec& spec) {
    LayerStack stack;
    stack.rows = spec.rows;
    stack.cols = spec.cols;
    for (const ProductSpec& product : spec.direct) {
      RANKFORGE_ASSIGN_OR_RETURN(LayerProduct direct, ProductOf(product));
      if (spec.input_mask) Mask(*spec.input_mask, direct);
      stack.first.push_back(std::move(direct));
    }
    if (!spec.b) return stack;
    stack.ranks = spec.b->rows();
    RANKFORGE_ASSIGN_OR_RETURN(LayerProduct b, ProductOf(*spec.b));
    b.to_ranks = true;
    stack.first.push_back(std::move(b));
    for (size_t i = 0; i < spec.a.size(); ++i) {
      RANKFORGE_ASSIGN_OR_RETURN(LayerProduct a, ProductOf(spec.a[i]));
      Mask(spec.rank_masks[i], a);
      stack.second.push_back(std::move(a));
    }
    return stack;
  }

  static void Mask(const MaskSpec& mask, LayerProduct& product) {
    product.operation = RANKFORGE_COLUMN_MASK;
    product.taus = *mask.tau;
  }

  // Rows in the order of the file, but for those of q and k: their order is
  // undone by the members, so that all rows of a product have the adapter's.
  Result<LayerProduct> ProductOf(const ProductSpec& spec) {
    LayerProduct product;
    product.input = spec.input_offset;
    product.output = spec.output_offset;
    for (const TensorShape& tensor : spec.tensors) {
      RANKFORGE_ASSIGN_OR_RETURN(const SourceMatrix matrix, Find(tensor));
      if (matrix.order.is_identity()) {
        product.sources.push_back(SourceOf(matrix));
        continue;
      }
      for (size_t line = 0; line < matrix.rows; ++line) {
        SourceMatrix row = matrix;
        row.data = static_cast<const std::byte*>(matrix.data) +
                   matrix.order(line) * matrix.line_bytes();
        row.rows = 1;
        product.sources.push_back(SourceOf(row));
      }
    }
    return product;
  }

  Result<SourceMatrix> Find(const TensorShape& tensor) const {
    const std::string& name = tensor.name;
    if (name.ends_with(".weight")) {
      return files_.model.Matrix(name, tensor.rows, tensor.cols);
    }
    const bool is_a = name.ends_with(".rank.A");
    const RankAdapter& rank =
        files_.adapter.ranks.at(name.substr(0, name.size() - 7));
    return SourceMatrix{.data = is_a ? rank.a.data() : rank.b.data(),
                        .rows = tensor.rows,
                        .cols = tensor.cols,
                        .transposed = is_a};
  }

  Result<std::vector<LayerMember>> MembersOf(
      const std::vector<TensorShape>& tensors) const {
    std::vector<LayerMember> members;
    size_t begin = 0;
    for (const TensorShape& tensor : tensors) {
      RANKFORGE_ASSIGN_OR_RETURN(const SourceMatrix matrix, Find(tensor));
      LayerMember member{NameOf(matrix.data), tensor.rows, {}};
      const bool whole = tensors.size() == 1 && matrix.order.is_identity();
      if (!whole) member.order.resize(tensor.rows);
      for (size_t line = 0; line < member.order.size(); ++line) {
        member.order[matrix.order(line)] = begin + line;
      }
      begin += tensor.rows;
      members.push_back(std::move(member));
    }
    return members;
  }

  // What the file calls the tensor with this data.
  std::string NameOf(const void* data) const {
    for (const auto& [name, tensor] : files_.model.file().tensors()) {
      if (tensor.bytes.data() == data) return name;
    }
    return "";
  }

  const Files& files_;
};

Result<AdapterLayers> Read(const std::string& gguf,
                           const std::string& adapter) {
  RANKFORGE_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(gguf));
  RANKFORGE_ASSIGN_OR_RETURN(
      Adapter loaded, LoadAdapterOf(checkpoint, adapter, AdapterParts::kAll));
  if (!loaded.skip.empty()) {
    return Failed(fmt::format(
        "{}: leaves out layers after a prompt, which llama.cpp does not; run "
        "it with rankforge, or use an adapter that skips none",
        adapter));
  }
  RANKFORGE_ASSIGN_OR_RETURN(GgufModel model, GgufModel::Open(gguf));
  auto files =
      std::make_shared<const Files>(std::move(model), std::move(loaded));
  AdapterLayers layers;
  RANKFORGE_ASSIGN_OR_RETURN(layers.stacks, Reader(*files).Read());
  layers.files = std::move(files);
  return layers;
}

}  // namespace

bool ReadAdapterLayers(const std::string& gguf, const std::string& adapter,
                       AdapterLayers* layers, std::string* error) {
  Result<AdapterLayers> read = Read(gguf, adapter);
  if (!read.ok()) {
    *error = read.status().message();
    return false;
  }
  *layers = std::move(*read);
  return true;
}

}  // namespace rankforge::llama
