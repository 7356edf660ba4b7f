// Adapters from what other programs found: matrices and thresholds of a state
// file (docs/import.md), completed by what calibration text says about them.
#ifndef RANKFORGE_ADAPT_IMPORT_H_
#define RANKFORGE_ADAPT_IMPORT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/status.h"
#include "runtime/model/format/adapter.h"
#include "runtime/model/format/checkpoint.h"

namespace rankforge {

struct ImportOptions {
  size_t window = 256;
  size_t tokens = 8192;  // of calibration
  size_t threads = 1;
  uint64_t seed = 0;
  std::string bos = "";  // of the text of the ids, recorded; empty: unknown
  std::function<void(size_t done, size_t total)> progress = {};  // windows
};

// The adapter that the safetensors file `path` describes for `checkpoint`.
// Tensors, in F32, F16 or BF16 (thresholds and norms in F32):
//   <module>.rank.A (rows, d), .rank.B (d, cols), .rank.t (1): rank i takes
//     part iff (B x)_i^2 >= t (RaNA's reference implementation);
//   <module>.gate.t (1), module gate and up of an MLP: neuron j takes part iff
//     |act(gate_j)| >= t (CATS);
//   <module>.mask.t (1), and maybe .mask.norms (cols): input j takes part iff
//     |x_j| * norms_j >= t, norms 1 where there are none.
// Densities, errors and linear_flops_ratio are measured on windows of `ids`; a
// state says nothing of them. Errors: a tensor that is missing, of another
// shape, not finite or of no module of this model; fewer ids than a window.
Result<Adapter> ImportAdapter(const Checkpoint& checkpoint,
                              const std::string& path, std::span<const int> ids,
                              const ImportOptions& options);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_IMPORT_H_
