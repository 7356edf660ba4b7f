#include "runtime/model/weights/modules.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "meta/variants.h"
#include "runtime/model/format/family.h"
#include "runtime/model/weights/stored_types.h"
#include "runtime/table/choice.h"

namespace rankforge {

namespace {

// The rows of a stacked projection that a module stands for.
struct ModuleRows {
  std::string module;
  size_t offset = 0;
  size_t rows = 0;
};

// A projection before adapters: its stacked tensors, and the modules that may
// replace or mask parts of it.
struct DenseProjection {
  std::string module;                // of the whole stack
  std::vector<TensorShape> tensors;  // in order of their rows
  std::vector<TensorShape> biases;   // (1, rows) of each tensor, or none
  // Modules of parts of the stack that may have a rank adapter of their own.
  std::vector<ModuleRows> parts;

  size_t rows() const {
    size_t sum = 0;
    for (const TensorShape& tensor : tensors) sum += tensor.rows;
    return sum;
  }
  size_t cols() const { return tensors.front().cols; }
};

using DenseBlock = BySite<DenseProjection>;

double QuantileOf(const std::map<std::string, double>& quantiles,
                  const char* name) {
  const auto found = quantiles.find(name);
  return found == quantiles.end() ? 0 : found->second;
}

std::string LayerName(const ModelFamily& family, size_t layer) {
  return fmt::format("{}.{}.", family.layers, layer);
}

NormSpec NormOf(const std::string& layer, const std::string& name, size_t size,
                const ModelConfig& config) {
  if (name.empty()) return {"", "", size};
  return {layer + name + ".weight",
          config.norm == NormKind::kLayer ? layer + name + ".bias" : "", size};
}

// The block's norms, without its projections.
BlockSpec NormsOf(const ModelConfig& config, size_t layer) {
  const ModelFamily& family = FamilyOf(config);
  const std::string name = LayerName(family, layer);
  const auto hidden = [&](const std::string& norm) {
    return NormOf(name, norm, config.hidden, config);
  };
  BlockSpec block = {.attention_norm = hidden(family.attention_norm),
                     .mlp_norm = hidden(family.mlp_norm),
                     .attention_out_norm = hidden(family.attention_out_norm),
                     .mlp_out_norm = hidden(family.mlp_out_norm),
                     .q_norm = {},
                     .k_norm = {},
                     .projections = {}};
  if (config.qk_norm != QkNorm::kNone) {
    const bool all = config.qk_norm == QkNorm::kAll;
    const size_t head = config.qk_dim(layer);
    block.q_norm =
        NormOf(name, family.q_norm, all ? config.q_rows(layer) : head, config);
    block.k_norm =
        NormOf(name, family.k_norm, all ? config.k_rows(layer) : head, config);
  }
  return block;
}

// A stack of one tensor for each of `rows`, or of one tensor with all rows if
// the family's checkpoints have them fused.
DenseProjection StackOf(const std::string& layer, const ProjectionNames& names,
                        std::vector<size_t> rows, size_t cols, bool has_bias) {
  if (names.tensors.size() == 1) {
    rows = {std::accumulate(rows.begin(), rows.end(), size_t{0})};
  }
  DenseProjection projection{layer + names.stack, {}, {}, {}};
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::string name = layer + names.tensors[i];
    projection.tensors.push_back({name + ".weight", rows[i], cols});
    if (has_bias) projection.biases.push_back({name + ".bias", 1, rows[i]});
  }
  return projection;
}

// The projections of a layer with their names and shapes.
DenseBlock BlockOf(const ModelConfig& config, size_t layer) {
  const ModelFamily& family = FamilyOf(config);
  const std::string name = LayerName(family, layer);
  const size_t hidden = config.hidden;
  const size_t mlp = config.mlp_width(layer);
  DenseBlock block;
  block[Site::kAttentionInput] = StackOf(
      name, family.qkv,
      {config.q_rows(layer), config.k_rows(layer), config.v_rows(layer)},
      hidden, config.qkv_bias);
  block[Site::kAttentionOutput] =
      StackOf(name, family.o, {hidden}, config.o_cols(layer), config.o_bias);
  DenseProjection& gate_up = block[Site::kMlpInput];
  gate_up = StackOf(name, family.gate_up,
                    std::vector<size_t>(config.gated_mlp ? 2 : 1, mlp), hidden,
                    config.mlp_bias);
  const auto& modules = family.gate_up.tensors;
  if (config.gated_mlp && modules.size() == 2) {
    gate_up.parts = {{name + modules[0], 0, mlp},
                     {name + modules[1], mlp, mlp}};
  }
  block[Site::kMlpHidden] =
      StackOf(name, family.down, {hidden}, mlp, config.mlp_bias);
  return block;
}

// The rank adapters that replace rows of `projection`, with those rows.
std::vector<std::pair<ModuleRows, const RankAdapter*>> RanksOf(
    const DenseProjection& projection, const Adapter* adapter) {
  std::vector<std::pair<ModuleRows, const RankAdapter*>> found;
  if (adapter == nullptr) return found;
  std::vector<ModuleRows> candidates = projection.parts;
  candidates.insert(candidates.begin(),
                    {projection.module, 0, projection.rows()});
  for (const ModuleRows& candidate : candidates) {
    const auto rank = adapter->ranks.find(candidate.module);
    if (rank != adapter->ranks.end()) {
      found.emplace_back(candidate, &rank->second);
    }
  }
  return found;
}

const InputMask* MaskOf(const DenseProjection& projection,
                        const Adapter* adapter) {
  if (adapter == nullptr) return nullptr;
  const auto mask = adapter->masks.find(projection.module);
  return mask == adapter->masks.end() ? nullptr : &mask->second;
}

const GateMask* GateOf(const DenseProjection& gate_up, const Adapter* adapter) {
  if (adapter == nullptr) return nullptr;
  const auto gate = adapter->gates.find(gate_up.module);
  return gate == adapter->gates.end() ? nullptr : &gate->second;
}

// Makes `product` one that reads only what `mask` keeps.
void ReadBy(const InputMask& mask, Operation operation, ProductSpec& product) {
  product.operation = operation;
  product.density = mask.density;
  product.density_p05 = QuantileOf(mask.density_quantiles, "0.05");
  product.density_p95 = QuantileOf(mask.density_quantiles, "0.95");
  // keep_frequency is by column. For a row mask, the density tells the tuner as
  // much.
  if (operation == Operation::kColumnMask) {
    product.keep_frequency = mask.keep_frequency;
  }
}

// The biases of rows [begin, end).
std::vector<TensorShape> BiasesOf(const DenseProjection& projection,
                                  size_t begin, size_t end) {
  std::vector<TensorShape> biases;
  size_t offset = 0;
  for (const TensorShape& bias : projection.biases) {
    if (offset >= begin && offset < end) biases.push_back(bias);
    offset += bias.cols;
  }
  return biases;
}

// The direct product of the tensors that lie in rows [begin, end).
ProductSpec DirectProduct(const DenseProjection& projection, size_t begin,
                          size_t end) {
  ProductSpec product;
  product.output_offset = begin;
  size_t offset = 0;
  for (const TensorShape& tensor : projection.tensors) {
    if (offset >= begin && offset < end) product.tensors.push_back(tensor);
    offset += tensor.rows;
  }
  product.biases = BiasesOf(projection, begin, end);
  product.layer = projection.module;
  for (const ModuleRows& part : projection.parts) {
    if (part.offset == begin && part.rows == end - begin) {
      product.layer = part.module;
    }
  }
  return product;
}

ProjectionSpec Describe(const DenseProjection& projection,
                        const Adapter* adapter) {
  ProjectionSpec spec;
  spec.name = projection.module;
  spec.rows = projection.rows();
  spec.cols = projection.cols();

  size_t covered = 0;  // rows below this are computed
  size_t z_size = 0;
  const auto ranks = RanksOf(projection, adapter);
  for (const auto& [part, rank] : ranks) {
    if (covered < part.offset) {
      spec.direct.push_back(DirectProduct(projection, covered, part.offset));
    }
    if (!spec.b) {
      spec.b.emplace();
      spec.b->layer =
          (ranks.size() > 1 ? projection.module : part.module) + ".rank.B";
    }
    spec.b->tensors.push_back({part.module + ".rank.B", rank->d, spec.cols});
    spec.rank_masks.push_back(
        {part.module, z_size, rank->d, rank->density, &rank->tau});
    spec.a.push_back(
        {.layer = part.module + ".rank.A",
         .operation = Operation::kColumnMask,
         .tensors = {{part.module + ".rank.A", part.rows, rank->d}},
         .biases = BiasesOf(projection, part.offset, part.offset + part.rows),
         .input_offset = z_size,
         .output_offset = part.offset,
         .density = rank->density,
         .density_p05 = QuantileOf(rank->density_quantiles, "0.05"),
         .density_p95 = QuantileOf(rank->density_quantiles, "0.95"),
         .keep_frequency = rank->keep_frequency});
    z_size += rank->d;
    covered = part.offset + part.rows;
  }
  if (covered < spec.rows) {
    spec.direct.push_back(DirectProduct(projection, covered, spec.rows));
  }

  if (const InputMask* mask = MaskOf(projection, adapter)) {
    spec.input_mask = {projection.module, 0, spec.cols, mask->density,
                       &mask->tau};
    for (ProductSpec& product : spec.direct) {
      ReadBy(*mask, Operation::kColumnMask, product);
    }
  }
  return spec;
}

// Describes gate and up of an MLP whose gate decides, and its down.
void LetGateDecide(const DenseProjection& projection, const GateMask& mask,
                   BlockSpec& block) {
  ProjectionSpec& gate_up = block[Site::kMlpInput];
  gate_up.gate_mask = {projection.module, 0, mask.cols, mask.density,
                       &mask.tau};
  gate_up.direct = {DirectProduct(projection, 0, mask.cols),
                    DirectProduct(projection, mask.cols, 2 * mask.cols)};
  ReadBy(mask, Operation::kRowMask, gate_up.direct[1]);
  ReadBy(mask, Operation::kColumnMask, block[Site::kMlpHidden].direct.front());
}

// A product that turns hidden values of `layer` into or out of its basis.
ProjectionSpec TurnOf(const ModelConfig& config, size_t layer,
                      const char* direction) {
  ProjectionSpec turn;
  turn.name = fmt::format("{}rotation.{}", LayerName(FamilyOf(config), layer),
                          direction);
  turn.rows = turn.cols = config.hidden;
  ProductSpec product;
  product.layer = turn.name;
  product.tensors = {{turn.name, config.hidden, config.hidden}};
  product.turns_stream = true;
  turn.direct = {std::move(product)};
  return turn;
}

// Whether a bias is added to what `projection` computes, beside its own: that
// of the norm before it, in a rotated block, or that of its mask.
bool GetsBias(const ModelConfig& config, const DenseProjection& projection,
              bool folds_norm, const Adapter* adapter) {
  if (folds_norm && config.norm == NormKind::kLayer) return true;
  const InputMask* const mask = MaskOf(projection, adapter);
  return mask != nullptr && !mask->bias.empty();
}

// Gives every tensor of `projection` a bias, if it has none.
void AddBiases(DenseProjection& projection) {
  if (!projection.biases.empty()) return;
  for (const TensorShape& tensor : projection.tensors) {
    projection.biases.push_back({ModuleOf(tensor) + ".bias", 1, tensor.rows});
  }
}

// Makes `block`, of a rotated group, one that holds hidden values in its basis.
void Rotate(const ModelConfig& config, const Rotation& rotation, size_t layer,
            BlockSpec& block) {
  const RotationGroup* const group = rotation.Of(layer);
  if (layer == 0 || rotation.Of(layer - 1) != group) {
    block.enter = TurnOf(config, layer, "enter");
  }
  if (layer + 1 == config.layers || rotation.Of(layer + 1) == nullptr) {
    block.leave = TurnOf(config, layer, "leave");
  }
  block.attention_norm.folded = block.mlp_norm.folded = true;
}

std::string Shape(size_t rows, size_t cols) {
  return fmt::format("({}, {})", rows, cols);
}

}  // namespace

