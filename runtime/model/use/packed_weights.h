// The weights of a model from a pack file, and the making of such a file.
#ifndef RANKFORGE_RUNTIME_MODEL_USE_PACKED_WEIGHTS_H_
#define RANKFORGE_RUNTIME_MODEL_USE_PACKED_WEIGHTS_H_

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/model/format/adapter.h"
#include "runtime/model/format/config.h"
#include "runtime/model/format/pack_file.h"
#include "runtime/model/forward/model.h"
#include "runtime/model/weights/weights_over.h"

namespace rankforge {

// Answers for matrices from a pack, without copying them, and for everything
// else (norms and embeddings, of which a start reads little) from `base`, which
// must outlive this object. The adapter needs no matrices
// (AdapterParts::kWithoutMatrices).
class PackedWeights : public WeightsOver {
 public:
  // Fails if the file is damaged or was not made from `origin`.
  static Result<PackedWeights> Open(const std::string& path,
                                    const WeightSource& base,
                                    const PackOrigin& origin);

  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override;
  bool HasPacked() const override { return true; }

 private:
  PackedWeights(PackFile file, const WeightSource& base)
      : WeightsOver(base), file_(std::move(file)) {}

  PackFile file_;
};

// `adapter` as AdapterParts::kWithoutMatrices reads it, for a source of weights
// that HasPacked.
Adapter WithoutMatrices(Adapter adapter);

// What a model asks its weights for when it is created.
struct PackRequest {
  TensorNames names;
  std::vector<size_t> rows;  // of each tensor
  size_t cols = 0;
  WeightType type = WeightType::kF32;
  Layout layout = Layout::kOutIn;
};

// What Model::Create with the same arguments would pack, in the order of the
// file that WritePack writes.
Result<std::vector<PackRequest>> PackRequests(const ModelConfig& config,
                                              const WeightSource& base,
                                              const Adapter* adapter,
                                              const Dispatcher& dispatcher,
                                              const ModelOptions& options);

struct PackSummary {
  size_t matrices = 0;
  size_t bytes = 0;  // of packed weights
};

// Writes what Model::Create with the same arguments would pack, a few matrices
// at a time. `base` must have all but the adapter's matrices. `adapter` may be
// null. `progress` is called with the number of matrices written and the number
// of all matrices.
Result<PackSummary> WritePack(
    const ModelConfig& config, const WeightSource& base, const Adapter* adapter,
    const Dispatcher& dispatcher, const ModelOptions& options,
    const PackOrigin& origin, const std::string& path,
    const std::function<void(size_t done, size_t total)>& progress);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_USE_PACKED_WEIGHTS_H_
