// Reading what callers hand in: structs of older and newer headers, arrays,
// buffers for text.
#ifndef RANKFORGE_CAPI_ARGUMENTS_H_
#define RANKFORGE_CAPI_ARGUMENTS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>
#include <type_traits>

#include "capi/error.h"

namespace rankforge::capi {

// Larger sizes are no size of a struct, but memory that nobody set.
inline constexpr uint32_t kLargestStruct = 4096;

inline uint32_t StructSize(const void* from, std::string_view name) {
  if (from == nullptr) throw ArgumentError("{}: is null", name);
  uint32_t size;
  std::memcpy(&size, from, sizeof(size));
  if (size < sizeof(size) || size > kLargestStruct) {
    throw ArgumentError("{}: struct_size is {}; begin with its _INIT macro",
                        name, size);
  }
  return size;
}

// The struct at `from`: fields that an older header lacks are zero, and those
// that this library does not know must be.
template <class T>
T ReadStruct(const T* from, std::string_view name) {
  static_assert(std::is_trivially_copyable_v<T>);
  const uint32_t size = StructSize(from, name);
  T value{};
  std::memcpy(&value, from, std::min<size_t>(size, sizeof(T)));
  const auto* bytes = reinterpret_cast<const unsigned char*>(from);
  for (size_t i = sizeof(T); i < size; ++i) {
    if (bytes[i] != 0) {
      throw ArgumentError(
          "{}: byte {} belongs to a field that this library (version {}) does "
          "not know; leave it zero or use a later library",
          name, i, rankforge_version_text());
    }
  }
  value.struct_size = sizeof(T);
  return value;
}

// The struct at `from` for the length of a call: in place where it has this
// library's size, so that a run copies nothing.
template <class T>
class StructView {
 public:
  StructView(const T* from, std::string_view name) : at_(from) {
    const bool in_place = StructSize(from, name) == sizeof(T) &&
                          reinterpret_cast<uintptr_t>(from) % alignof(T) == 0;
    if (in_place) return;
    copy_.emplace(ReadStruct(from, name));
    at_ = &*copy_;
  }
  StructView(const StructView&) = delete;
  StructView& operator=(const StructView&) = delete;
  const T& operator*() const { return *at_; }
  const T* operator->() const { return at_; }

 private:
  const T* at_;
  std::optional<T> copy_;
};

// Element i of an array of structs of equal struct_size.
template <class T>
const T* ElementOf(const T* array, size_t i, std::string_view name) {
  const size_t stride = StructSize(array, name);
  const auto* bytes = reinterpret_cast<const std::byte*>(array);
  return reinterpret_cast<const T*>(bytes + i * stride);
}
template <class T>
T ReadElement(const T* array, size_t i, std::string_view name) {
  return ReadStruct(ElementOf(array, i, name), name);
}

inline void CheckReserved(int64_t reserved, std::string_view name,
                          std::string_view field = "reserved") {
  if (reserved != 0) {
    throw ArgumentError("{}: {} is {}; it must be 0", name, field, reserved);
  }
}

template <class T>
void CheckAligned(const T* array, std::string_view name) {
  if (reinterpret_cast<uintptr_t>(array) % alignof(T) != 0) {
    throw ArgumentError("{}: is at {}, which is no multiple of {} bytes", name,
                        static_cast<const void*>(array), alignof(T));
  }
}

template <class T>
void CheckArray(const T* array, std::string_view name) {
  if (array == nullptr) throw ArgumentError("{}: is null", name);
  CheckAligned(array, name);
}

template <class T>
T* Checked(T* output, std::string_view name) {
  if (output == nullptr) throw ArgumentError("{}: is null", name);
  return output;
}

inline void CheckScratch(const void* scratch, size_t size, size_t needed) {
  if (scratch == nullptr) throw ArgumentError("scratch: is null");
  if (reinterpret_cast<uintptr_t>(scratch) % RANKFORGE_SCRATCH_ALIGNMENT != 0) {
    throw ArgumentError("scratch: is at {}, which is no multiple of {} bytes",
                        scratch, RANKFORGE_SCRATCH_ALIGNMENT);
  }
  if (size < needed) {
    throw ArgumentError("scratch: has {} bytes, but {} are needed", size,
                        needed);
  }
}

inline void WriteText(std::string_view from, char* text, size_t capacity,
                      size_t* length) {
  if (capacity > 0) {
    Checked(text, "text");
    const size_t count = std::min(from.size(), capacity - 1);
    std::memcpy(text, from.data(), count);
    text[count] = 0;
  }
  if (length != nullptr) *length = from.size();
}

}  // namespace rankforge::capi

#endif  // RANKFORGE_CAPI_ARGUMENTS_H_