std::string ModuleOf(const TensorShape& tensor) {
  return tensor.name.substr(0, tensor.name.rfind(".weight"));
}

std::string KindOf(const std::string& module) {
  size_t begin = 0;
  for (int dots = 0; dots < 3; ++dots) begin = module.find('.', begin) + 1;
  return module.substr(begin);
}

size_t ProductSpec::rows() const {
  size_t sum = 0;
  for (const TensorShape& tensor : tensors) sum += tensor.rows;
  return sum;
}

bool CanRotate(const ModelConfig& config) {
  const ModelFamily& family = FamilyOf(config);
  return family.attention_out_norm.empty() && family.mlp_out_norm.empty();
}

ModelSpec DescribeModel(const ModelConfig& config, const Adapter* adapter) {
  const ModelFamily& family = FamilyOf(config);
  ModelSpec spec;
  for (size_t layer = 0; layer < config.layers; ++layer) {
    DenseBlock block = BlockOf(config, layer);
    const bool rotated =
        adapter != nullptr && adapter->rotation.Of(layer) != nullptr;
    spec.blocks.push_back(NormsOf(config, layer));
    for (const Site site : kSites) {
      if (GetsBias(config, block[site], rotated && ReadsStream(site),
                   adapter)) {
        AddBiases(block[site]);
      }
      spec.blocks.back()[site] = Describe(block[site], adapter);
    }
    const DenseProjection& gate_up = block[Site::kMlpInput];
    if (const GateMask* gate = GateOf(gate_up, adapter)) {
      LetGateDecide(gate_up, *gate, spec.blocks.back());
    }
    if (rotated) Rotate(config, adapter->rotation, layer, spec.blocks.back());
  }
  spec.final_norm = NormOf("", family.final_norm, config.hidden, config);
  spec.embedding = {family.embedding + ".weight", config.vocab, config.hidden};
  spec.lm_head.layer = "lm_head";
  spec.lm_head.tensors = {spec.embedding};
  if (!config.tied_embeddings) {
    spec.lm_head.tensors.front().name = family.lm_head + ".weight";
  }
  return spec;
}

