// Packs whose integers were chosen on a text (docs/pack.md).
#ifndef RANKFORGE_ADAPT_ROUNDING_CALIBRATED_PACK_H_
#define RANKFORGE_ADAPT_ROUNDING_CALIBRATED_PACK_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/status.h"
#include "runtime/model/use/packed_weights.h"

namespace rankforge {

// What the integers are chosen on: at most `tokens` of `ids`, in windows
// (SampleWindows).
struct RoundingSample {
  std::span<const int> ids;
  size_t window = 256;
  size_t tokens = 32000;
  uint64_t seed = 0;
};

struct CalibratedPackSummary {
  PackSummary pack;
  size_t calibration_tokens = 0;
};

// WritePack, with weights of integer types that have groups rounded by
// RoundMatrix. What is rounded is what is packed: folded, rotated, stacked. The
// second moments are those of what each product reads in decoding, with all
// earlier weights rounded and inputs that a mask drops as zeros: the order of a
// run of the model, block by block. Targets (Corrected) are what the model
// computes before rounding, which runs beside it. Weights whose blocks the type
// keeps exactly stay as they are. `leave` of a rotated block, which has no
// moments, gets better scales alone.
//
// The pack is as any other; PackOrigin::calibration records the sample. Errors:
// no product has such a type, the types are those of the file
// (ModelOptions::stored_types), the sample is too small or does not fit the
// model.
Result<CalibratedPackSummary> WriteCalibratedPack(
    const ModelConfig& config, const WeightSource& base, const Adapter* adapter,
    const Dispatcher& dispatcher, const ModelOptions& options,
    const RoundingSample& sample, const PackOrigin& origin,
    const std::string& path,
    const std::function<void(size_t done, size_t total, const char* what)>&
        progress);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_ROUNDING_CALIBRATED_PACK_H_
