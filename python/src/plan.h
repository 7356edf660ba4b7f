// Plans as Python objects, which are called like functions.
#ifndef RANKFORGE_PYTHON_SRC_PLAN_H_
#define RANKFORGE_PYTHON_SRC_PLAN_H_

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "include/rankforge/rankforge.h"
#include "python/src/library.h"
#include "python/src/mask.h"

namespace rankforge {

// Memory for runs at the same time, each of which has one block of its own.
class ScratchBlocks {
 public:
  explicit ScratchBlocks(size_t size) : size_(size) {}
  ~ScratchBlocks();
  ScratchBlocks(const ScratchBlocks&) = delete;
  ScratchBlocks& operator=(const ScratchBlocks&) = delete;

  void* Take();
  void Return(void* block);
  size_t size() const { return size_; }

 private:
  size_t size_;
  std::mutex mutex_;
  std::vector<void*> free_;
  size_t made_ = 0;
};

class BoundPlan {
 public:
  // `channels`: what a mask of a run covers; 0: runs take no mask.
  BoundPlan(rankforge_plan* plan, size_t channels, size_t granularity);

  // What Plan.__call__ does; see its docstring.
  nanobind::object Run(nanobind::handle x, nanobind::handle mask,
                       nanobind::handle out, nanobind::handle bias,
                       bool accumulate, nanobind::handle kept);
  // The same by addresses: x (tokens, cols) and y (tokens, rows), contiguous
  // f32; `bias` (rows,) may be 0. Splits `tokens` into runs.
  void RunAt(uintptr_t x, uintptr_t y, size_t tokens, nanobind::handle mask,
             uintptr_t bias);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  uint32_t tokens() const { return tokens_; }
  std::string Explain() const;
  // Keeps an object alive as long as the plan: weights that were adopted.
  void Keep(nanobind::object object) {
    kept_alive_.push_back(std::move(object));
  }

 private:
  struct Output {
    nanobind::object result;  // what the caller gets
    WritableArray array;      // keeps the memory of an array of the caller's
    float* data;
    size_t stride;
  };
  // `out`, or a new array for the outputs of `input`.
  Output OutputFor(nanobind::handle out,
                   const FloatRows<const float>& input) const;
  void CheckInput(const FloatRows<const float>& x,
                  const ReadableArray& array) const;
  // Sets the masks of `args`; `masks` has room for those of several tokens.
  void SetMasks(nanobind::handle mask, size_t tokens, rankforge_run_args& args,
                std::vector<rankforge_mask>& masks) const;
  void RunWithScratch(const rankforge_run_args& args);

  OwnedHandle<rankforge_plan, &rankforge_plan_destroy> handle_;
  size_t channels_;
  size_t granularity_;
  size_t rows_ = 0;
  size_t cols_ = 0;
  uint32_t tokens_ = 1;
  std::unique_ptr<ScratchBlocks> scratch_;
  std::vector<nanobind::object> kept_alive_;
};

void BindPlans(nanobind::module_& module);

}  // namespace rankforge

#endif  // RANKFORGE_PYTHON_SRC_PLAN_H_