namespace {

// Checks the modules of an adapter against those of a model.
class AdapterCheck {
 public:
  AdapterCheck(const ModelConfig& config, const Adapter& adapter)
      : config_(config), adapter_(adapter) {}

  Status Run() {
    RANKFORGE_RETURN_IF_ERROR(Rotated());
    RANKFORGE_RETURN_IF_ERROR(Skips());
    for (size_t layer = 0; layer < config_.layers; ++layer) {
      const DenseBlock block = BlockOf(config_, layer);
      RANKFORGE_RETURN_IF_ERROR(
          Gate(block[Site::kMlpInput], block[Site::kMlpHidden]));
      for (const DenseProjection& projection : block) {
        RANKFORGE_RETURN_IF_ERROR(Ranks(projection));
        RANKFORGE_RETURN_IF_ERROR(Mask(projection));
      }
    }
    RANKFORGE_RETURN_IF_ERROR(
        AllOfModel(adapter_.ranks, known_, "cannot have a rank adapter"));
    RANKFORGE_RETURN_IF_ERROR(
        AllOfModel(adapter_.masks, known_, "cannot have an input mask"));
    return AllOfModel(adapter_.gates, known_gates_, "cannot decide by a gate");
  }

 private:
  static Status Wrong(const std::string& module, const std::string& what) {
    return Failed(
        fmt::format("adapter: module '{}' {}; use an adapter made "
                    "for this model",
                    module, what));
  }
  Status Skips() const {
    const LayerSkip& skip = adapter_.skip;
    const std::string wrong = WhyNotSkip(skip, config_.layers, config_.hidden);
    if (!wrong.empty()) {
      return Failed(
          fmt::format("adapter: 'layer_skip' {}; use an adapter made "
                      "for this model",
                      wrong));
    }
    for (const auto& [block, weight] : skip.routers) {
      if (config_.norm != NormKind::kLayer ||
          adapter_.rotation.OfStream(block) == nullptr) {
        continue;
      }
      return Failed(fmt::format(
          "adapter: the router of block {} reads a rotated stream, which in "
          "models with LayerNorm lacks its mean; rotate no block before it",
          block));
    }
    return {};
  }
  Status Rotated() const {
    const Rotation& rotation = adapter_.rotation;
    if (rotation.empty()) return {};
    const auto wrong = [](const std::string& what) {
      return Failed(
          fmt::format("adapter: {}; use an adapter made for this "
                      "model",
                      what));
    };
    if (!CanRotate(config_)) {
      return wrong(fmt::format(
          "it rotates blocks, and model family {} has norms after attention "
          "and the MLP, whose weights do not commute with a rotation",
          config_.family));
    }
    if (rotation.hidden != config_.hidden) {
      return wrong(fmt::format("it rotates {} hidden values, the model has {}",
                               rotation.hidden, config_.hidden));
    }
    for (const RotationGroup& group : rotation.groups) {
      if (group.first_block >= config_.layers) {
        return wrong(fmt::format(
            "it has a group of blocks from block {}, the model has {} blocks",
            group.first_block, config_.layers));
      }
      const size_t size = group.q.size();  // 0: the source of weights has it
      if (size != 0 && size != config_.hidden * config_.hidden) {
        return wrong(fmt::format(
            "Q of the group from block {} has {} values "
            "instead of {} x {}",
            group.first_block, size, config_.hidden, config_.hidden));
      }
    }
    return {};
  }
  // Thresholds and frequencies may be absent (synthetic adapters).
  template <class Module>
  static bool FitsChannels(const Module& module, size_t channels) {
    const auto fits = [channels](const std::vector<float>& values) {
      return values.empty() || values.size() == channels;
    };
    return fits(module.tau) && fits(module.keep_frequency);
  }

