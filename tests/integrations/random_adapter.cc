#include "tests/integrations/random_adapter.h"

#include <random>

#include "runtime/model/format/adapter.h"
#include "runtime/model/weights/modules.h"

namespace rankforge {
namespace {

class Maker {
 public:
  void Rank(const ProjectionSpec& spec, size_t d) {
    RankAdapter rank;
    rank.module = spec.name;
    rank.rows = spec.rows;
    rank.cols = spec.cols;
    rank.d = d;
    rank.a = Random(d * spec.rows, 0.15f);
    rank.b = Random(d * spec.cols, 0.15f);
    rank.tau.assign(d, 0.5f);
    rank.density = 0.5;
    adapter.ranks[spec.name] = std::move(rank);
  }
  static InputMask Mask(const std::string& module, size_t cols) {
    InputMask mask;
    mask.module = module;
    mask.cols = cols;
    mask.tau.assign(cols, 0.1f);
    mask.density = 0.5;
    return mask;
  }

  Adapter adapter;

 private:
  std::vector<float> Random(size_t n, float scale) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> values(n);
    for (float& value : values) value = normal(random_);
    return values;
  }
  std::mt19937 random_{3};
};

}  // namespace

std::string WriteRandomAdapter(const std::string& gguf, RandomAdapter kind,
                               const std::string& path) {
  const auto checkpoint = Checkpoint::Open(gguf);
  if (!checkpoint.ok()) return checkpoint.status().message();
  Maker maker;
  Adapter& adapter = maker.adapter;
  adapter.method = "test";
  adapter.checkpoint_hash = checkpoint->Identity();
  adapter.checkpoint_full_hash = checkpoint->FullHash();
  const ModelSpec model = DescribeModel(checkpoint->config(), nullptr);
  for (const BlockSpec& block : model.blocks) {
    const ProjectionSpec& gate_up = block[Site::kMlpInput];
    if (kind == RandomAdapter::kGates) {
      adapter.gates[gate_up.name] = Maker::Mask(gate_up.name, gate_up.rows / 2);
      continue;
    }
    maker.Rank(block[Site::kAttentionInput], 24);
    maker.Rank(gate_up, 16);
    for (const Site site : {Site::kAttentionOutput, Site::kMlpHidden}) {
      const ProjectionSpec& spec = block[site];
      InputMask& mask = adapter.masks[spec.name];
      mask = Maker::Mask(spec.name, spec.cols);
      if (kind != RandomAdapter::kBiases) continue;
      mask.gain.assign(spec.cols, 1);
      mask.bias.assign(spec.rows, 0.5f);
    }
  }
  const Status fits = CheckAdapter(checkpoint->config(), adapter);
  if (!fits.ok()) return fits.message();
  return SaveAdapter(adapter, path).message();
}

}  // namespace rankforge
