// Adapter files as data that the model can bind: one safetensors file with one
// JSON string of metadata and, under the names of the checkpoint's own modules,
// these tensors, all f32:
//   <module>.rank.A (d, rows), .rank.B (d, cols), .rank.tau (d,)
//   <module>.mask.tau (cols,), <module>.gate.tau (neurons,)
//   <module>.mask.gain (cols,), .mask.bias (rows,), where they were learned
//   <module>.{rank,mask,gate}.keep_frequency, shaped like tau, where recorded
//   rotation.<first block>.Q (hidden, hidden), of each rotated group of blocks
//   router.<block>.weight (hidden,), of each block that a prompt may leave out
// Of the metadata, 'layer_skip' may lack; docs/first.md has its fields.
// The last tensor, rankforge.file_hash (U8), is a hash of all before it.
#ifndef RANKFORGE_RUNTIME_MODEL_FORMAT_ADAPTER_H_
#define RANKFORGE_RUNTIME_MODEL_FORMAT_ADAPTER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/model/format/checkpoint.h"

namespace rankforge {

// y = A ((|z| >= tau) * z), z = B x, in place of the weights that `module`
// stands for: "model.layers.3.self_attn.qkv", "model.layers.3.mlp.up_proj", ...
struct RankAdapter {
  std::string module;
  size_t rows = 0;         // out features
  size_t cols = 0;         // in features
  size_t d = 0;            // inner dimension
  std::vector<float> a;    // (d, rows), rank-major
  std::vector<float> b;    // (d, cols)
  std::vector<float> tau;  // (d,)
  // Recorded by calibration.
  std::vector<float> keep_frequency;  // (d,) share of tokens that keep a rank
  double density = 0;                 // mean kept / d
  std::map<std::string, double> density_quantiles;  // "0.05", "0.5", "0.95"
  double error = 0;  // 1 - coverage: pooled relative squared output error
};

// y = W (gain * m * x) + bias, beside a bias that the projection has anyway.
// x_j takes part iff |x_j| >= tau_j. The norms of columns are part of tau.
struct InputMask {
  std::string module;  // "model.layers.3.mlp.down_proj"
  size_t cols = 0;
  std::vector<float> tau;  // (cols,)
  // Learned together to make up for what the mask drops. Both empty: 1 and 0.
  std::vector<float> gain = {};       // (cols,)
  std::vector<float> bias = {};       // (rows,)
  std::vector<float> keep_frequency;  // (cols,)
  double density = 0;
  std::map<std::string, double> density_quantiles;
  double error = 0;  // without gain and bias
};

// Neuron j of a gated MLP (row j of up, column j of down) takes part iff
// |act(gate_j)| >= tau_j. `cols` is the number of neurons. `module` stands for
// gate and up: "model.layers.3.mlp.gate_up". It has no gain and bias. CATS
// (arXiv 2404.08763).
using GateMask = InputMask;

// The largest element of |Q^T Q s - s|, for vectors s of signs, at which Q
// counts as orthogonal. Rounding an orthogonal matrix of 4096 columns to f32
// gives 1e-6.
inline constexpr double kOrthogonalWithin = 1e-4;

// Blocks that hold the residual stream h (hidden,) as Q^T h, Q orthogonal. What
// reads and writes it changes with it, so that they compute the same
// (runtime/model/weights/folded_weights.h). Input masks and B of what reads
// the stream there read Q^T h / rms(h): norms are part of the weights.
struct RotationGroup {
  size_t first_block = 0;  // the last is before that of the next group
  bool rotated = false;    // else the blocks hold h
  std::vector<float> q;    // (hidden, hidden), of a rotated group
};

// The groups, which begin at block 0 and ascend. Empty: nothing is rotated.
struct Rotation {
  size_t hidden = 0;
  std::vector<RotationGroup> groups;

  bool empty() const { return groups.empty(); }
  // The rotated group that a block is in; null: it holds h.
  const RotationGroup* Of(size_t block) const;
  // The one in whose basis a block finds the stream, before it turns it; null:
  // it finds h.
  const RotationGroup* OfStream(size_t block) const;
};

// Which layers a sequence does without once its prompt has run (docs/first.md):
// those whose rho is below `threshold`, or always the same.
//
//   rho = mean over the prompt's tokens of sigmoid(w . h)
//
// h (hidden,) is the residual stream that the block reads, and w its router.
// Where blocks are rotated, w still is of h, not of Q^T h. Blocks without a
// router always run.
struct LayerSkip {
  double threshold = 0.5;
  std::map<size_t, std::vector<float>> routers;  // by block, (hidden,) each
  std::vector<size_t> layers;  // ascending; only where there are no routers

  bool empty() const { return routers.empty() && layers.empty(); }
};

// What is wrong with `skip` for a model of so many layers and hidden values;
// empty: nothing.
std::string WhyNotSkip(const LayerSkip& skip, size_t layers, size_t hidden);

struct Adapter {
  std::string method;             // "rana-paper", ...
  double keep = 1;                // what was asked for
  double linear_flops_ratio = 1;  // what calibration measured
  std::string identity;           // SampledHash of its file; empty: none
  std::string checkpoint_hash;    // Checkpoint::Identity()
  std::string checkpoint_full_hash;
  std::string calibration_hash;
  size_t calibration_tokens = 0;
  std::map<std::string, std::string> parameters;  // of the method
  // By module: why it stays dense.
  std::map<std::string, std::string> left_dense;
  std::map<std::string, RankAdapter> ranks;  // by module
  std::map<std::string, InputMask> masks;    // by module
  std::map<std::string, GateMask> gates;     // by module
  Rotation rotation;
  LayerSkip skip;
};

// What is read of an adapter. Without its matrices (A, B and Q, nearly all of
// its bytes) it needs a source of weights that has them packed. A Q that
// routers read in is always read.
enum class AdapterParts : uint8_t { kAll, kWithoutMatrices };

// `checkpoint_hash` is the identity of the checkpoint that the adapter is to
// run on. An adapter made for another checkpoint is an error that says so, and
// so are a file whose bytes have changed since it was written, and a Q that is
// not orthogonal.
Result<Adapter> LoadAdapter(const std::string& path,
                            const std::string& checkpoint_hash,
                            AdapterParts parts = AdapterParts::kAll);
// The same where the whole checkpoint is at hand: a weight that the identity
// does not sample is found by the full hash.
Result<Adapter> LoadAdapterOf(const Checkpoint& checkpoint,
                              const std::string& path, AdapterParts parts);
// Writes to a temporary file and renames it.
Status SaveAdapter(const Adapter& adapter, const std::string& path);

// The same for an adapter whose A and B are elsewhere: `matrices` returns the
// bytes of the F32 tensor of this name and shape. They must stay valid until
// its next call.
using AdapterMatrices = std::function<Result<std::span<const std::byte>>(
    const RankAdapter& rank, const std::string& tensor,
    std::span<const size_t> shape)>;
Status SaveAdapter(const Adapter& adapter, const std::string& path,
                   const AdapterMatrices& matrices);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORMAT_ADAPTER_H_
