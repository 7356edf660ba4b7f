#include "runtime/plan/source_weight.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/numbers/bfloat16.h"
#include "kernels/numbers/float16.h"

namespace rankforge {
namespace {

// Element i of an array that may be unaligned.
template <class T>
T LoadElement(const std::byte* data, size_t i) {
  T value;
  std::memcpy(&value, data + i * sizeof(T), sizeof(T));
  return value;
}

// Weights [begin, begin + count) of a line of blocks.
void WidenBlocks(const GgmlFormat& format, const std::byte* line, size_t begin,
                 size_t count, float* out) {
  for (const size_t end = begin + count; begin < end;) {
    const size_t skipped = begin % format.weights;
    const size_t taken = std::min(format.weights - skipped, end - begin);
    const std::byte* block = line + begin / format.weights * format.bytes;
    if (taken == format.weights) {
      format.widen(block, out);
    } else {
      float widened[kMaxGgmlWeights];
      format.widen(block, widened);
      std::copy_n(widened + skipped, taken, out);
    }
    begin += taken;
    out += taken;
  }
}

}  // namespace

void WidenLine(const SourceMatrix& source, size_t line, size_t begin,
               size_t count, float* out) {
  const std::byte* data = SourceLine(source, line);
  // The types of single weights have loops without calls.
  switch (source.type) {
    case GgmlType::kF32:
      std::memcpy(out, data + begin * sizeof(float), count * sizeof(float));
      break;
    case GgmlType::kF16:
      for (size_t i = 0; i < count; ++i) {
        out[i] = FromF16(LoadElement<uint16_t>(data, begin + i));
      }
      break;
    case GgmlType::kBf16:
      for (size_t i = 0; i < count; ++i) {
        out[i] = FromBf16(LoadElement<uint16_t>(data, begin + i));
      }
      break;
    default:
      WidenBlocks(FormatOf(source.type), data, begin, count, out);
  }
  if (source.added == 0) return;
  for (size_t i = 0; i < count; ++i) out[i] += source.added;
}

}  // namespace rankforge