  Status Gate(const DenseProjection& gate_up, const DenseProjection& down) {
    const GateMask* const gate = GateOf(gate_up, &adapter_);
    if (gate == nullptr) return {};
    const std::string& module = gate_up.module;
    if (!gate->gain.empty() || !gate->bias.empty()) {
      return Wrong(module, "has gains or biases, which gate masks do not");
    }
    if (!config_.gated_mlp || config_.mlp_bias || gate_up.tensors.size() != 2) {
      return Wrong(module,
                   "decides by a gate, and the model's MLP has none, or "
                   "biases, or gate and up in one tensor");
    }
    if (gate->cols != down.cols() || !FitsChannels(*gate, gate->cols)) {
      return Wrong(module, fmt::format("decides about {} neurons, the model "
                                       "has {}",
                                       gate->cols, down.cols()));
    }
    for (const DenseProjection* projection : {&gate_up, &down}) {
      if (RanksOf(*projection, &adapter_).empty() &&
          MaskOf(*projection, &adapter_) == nullptr) {
        continue;
      }
      return Wrong(module,
                   "decides by its gate beside another adapter of this MLP");
    }
    known_gates_.insert(module);
    return {};
  }

  Status Ranks(const DenseProjection& projection) {
    size_t covered = 0;
    for (const auto& [part, rank] : RanksOf(projection, &adapter_)) {
      if (part.rows != rank->rows || projection.cols() != rank->cols) {
        return Wrong(part.module,
                     fmt::format("has shape {}, the model's is {}",
                                 Shape(rank->rows, rank->cols),
                                 Shape(part.rows, projection.cols())));
      }
      if (rank->d == 0) return Wrong(part.module, "has no ranks");
      // A and B may be empty if the source of weights has them.
      if ((!rank->a.empty() && rank->a.size() != rank->d * rank->rows) ||
          (!rank->b.empty() && rank->b.size() != rank->d * rank->cols) ||
          !FitsChannels(*rank, rank->d)) {
        return Wrong(part.module, "has tensors that do not fit its d");
      }
      if (part.offset < covered) {
        return Wrong(part.module,
                     "replaces weights that another module replaces");
      }
      covered = part.offset + part.rows;
      known_.insert(part.module);
    }
    return {};
  }

