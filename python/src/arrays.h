// Arrays of NumPy and of everything that speaks DLPack, read and written where
// they lie.
#ifndef RANKFORGE_PYTHON_SRC_ARRAYS_H_
#define RANKFORGE_PYTHON_SRC_ARRAYS_H_

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "python/src/errors.h"

namespace rankforge {

using ReadableArray = nanobind::ndarray<nanobind::ro>;
using WritableArray = nanobind::ndarray<>;

// `object` as an array in the memory of the CPU, without a copy. Messages begin
// with `name`.
ReadableArray ToReadable(nanobind::handle object, const char* name);
WritableArray ToWritable(nanobind::handle object, const char* name);

// "float32", "bfloat16": a type by NumPy's names.
std::string TypeName(nanobind::dlpack::dtype type);
// "(3, 4)"
std::string ShapeText(size_t ndim, const int64_t* shape);
template <class Array>
std::string ShapeOf(const Array& array) {
  return ShapeText(array.ndim(), array.shape_ptr());
}

// Whether the elements of the last dimension follow each other.
template <class Array>
bool IsLineContiguous(const Array& array) {
  const size_t last = array.ndim() - 1;
  return array.size() <= 1 || array.shape(last) == 1 || array.stride(last) == 1;
}

// Rows of floats, of a vector (size,) or a matrix (count, size).
template <class Float>
struct FloatRows {
  Float* data = nullptr;
  size_t count = 1;
  size_t size = 0;
  size_t stride = 0;  // floats between rows
  bool is_matrix = false;
};

// Fails unless the elements are f32 and those of a row follow each other, and
// rows that are written do not overlap.
FloatRows<const float> ReadRows(const ReadableArray& array, const char* name);
FloatRows<float> WriteRows(const WritableArray& array, const char* name);

// A vector of `size` f32 values. `size` of 0: of any size.
std::span<const float> ReadVector(const ReadableArray& array, const char* name,
                                  size_t size);

// A contiguous vector of integers of sizeof(T) bytes, with or without a sign.
template <class T>
std::span<const T> ReadIntegers(const ReadableArray& array, const char* name);

// Fails unless `actual` is `expected`: "mask.score: has 3 values, expected 4
// (one for each of the 4 columns)".
void CheckCount(const char* name, size_t actual, size_t expected,
                const char* what);

// A NumPy array over memory that `owner` keeps alive.
nanobind::object ToNumPy(std::shared_ptr<const void> owner, const float* data,
                         std::span<const size_t> shape);
// A NumPy array of its own memory, whose values are not set.
struct NewArray {
  nanobind::object array;
  float* data;
};
NewArray MakeNumPy(std::span<const size_t> shape);

}  // namespace rankforge

#endif  // RANKFORGE_PYTHON_SRC_ARRAYS_H_
