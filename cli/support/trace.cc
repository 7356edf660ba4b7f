#include "cli/support/trace.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>

#include "base/files.h"
#include "cli/support/output.h"
#include "cli/support/session.h"
#include "cli/support/token_ids.h"
#include "runtime/model/forward/model.h"
#include "runtime/model/use/mask_trace.h"

namespace rankforge {
namespace {

constexpr size_t kTokens = 64;
constexpr size_t kMasksPerWorkload = 64;

using Mask = MaskTrace::Mask;

// Channels that a mask of this problem has.
size_t ChannelsOf(const Problem& problem) {
  return problem.operation == Operation::kRowMask ? problem.rows : problem.cols;
}

double DensityOf(const Mask& mask, size_t channels) {
  size_t kept = 0;
  for (const uint64_t word : mask) kept += std::popcount(word);
  return static_cast<double>(kept) / static_cast<double>(channels);
}

void SetTrace(std::vector<Mask> masks, Workload& workload) {
  const size_t channels = ChannelsOf(workload.problem);
  std::vector<double> densities;
  double sum = 0;
  for (const Mask& mask : masks) {
    densities.push_back(DensityOf(mask, channels));
    sum += densities.back();
  }
  std::sort(densities.begin(), densities.end());
  const size_t last = densities.size() - 1;
  const double least = 1 / static_cast<double>(channels);
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
  RANKFORGE_ASSIGN_OR_RETURN(const Tokenizer tokenizer, OpenTokenizer(model));
  std::vector<int> ids = tokenizer.Encode(text);
  if (ids.empty()) return Failed(path + ": no text to run; name another file");
  ids.resize(std::min(ids.size(), kTokens));
  RANKFORGE_ASSIGN_OR_RETURN(const auto session, OpenModel(model, options, 1));
  MaskTrace trace(session->model->config(), *session->adapter);
  session->model->set_observer(&trace);
  KvCache cache(session->model->config(), session->model->options().kv_type,
                ids.size());
  RANKFORGE_RETURN_IF_ERROR(session->model->Forward(ids, cache, {}));
  std::vector<std::string> without;
  for (Workload& workload : workloads) {
    if (workload.problem.operation == Operation::kDense) continue;
    std::vector<Mask> masks;
    for (const std::string& layer : workload.layers) {
      const std::vector<Mask>& seen = trace.Of(layer);
      masks.insert(masks.end(), seen.begin(), seen.end());
    }
    if (masks.empty()) {
      without.insert(without.end(), workload.layers.begin(),
                     workload.layers.end());
    } else {
      SetTrace(std::move(masks), workload);
    }
  }
  if (!without.empty()) {
    PrintMessage(fmt::format(
        "--trace {}: the run shows no masks of {}; they are measured with "
        "masks drawn as without --trace",
        path, fmt::join(without, ", ")));
  }
  return {};
}

}  // namespace rankforge