  Status Mask(const DenseProjection& projection) {
    const InputMask* const mask = MaskOf(projection, &adapter_);
    if (mask == nullptr) return {};
    if (mask->cols != projection.cols() || !FitsChannels(*mask, mask->cols)) {
      return Wrong(projection.module,
                   fmt::format("masks {} inputs, the model has {}", mask->cols,
                               projection.cols()));
    }
    if (mask->gain.empty() != mask->bias.empty() ||
        (!mask->gain.empty() && (mask->gain.size() != mask->cols ||
                                 mask->bias.size() != projection.rows()))) {
      return Wrong(
          projection.module,
          fmt::format("has {} gains and {} biases for {} inputs and {} "
                      "outputs",
                      mask->gain.size(), mask->bias.size(), projection.cols(),
                      projection.rows()));
    }
    if (!RanksOf(projection, &adapter_).empty()) {
      return Wrong(projection.module,
                   "has both an input mask and a rank adapter");
    }
    known_.insert(projection.module);
    return {};
  }

  template <class Modules>
  static Status AllOfModel(const Modules& modules,
                           const std::set<std::string>& known,
                           const char* otherwise) {
    for (const auto& [name, module] : modules) {
      if (!known.contains(name)) return Wrong(name, otherwise);
    }
    return {};
  }

