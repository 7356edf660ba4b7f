// Single weights of a packed block (meta/packing.h), without their scale and
// minimum.
#ifndef RANKFORGE_KERNELS_NUMBERS_STORED_WEIGHT_H_
#define RANKFORGE_KERNELS_NUMBERS_STORED_WEIGHT_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/numbers/bfloat16.h"
#include "kernels/numbers/float16.h"
#include "meta/packing.h"

namespace rankforge {

namespace internal {

template <class T>
T LoadStored(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <class T>
void Store(T value, std::byte* to) {
  std::memcpy(to, &value, sizeof(value));
}

}  // namespace internal

// Element i of the block.
template <WeightType type>
float StoredWeight(const std::byte* block, size_t i) {
  if constexpr (type == WeightType::kF32) {
    return internal::LoadStored<float>(block + i * 4);
  } else if constexpr (type == WeightType::kBf16) {
    return FromBf16(
        internal::LoadStored<uint16_t>(block + SplitPosition(i) * 2));
  } else if constexpr (type == WeightType::kF16) {
    return FromF16(internal::LoadStored<uint16_t>(block + i * 2));
  } else if constexpr (FormatOf(type).bits == 8) {
    return internal::LoadStored<int8_t>(block + i);
  } else {
    const NibblePosition at = NibblePositionOf(i);
    const int byte = internal::LoadStored<uint8_t>(block + at.byte);
    return static_cast<float>((at.high ? byte >> 4 : byte & 15) -
                              NibbleZero(type));
  }
}

// Stores element i: rounded to nearest even; for integer types `value` is one
// of theirs.
template <WeightType type>
void StoreWeight(float value, std::byte* block, size_t i) {
  if constexpr (type == WeightType::kF32) {
    internal::Store(value, block + i * 4);
  } else if constexpr (type == WeightType::kBf16) {
    internal::Store(ToBf16(value), block + SplitPosition(i) * 2);
  } else if constexpr (type == WeightType::kF16) {
    internal::Store(ToF16(value), block + i * 2);
  } else if constexpr (FormatOf(type).bits == 8) {
    internal::Store(static_cast<int8_t>(value), block + i);
  } else {
    const NibblePosition at = NibblePositionOf(i);
    const auto nibble =
        static_cast<uint8_t>(static_cast<int>(value) + NibbleZero(type));
    const auto byte = internal::LoadStored<uint8_t>(block + at.byte);
    internal::Store(static_cast<uint8_t>(at.high ? (byte & 15) | nibble << 4
                                                 : (byte & 0xf0) | nibble),
                    block + at.byte);
  }
}

// One float, or one integer of 8 bits, with no order of a block around it.
template <WeightType type>
float StoredElement(const std::byte* from) {
  if constexpr (type == WeightType::kBf16) {
    return FromBf16(internal::LoadStored<uint16_t>(from));
  } else {
    return StoredWeight<type>(from, 0);
  }
}
// Stores it as StoreWeight does.
template <WeightType type>
void StoreElement(float value, std::byte* to) {
  if constexpr (type == WeightType::kBf16) {
    internal::Store(ToBf16(value), to);
  } else {
    StoreWeight<type>(value, to, 0);
  }
}

// Integers of interleaved rows: the byte, and whether its high half.
template <WeightType type>
float InterleavedWeight(const std::byte* from, bool high) {
  if constexpr (kNibbles<type>) {
    const int byte = internal::LoadStored<uint8_t>(from);
    return static_cast<float>((high ? byte >> 4 : byte & 15) -
                              NibbleZero(type));
  } else {
    return internal::LoadStored<int8_t>(from);
  }
}

template <WeightType type>
void StoreInterleaved(float value, std::byte* to, bool high) {
  if constexpr (kNibbles<type>) {
    const auto nibble =
        static_cast<uint8_t>(static_cast<int>(value) + NibbleZero(type));
    const auto byte = internal::LoadStored<uint8_t>(to);
    internal::Store(static_cast<uint8_t>(high ? (byte & 15) | nibble << 4
                                              : (byte & 0xf0) | nibble),
                    to);
  } else {
    internal::Store(static_cast<int8_t>(value), to);
  }
}

// The weight at a position of PackedPositionOf in `layout`; the first weight of
// the matrix is at `w`.
template <WeightType type>
float WeightIn(Layout layout, const std::byte* w, const PackedPosition& at) {
  if constexpr (IsQuantized(type)) {
    if (layout == Layout::kRows16) {
      return InterleavedWeight<type>(w + at.block, at.in_block != 0);
    }
  }
  return StoredWeight<type>(w + at.block, at.in_block);
}

}  // namespace rankforge

#endif  // RANKFORGE_KERNELS_NUMBERS_STORED_WEIGHT_H_
