#include "python/src/arrays.h"

#include <fmt/format.h>
#include <nanobind/stl/string.h>

#include <cstdlib>
#include <new>
#include <utility>

namespace rankforge {

namespace nb = nanobind;

namespace {

constexpr size_t kAlignment = 64;

constexpr nb::dlpack::dtype kF32 = nb::dtype<float>();

std::string KindOfObject(nb::handle object) {
  return nb::cast<std::string>(object.type().attr("__name__"));
}

// Fails unless the array lies in the memory of the CPU.
template <class Array>
void CheckDevice(const Array& array, const char* name) {
  if (array.device_type() != nb::device::cpu::value) {
    throw BadArgument(
        fmt::format("{}: lies on a device of DLPack type {}, expected the CPU",
                    name, array.device_type()));
  }
}

template <class Array>
void CheckF32(const Array& array, const char* name) {
  if (array.dtype() != kF32) {
    throw BadArgument(fmt::format("{}: dtype {}, expected float32", name,
                                  TypeName(array.dtype())));
  }
}

template <class Float, class Array>
FloatRows<Float> RowsOf(const Array& array, const char* name) {
  CheckF32(array, name);
  if (array.ndim() != 1 && array.ndim() != 2) {
    throw BadArgument(fmt::format(
        "{}: shape {}, expected one or two dimensions", name, ShapeOf(array)));
  }
  if (!IsLineContiguous(array)) {
    throw BadArgument(fmt::format(
        "{}: values of a row are {} apart, expected contiguous rows", name,
        array.stride(array.ndim() - 1)));
  }
  FloatRows<Float> rows;
  rows.data = static_cast<Float*>(array.data());
  rows.is_matrix = array.ndim() == 2;
  rows.size = array.shape(array.ndim() - 1);
  rows.stride = rows.size;
  if (!rows.is_matrix) return rows;
  rows.count = array.shape(0);
  if (rows.count <= 1) return rows;
  // Rows of the input may not lie backwards or on each other, either: the C ABI
  // counts strides from 1.
  if (array.stride(0) < 0 || static_cast<size_t>(array.stride(0)) < rows.size) {
    throw BadArgument(fmt::format(
        "{}: rows are {} values apart, expected at least the {} of a row", name,
        array.stride(0), rows.size));
  }
  rows.stride = static_cast<size_t>(array.stride(0));
  return rows;
}

}  // namespace

ReadableArray ToReadable(nb::handle object, const char* name) {
  ReadableArray array;
  if (!nb::try_cast(object, array, /*convert=*/false)) {
    throw BadArgument(
        fmt::format("{}: is a {}, expected an array of NumPy or one that "
                    "speaks DLPack",
                    name, KindOfObject(object)));
  }
  CheckDevice(array, name);
  return array;
}

WritableArray ToWritable(nb::handle object, const char* name) {
  WritableArray array;
  if (!nb::try_cast(object, array, /*convert=*/false)) {
    // Throws where it is no array at all.
    static_cast<void>(ToReadable(object, name));
    throw BadArgument(fmt::format("{}: is read-only", name));
  }
  CheckDevice(array, name);
  return array;
}

std::string TypeName(nb::dlpack::dtype type) {
  using Code = nb::dlpack::dtype_code;
  const char* kind = "type ";
  switch (static_cast<Code>(type.code)) {
    case Code::Bool:
      return "bool";
    case Code::Int:
      kind = "int";
      break;
    case Code::UInt:
      kind = "uint";
      break;
    case Code::Float:
      kind = "float";
      break;
    case Code::Bfloat:
      kind = "bfloat";
      break;
    case Code::Complex:
      kind = "complex";
      break;
    default:
      return fmt::format("{} of DLPack with {} bits", type.code, type.bits);
  }
  return fmt::format("{}{}", kind, type.bits);
}

std::string ShapeText(size_t ndim, const int64_t* shape) {
  std::string text = "(";
  for (size_t i = 0; i < ndim; ++i) {
    text += fmt::format("{}{}", i == 0 ? "" : ", ", shape[i]);
  }
  return text + (ndim == 1 ? ",)" : ")");
}

FloatRows<const float> ReadRows(const ReadableArray& array, const char* name) {
  return RowsOf<const float>(array, name);
}

FloatRows<float> WriteRows(const WritableArray& array, const char* name) {
  return RowsOf<float>(array, name);
}

std::span<const float> ReadVector(const ReadableArray& array, const char* name,
                                  size_t size) {
  const FloatRows<const float> rows = ReadRows(array, name);
  if (rows.is_matrix || (size > 0 && rows.size != size)) {
    throw BadArgument(
        fmt::format("{}: shape {}, expected {}", name, ShapeOf(array),
                    size > 0 ? fmt::format("({},)", size) : "one dimension"));
  }
  return {rows.data, rows.size};
}

template <class T>
std::span<const T> ReadIntegers(const ReadableArray& array, const char* name) {
  using Code = nb::dlpack::dtype_code;
  const nb::dlpack::dtype type = array.dtype();
  const auto code = static_cast<Code>(type.code);
  const bool is_integer = code == Code::Int || code == Code::UInt ||
                          (code == Code::Bool && sizeof(T) == 1);
  if (!is_integer || type.bits != 8 * sizeof(T) || type.lanes != 1) {
    throw BadArgument(fmt::format("{}: dtype {}, expected uint{}", name,
                                  TypeName(type), 8 * sizeof(T)));
  }
  if (array.ndim() != 1 || !IsLineContiguous(array)) {
    throw BadArgument(fmt::format("{}: shape {}, expected a contiguous vector",
                                  name, ShapeOf(array)));
  }
  return {static_cast<const T*>(array.data()), array.shape(0)};
}

template std::span<const uint8_t> ReadIntegers(const ReadableArray&,
                                               const char*);
template std::span<const uint32_t> ReadIntegers(const ReadableArray&,
                                                const char*);
template std::span<const uint64_t> ReadIntegers(const ReadableArray&,
                                                const char*);

void CheckCount(const char* name, size_t actual, size_t expected,
                const char* what) {
  if (actual == expected) return;
  throw BadArgument(fmt::format("{}: has {} values, expected {} ({})", name,
                                actual, expected, what));
}

nb::object ToNumPy(std::shared_ptr<const void> owner, const float* data,
                   std::span<const size_t> shape) {
  auto held = std::make_unique<std::shared_ptr<const void>>(std::move(owner));
  const nb::capsule capsule(held.get(), [](void* pointer) noexcept {
    delete static_cast<std::shared_ptr<const void>*>(pointer);
  });
  static_cast<void>(held.release());
  return nb::cast(nb::ndarray<nb::numpy, const float>(data, shape.size(),
                                                      shape.data(), capsule));
}

NewArray MakeNumPy(std::span<const size_t> shape) {
  size_t size = 1;
  for (const size_t extent : shape) size *= extent;
  auto* data = static_cast<float*>(
      ::operator new(size * sizeof(float), std::align_val_t(kAlignment)));
  const nb::capsule capsule(data, [](void* pointer) noexcept {
    ::operator delete(pointer, std::align_val_t(kAlignment));
  });
  return {nb::cast(nb::ndarray<nb::numpy, float>(data, shape.size(),
                                                 shape.data(), capsule)),
          data};
}

}  // namespace rankforge