  const ModelConfig& config_;
  const Adapter& adapter_;
  std::set<std::string> known_;  // modules with ranks or an input mask
  std::set<std::string> known_gates_;
};

}  // namespace

Status CheckAdapter(const ModelConfig& config, const Adapter& adapter) {
  return AdapterCheck(config, adapter).Run();
}

std::vector<TensorShape> CheckpointTensors(const ModelConfig& config) {
  const ModelSpec spec = DescribeModel(config, nullptr);
  std::vector<TensorShape> tensors = {spec.embedding};
  const auto add_norm = [&](const NormSpec& norm) {
    for (const std::string* name : {&norm.weight, &norm.bias}) {
      if (!name->empty()) tensors.push_back({*name, 1, norm.size});
    }
  };
  for (const BlockSpec& block : spec.blocks) {
    add_norm(block.attention_norm);
    add_norm(block.mlp_norm);
    add_norm(block.attention_out_norm);
    add_norm(block.mlp_out_norm);
    add_norm(block.q_norm);
    add_norm(block.k_norm);
    for (const ProjectionSpec& projection : block.projections) {
      const ProductSpec& product = projection.direct.front();
      for (const auto* parts : {&product.tensors, &product.biases}) {
        tensors.insert(tensors.end(), parts->begin(), parts->end());
      }
    }
  }
  add_norm(spec.final_norm);
  if (!config.tied_embeddings) {
    tensors.push_back(spec.lm_head.tensors.front());
  }
  return tensors;
}

Problem ProblemOf(const ProductSpec& product, WeightType type,
                  std::optional<Activations> activations, size_t threads) {
  const Activations asked =
      product.turns_stream ? Activations::kF32
                           : activations.value_or(DefaultActivations(type));
  return {.operation = product.operation,
          .rows = product.rows(),
          .cols = product.cols(),
          .type = type,
          .granularity = 1,
          .batch = 1,
          .threads = threads,
          .activations = ActivationsFor(product.operation, type, asked)};
}

