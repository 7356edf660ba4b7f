#include "cli/support/trace.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <map>
#include <utility>

#include "base/files.h"
#include "cli/support/session.h"
#include "kernels/mask/mask.h"
#include "runtime/model/format/tokenizer.h"
#include "runtime/model/forward/model.h"

namespace rankforge {
namespace {

constexpr size_t kTokens = 64;
constexpr size_t kMasksPerWorkload = 64;

using Bits = std::vector<uint64_t>;

// Makes the masks of every adapted layer from the inputs that it saw.
class MaskRecorder : public ActivationObserver {
 public:
  explicit MaskRecorder(const Adapter& adapter) : adapter_(adapter) {}

  void Observe(size_t layer, Site site, const float* x, size_t tokens,
               size_t width) override {
    const std::string name = "model.layers." + std::to_string(layer);
    switch (site) {
      case Site::kAttentionInput:
        Ranks(name + ".self_attn.qkv", x, tokens, width);
        Inputs(name + ".self_attn.qkv", x, tokens, width);
        break;
      case Site::kAttentionOutput:
        Inputs(name + ".self_attn.o_proj", x, tokens, width);
        break;
      case Site::kMlpInput:
        for (const char* module : {".gate_up", ".gate_proj", ".up_proj"}) {
          Ranks(name + ".mlp" + module, x, tokens, width);
        }
        Inputs(name + ".mlp.gate_up", x, tokens, width);
        break;
      case Site::kMlpHidden:
        Inputs(name + ".mlp.down_proj", x, tokens, width);
        break;
    }
  }

  // By the layer of a workload.
  std::map<std::string, std::vector<Bits>>& masks() { return masks_; }

 private:
  static Bits Kept(const float* values, const std::vector<float>& tau) {
    Bits bits(MaskWords(tau.size()));
    for (size_t i = 0; i < tau.size(); ++i) {
      if (std::abs(values[i]) >= tau[i]) bits[i / 64] |= uint64_t{1} << i % 64;
    }
    return bits;
  }

  void Inputs(const std::string& module, const float* x, size_t tokens,
              size_t width) {
    const auto mask = adapter_.masks.find(module);
    if (mask == adapter_.masks.end() || mask->second.tau.size() != width) {
      return;
    }
    for (size_t t = 0; t < tokens; ++t) {
      masks_[module].push_back(Kept(x + t * width, mask->second.tau));
    }
  }

  // Sums in another order than the kernels', which moves a value across its
  // threshold too rarely to matter here.
  void Ranks(const std::string& module, const float* x, size_t tokens,
             size_t width) {
    const auto found = adapter_.ranks.find(module);
    if (found == adapter_.ranks.end()) return;
    const RankAdapter& rank = found->second;
    if (rank.cols != width || rank.tau.size() != rank.d) return;
    std::vector<float> z(rank.d);
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t i = 0; i < rank.d; ++i) {
        const float* b = rank.b.data() + i * width;
        float sum = 0;
        for (size_t j = 0; j < width; ++j) sum += b[j] * x[t * width + j];
        z[i] = sum;
      }
      masks_[module + ".rank.A"].push_back(Kept(z.data(), rank.tau));
    }
  }

  const Adapter& adapter_;
  std::map<std::string, std::vector<Bits>> masks_;
};

double DensityOf(const Bits& bits, size_t channels) {
  size_t kept = 0;
  for (const uint64_t word : bits) kept += std::popcount(word);
  return static_cast<double>(kept) / static_cast<double>(channels);
}

void SetTrace(std::vector<Bits> masks, Workload& workload) {
  std::vector<double> densities;
  double sum = 0;
  for (const Bits& bits : masks) {
    densities.push_back(DensityOf(bits, workload.problem.cols));
    sum += densities.back();
  }
  std::sort(densities.begin(), densities.end());
  const size_t last = densities.size() - 1;
  const double least = 1 / static_cast<double>(workload.problem.cols);
  workload.density =
      std::max(sum / static_cast<double>(densities.size()), least);
  workload.density_p05 =
      std::min(std::max(densities[last / 20], least), workload.density);
  workload.density_p95 =
      std::max(densities[last - last / 20], workload.density);
  // Evenly spaced: of all layers and all parts of the text.
  const size_t count = std::min(kMasksPerWorkload, masks.size());
  for (size_t i = 0; i < count; ++i) {
    workload.trace.push_back(std::move(masks[i * masks.size() / count]));
  }
}

}  // namespace

Status RecordTrace(const std::string& path, const std::string& model,
                   const CommonOptions& options,
                   std::vector<Workload>& workloads) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(path, kMaxTextBytes));
  RANKFORGE_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(model));
  std::vector<int> ids = tokenizer.Encode(text);
  if (ids.empty()) return Failed(path + ": no text to run; name another file");
  ids.resize(std::min(ids.size(), kTokens));
  RANKFORGE_ASSIGN_OR_RETURN(const auto session, OpenModel(model, options, 1));
  MaskRecorder recorder(*session->adapter);
  session->model->set_observer(&recorder);
  KvCache cache(session->model->config(), session->model->options().kv_type,
                ids.size());
  RANKFORGE_RETURN_IF_ERROR(session->model->Forward(ids, cache, {}));
  for (Workload& workload : workloads) {
    if (workload.problem.operation != Operation::kColumnMask) continue;
    std::vector<Bits> masks;
    for (const std::string& layer : workload.layers) {
      std::vector<Bits>& seen = recorder.masks()[layer];
      masks.insert(masks.end(), seen.begin(), seen.end());
    }
    if (!masks.empty()) SetTrace(std::move(masks), workload);
  }
  return {};
}

}  // namespace rankforge
