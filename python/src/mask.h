// Masks as Python objects: what rankforge_mask says, with the arrays that it
// points to.
#ifndef RANKFORGE_PYTHON_SRC_MASK_H_
#define RANKFORGE_PYTHON_SRC_MASK_H_

#include <nanobind/nanobind.h>

#include <cstddef>
#include <vector>

#include "include/rankforge/rankforge.h"
#include "python/src/arrays.h"

namespace rankforge {

// Arrays are read in each run, so that whoever changes them changes the mask.
class BoundMask {
 public:
  static BoundMask Threshold(nanobind::handle tau, nanobind::handle score,
                             nanobind::handle mu, bool strict, bool is_signed);
  static BoundMask TopK(size_t k, nanobind::handle score, nanobind::handle mu,
                        bool is_signed);
  static BoundMask Bits(nanobind::handle bits);
  static BoundMask Bytes(nanobind::handle bytes);
  static BoundMask Indices(nanobind::handle indices);

  const rankforge_mask& mask() const { return mask_; }
  // Fails unless the arrays have the sizes of `count` channels.
  void CheckFits(size_t count, size_t granularity) const;

 private:
  explicit BoundMask(int32_t kind) { mask_.kind = kind; }
  const float* Floats(nanobind::handle array, const char* name, size_t& size);

  rankforge_mask mask_ RANKFORGE_MASK_INIT;
  std::vector<ReadableArray> arrays_;
  // 0: there is no such array.
  size_t score_size_ = 0;
  size_t mu_size_ = 0;
  size_t taus_size_ = 0;
  size_t entries_ = 0;  // of bits, in words, or of bytes
};

void BindMasks(nanobind::module_& module);

}  // namespace rankforge

#endif  // RANKFORGE_PYTHON_SRC_MASK_H_