namespace {

// Calls function(product, type) for every product of a model, with the type of
// its weights.
template <class Function>
void ForEachProduct(const ModelSpec& spec, const ModelOptions& options,
                    Function function) {
  const StoredTypes* const stored = options.stored_types.get();
  for (const BlockSpec& block : spec.blocks) {
    ForEachProduct(block, [&](const ProductSpec& product) {
      function(product, TypeOf(product, options.type, stored));
    });
  }
  function(spec.lm_head, TypeOf(spec.lm_head, options.lm_head_type, stored));
}

// Widens the densities of the workload to include the sparsest and the densest
// tokens of this product's layer.
void AddSpread(const ProductSpec& product, Workload& workload) {
  if (product.operation == Operation::kDense) return;
  const bool recorded = product.density_p95 > 0;
  double low = recorded ? product.density_p05 : product.density;
  double high = recorded ? product.density_p95 : product.density;
  // Rare tokens can move the mean beyond the quantiles, so it widens the range.
  // The lower end stays above 0, which says "not recorded".
  low = std::min(std::max(low, 1e-3), product.density);
  high = std::min(std::max(high, product.density), 1.0);
  const bool first = workload.density_p95 == 0;
  workload.density_p05 = first ? low : std::min(workload.density_p05, low);
  workload.density_p95 = first ? high : std::max(workload.density_p95, high);
}

}  // namespace

size_t SiteWidth(const ModelConfig& config, size_t layer, Site site) {
  switch (site) {
    case Site::kAttentionOutput:
      return config.o_cols(layer);
    case Site::kMlpHidden:
      return config.mlp_width(layer);
    case Site::kAttentionInput:
    case Site::kMlpInput:
      break;
  }
  return config.hidden;
}

Status CheckActivations(const ModelConfig& config, const Adapter* adapter,
                        const ModelOptions& options) {
  if (!options.activations) return {};
  if (adapter != nullptr) {
    RANKFORGE_RETURN_IF_ERROR(CheckAdapter(config, *adapter));
  }
  const Activations asked = *options.activations;
  std::vector<WeightType> types;  // of products that have them
  ForEachProduct(DescribeModel(config, adapter), options,
                 [&](const ProductSpec& product, WeightType type) {
                   const Problem problem = ProblemOf(product, type, asked, 1);
                   if (problem.activations == asked) types.push_back(type);
                 });
  RANKFORGE_RETURN_IF_ERROR(CheckWeightsTake(asked, types));
  return CheckCpu(asked);
}

std::vector<Workload> ModelWorkloads(const ModelConfig& config,
                                     const Adapter* adapter,
                                     const ModelOptions& options) {
  std::map<Problem, Workload> by_problem;
  std::map<Problem, size_t> with_frequency;
  const auto add = [&](const ProductSpec& product, WeightType type) {
    const Problem problem =
        ProblemOf(product, type, options.activations, options.threads);
    Workload& workload = by_problem[problem];
    workload.problem = problem;
    // Running means over the layers that share the problem.
    workload.layers.push_back(product.layer);
    if (workload.layers.size() == 1) workload.density = 0;
    AddSpread(product, workload);
    workload.density += (product.density - workload.density) /
                        static_cast<double>(workload.layers.size());
    if (product.keep_frequency.size() != problem.cols) return;
    const auto count = static_cast<float>(++with_frequency[problem]);
    workload.keep_frequency.resize(problem.cols);
    for (size_t i = 0; i < problem.cols; ++i) {
      float& mean = workload.keep_frequency[i];
      mean += (product.keep_frequency[i] - mean) / count;
    }
  };
  ForEachProduct(DescribeModel(config, adapter), options, add);

  std::vector<Workload> workloads;
  for (auto& [problem, workload] : by_problem) {
    workloads.push_back(std::move(workload));
  }
  return workloads;
}

std::vector<Problem> DecodeSequence(const ModelConfig& config,
                                    const Adapter* adapter,
                                    const ModelOptions& options) {
  std::vector<Problem> sequence;
  ForEachProduct(DescribeModel(config, adapter), options,
                 [&](const ProductSpec& product, WeightType type) {
                   sequence.push_back(ProblemOf(
                       product, type, options.activations, options.threads));
                 });
  return sequence;
}

}  // namespace rankforge
