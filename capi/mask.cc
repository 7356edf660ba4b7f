#include "capi/mask.h"

#include <algorithm>

#include "capi/arguments.h"
#include "kernels/registry.h"
#include "runtime/plan/mask_check.h"
#include "runtime/plan/plan.h"

namespace rankforge::capi {
namespace {

constexpr size_t kMostChannels = size_t{1} << 31;

ThresholdRule RuleOf(const rankforge_mask& mask) {
  return {.tau = mask.taus,
          .mu = mask.mu,
          .comparison = mask.strict != 0 ? Comparison::kGreater
                                         : Comparison::kGreaterEqual,
          .signed_score = mask.signed_score != 0,
          .score = mask.score,
          .common_tau = mask.tau};
}

void CheckScores(const rankforge_mask& mask) {
  CheckAligned(mask.score, "mask: score");
  CheckAligned(mask.mu, "mask: mu");
  CheckAligned(mask.taus, "mask: taus");
}

MaskView Threshold(const rankforge_mask& mask, const float* v, size_t count,
                   size_t granularity, const MaskStorage& storage,
                   MaskArrays arrays) {
  CheckScores(mask);
  if (v == nullptr && mask.score == nullptr) {
    throw ArgumentError("mask: score is null; a mask of outputs needs it");
  }
  const ThresholdRule rule = RuleOf(mask);
  return granularity == 1
             ? MakeMask(v, count, rule, storage, arrays)
             : MakeGroupMask(v, count, granularity, rule, storage, arrays);
}

MaskView TopK(const rankforge_mask& mask, const float* v, size_t count,
              size_t granularity, const MaskStorage& storage,
              MaskArrays arrays) {
  CheckScores(mask);
  if (mask.score == nullptr && (v == nullptr || granularity > 1)) {
    throw ArgumentError(
        "mask: score is null; the k largest outputs or groups need it");
  }
  const TopKRule rule = {.k = mask.k,
                         .mu = mask.mu,
                         .signed_score = mask.signed_score != 0,
                         .score = mask.score};
  if (granularity == 1) return MakeTopKMask(v, count, rule, storage, arrays);
  const size_t groups = (count + granularity - 1) / granularity;
  MakeTopKMask(nullptr, groups, rule, storage, {false, false, false});
  return MaskFromBits(storage.bits, v, count, granularity, storage, arrays);
}

}  // namespace

MaskView MakeCallMask(const rankforge_mask* given, const float* v, size_t count,
                      size_t granularity, const MaskStorage& storage,
                      MaskArrays arrays) {
  const StructView view(given, "mask");
  const rankforge_mask& mask = *view;
  CheckReserved(mask.reserved, "mask");
  const size_t groups = (count + granularity - 1) / granularity;
  switch (mask.kind) {
    case RANKFORGE_MASK_THRESHOLD:
      return Threshold(mask, v, count, granularity, storage, arrays);
    case RANKFORGE_MASK_TOP_K:
      return TopK(mask, v, count, granularity, storage, arrays);
    case RANKFORGE_MASK_BITS:
      CheckArray(mask.bits, "mask: bits");
      return MaskFromBits(mask.bits, v, count, granularity, storage, arrays);
    case RANKFORGE_MASK_BYTES:
      CheckArray(mask.bytes, "mask: bytes");
      return MaskFromBytes(mask.bytes, v, count, granularity, storage, arrays);
    case RANKFORGE_MASK_INDEX:
      if (mask.index_count > 0) CheckArray(mask.index, "mask: index");
      Check(CheckMaskIndex({mask.index, mask.index_count}, groups));
      return MaskFromIndex(mask.index, mask.index_count, v, count, granularity,
                           storage, arrays);
    default:
      throw ArgumentError("mask: kind {} is none of RANKFORGE_MASK_*",
                          mask.kind);
  }
}

ThresholdRule ReadRule(const rankforge_mask* rule, std::string_view name) {
  const rankforge_mask read = ReadStruct(rule, name);
  CheckReserved(read.reserved, name);
  if (read.kind != RANKFORGE_MASK_THRESHOLD) {
    throw UnsupportedError("{}: kind is {}, but plans take thresholds alone",
                           name, read.kind);
  }
  if (read.score != nullptr) {
    throw UnsupportedError("{}: has a score, but plans judge what they compute",
                           name);
  }
  CheckScores(read);
  return RuleOf(read);
}

}  // namespace rankforge::capi

using namespace rankforge;        // NOLINT: the entries of the library
using namespace rankforge::capi;  // NOLINT

size_t rankforge_mask_scratch_size(size_t count) {
  return count == 0 || count > kMostChannels ? 0 : MaskBytes(count);
}

rankforge_status rankforge_mask_make(const rankforge_mask* mask,
                                     const float* values, size_t count,
                                     uint32_t granularity, uint64_t* bits,
                                     size_t* kept, void* scratch,
                                     size_t scratch_size) {
  return Guarded([&] {
    const size_t needed = rankforge_mask_scratch_size(count);
    if (needed == 0) throw ArgumentError("count: {} is no count", count);
    if (granularity != 1 && granularity != 8 && granularity != 32) {
      throw ArgumentError("granularity: {} is none of 1, 8, 32", granularity);
    }
    CheckAligned(values, "values");
    CheckArray(bits, "bits");
    CheckScratch(scratch, scratch_size, needed);
    static_cast<void>(Registry::Get());  // before anything dispatches
    ScratchCursor memory(static_cast<std::byte*>(scratch));
    const MaskView view =
        MakeCallMask(mask, values, count, granularity, TakeMask(memory, count),
                     {false, false, false});
    std::copy_n(view.bits, MaskWords(view.groups), bits);
    if (kept != nullptr) *kept = view.kept;
  });
}
