#include "runtime/model/format/gguf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <span>
#include <string_view>
#include <utility>

#include "runtime/model/format/family.h"
#include "runtime/model/format/gguf_config.h"

namespace rankforge {
namespace {

// Read with the config, and no part of a product.
constexpr std::string_view kRopeDivisors = "rope_freqs.weight";

std::string TypeNames() {
  std::string names;
  for (const GgmlFormat& format : GgmlFormats()) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", format.name);
  }
  return names;
}

}  // namespace

// Names the tensors of a model and says how the file stores them.
class GgufModel::Namer {
 public:
  Namer(const GgufArchitecture& architecture, const ModelConfig& config,
        std::map<std::string, Place>& places)
      : architecture_(architecture),
        config_(config),
        family_(FamilyOf(config)),
        places_(places) {}

  void Run() {
    Add(family_.embedding, {"token_embd"}, false);
    if (!config_.tied_embeddings) Add(family_.lm_head, {"output"}, false);
    AddNorm(family_.final_norm, "output_norm");
    for (size_t layer = 0; layer < config_.layers; ++layer) {
      checkpoint_prefix_ = fmt::format("{}.{}.", family_.layers, layer);
      prefix_ = fmt::format("blk.{}.", layer);
      AddLayer();
    }
  }

 private:
  void AddLayer() {
    AddNorm(family_.attention_norm, "attn_norm");
    AddNorm(family_.mlp_norm, "ffn_norm");
    AddNorm(family_.attention_out_norm, "post_attention_norm");
    AddNorm(family_.mlp_out_norm, "post_ffw_norm");
    if (config_.qk_norm != QkNorm::kNone) {
      AddNorm(family_.q_norm, "attn_q_norm");
      AddNorm(family_.k_norm, "attn_k_norm");
    }
    const std::vector<std::string>& qkv = family_.qkv.tensors;
    if (qkv.size() == 1) {
      LineOrder order;
      if (architecture_.groups_qkv) {
        order = {config_.heads, 3, config_.head_dim};
      }
      Add(qkv[0], {"attn_qkv", order}, config_.qkv_bias);
    } else {
      LineOrder order;
      if (architecture_.interleaves_heads) order = {2, config_.head_dim / 2, 1};
      Add(qkv[0], {"attn_q", order}, config_.qkv_bias);
      Add(qkv[1], {"attn_k", order}, config_.qkv_bias);
      Add(qkv[2], {"attn_v"}, config_.qkv_bias);
    }
    Add(family_.o.tensors[0], {"attn_output"}, config_.o_bias);
    const std::vector<std::string>& gate_up = family_.gate_up.tensors;
    if (gate_up.size() == 2) {
      Add(gate_up[0], {"ffn_gate"}, config_.mlp_bias);
    }
    Add(gate_up.back(), {"ffn_up"}, config_.mlp_bias);
    Add(family_.down.tensors[0], {"ffn_down"}, config_.mlp_bias);
  }

  // An empty module: the family has no such norm.
  void AddNorm(const std::string& module, const std::string& stored) {
    if (module.empty()) return;
    const float added =
        architecture_.adds_norm_offset ? -family_.defaults.norm_offset : 0.0f;
    Add(module, {stored, {}, added}, config_.norm == NormKind::kLayer);
  }

  void Add(const std::string& module, const Place& stored, bool has_bias) {
    for (const char* kind : {".weight", ".bias"}) {
      if (kind[1] == 'b' && !has_bias) continue;
      Place place = stored;
      place.name = prefix_ + stored.name + kind;
      places_.emplace(checkpoint_prefix_ + module + kind, std::move(place));
    }
  }

  const GgufArchitecture& architecture_;
  const ModelConfig& config_;
  const ModelFamily& family_;
  std::map<std::string, Place>& places_;
  std::string checkpoint_prefix_;  // "model.layers.3."
  std::string prefix_;             // "blk.3."
};

Result<GgufModel> GgufModel::Open(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(GgufFile file, GgufFile::Open(path));
  GgufModel model(std::move(file));
  RANKFORGE_ASSIGN_OR_RETURN(const GgufArchitecture* architecture,
                             ArchitectureOf(model.file_));
  RANKFORGE_ASSIGN_OR_RETURN(
      model.config_json_,
      GgufConfigJson(model.file_, *architecture, model.notes_));
  RANKFORGE_ASSIGN_OR_RETURN(model.config_,
                             ParseConfig(model.config_json_, path));
  Namer(*architecture, model.config_, model.places_).Run();
  RANKFORGE_RETURN_IF_ERROR(model.CheckTensors());
  return model;
}

// A block with more than its tensors is another architecture's, whatever the
// file says. Factors of rotary frequencies (of longrope) are not read.
Status GgufModel::CheckTensors() {
  std::set<std::string_view> known = {kRopeDivisors};
  for (const auto& [name, place] : places_) known.insert(place.name);
  for (const auto& [name, tensor] : file_.tensors()) {
    if (known.contains(name)) continue;
    if (name.starts_with("blk.") || name.starts_with("rope_")) {
      return Failed(
          fmt::format("{}: tensor '{}' is no part of '{}' as it is computed; "
                      "use a file of a supported architecture",
                      file_.path(), Printable(name), config_.family));
    }
    notes_.push_back(fmt::format("{}: tensor '{}' is not read", file_.path(),
                                 Printable(name)));
  }
  return {};
}

Result<const GgufTensor*> GgufModel::Find(const Place& place) const {
  const auto tensor = file_.tensors().find(place.name);
  if (tensor == file_.tensors().end()) {
    return Failed(fmt::format("{}: tensor '{}' is missing; use a complete file",
                              file_.path(), place.name));
  }
  if (tensor->second.format == nullptr) {
    return Failed(fmt::format(
        "{}: tensor '{}' has ggml type {}, which is not read; use a file of {}",
        file_.path(), place.name, tensor->second.type, TypeNames()));
  }
  return &tensor->second;
}

Result<SourceMatrix> GgufModel::Matrix(const std::string& name, size_t rows,
                                       size_t cols) const {
  const auto found = places_.find(name);
  if (found == places_.end()) {
    return Failed(
        fmt::format("{}: the model has no tensor '{}'; use a file "
                    "that fits its configuration",
                    file_.path(), name));
  }
  const Place& place = found->second;
  RANKFORGE_ASSIGN_OR_RETURN(const GgufTensor* tensor, Find(place));
  const std::vector<size_t>& shape = tensor->shape;
  const bool fits = shape == std::vector<size_t>{rows, cols} ||
                    (rows == 1 && shape == std::vector<size_t>{cols});
  if (!fits) {
    return Failed(
        fmt::format("{}: tensor '{}' is {} ({}), expected ({}, {}); "
                    "use a file that fits its configuration",
                    file_.path(), place.name, tensor->format->name,
                    fmt::join(shape, ", "), rows, cols));
  }
  SourceMatrix matrix{tensor->bytes.data(), tensor->format->type, rows, cols};
  matrix.order = place.order;
  matrix.added = place.added;
  // The elements of a bias have the order of the rows beside it.
  matrix.transposed = rows == 1 && !place.order.is_identity();
  if (matrix.line_length() % tensor->format->weights != 0) {
    return Failed(
        fmt::format("{}: tensor '{}' is {}, expected single weights; "
                    "use another file",
                    file_.path(), place.name, tensor->format->name));
  }
  return matrix;
}

}  // namespace rankforge
