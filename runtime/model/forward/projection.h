// The weight products of the forward pass: dense, thresholded on their input,
// or through rank adapters; one token by plans, the tokens of a prompt by a
// library GEMM over widened tiles of the same packed weights, and up to
// kMostTokens tokens that are decoded together with the bits of one each.
#ifndef RANKFORGE_RUNTIME_MODEL_FORWARD_PROJECTION_H_
#define RANKFORGE_RUNTIME_MODEL_FORWARD_PROJECTION_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/layer/activation.h"
#include "runtime/model/format/weight_source.h"
#include "runtime/model/forward/forward_counters.h"
#include "runtime/model/weights/modules.h"
#include "runtime/plan/gated_mlp.h"
#include "runtime/plan/packed_matrix.h"
#include "runtime/plan/plan.h"
#include "runtime/plan/rank_stages.h"
#include "runtime/table/dispatch.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// Everything that building a product needs to know. Several threads may build
// with one factory.
struct ProductFactory {
  const WeightSource& source;
  const Dispatcher& dispatcher;
  size_t threads;
  double tau_scale;
  const StoredTypes* stored_types;         // ModelOptions; null: none
  std::optional<Activations> activations;  // ModelOptions
  std::mutex mutex;  // guards the dispatcher, which counts its answers
};

// A projection has at most one direct product and one B beside each other.
inline constexpr size_t kMaxFirstCalls = 2;

// Memory of up to kMostTokens tokens that are decoded together.
struct BatchScratch {
  BatchScratch(size_t input_size, size_t mask_size);

  std::vector<InputScratch> inputs;  // one a token
  std::vector<MaskScratch> masks;    // one a token
  std::array<SumsScratch, kMostTokens> sums;
  std::array<MaskView, kMostTokens> views;
  UnionScratch joined;
};

// Scratch of all products of a model; projections run one after another.
struct ProductScratch {
  // Room for inputs and masks of up to `input_size` and `mask_size` values and
  // z of up to `z_size` per token, so that decode allocates nothing.
  ProductScratch(size_t threads, size_t input_size, size_t mask_size,
                 size_t z_size);

  // Takes its memory when several tokens are first decoded together.
  BatchScratch& ForBatch();

  std::vector<MaskScratch> masks;    // one a worker
  RankScratch ranks;                 // decode
  std::vector<InputScratch> inputs;  // one a call that runs beside others
  // Decode: one a first call, one a branch of rank adapters, and that of down.
  std::array<SumsScratch, kMaxFirstCalls> first_sums;
  std::array<SumsScratch, kMaxRankBranches> rank_sums;
  SumsScratch down_sums;
  std::vector<SumsScratch> worker_sums;  // prefill: one a worker
  GatedMlpScratch mlp;                   // decode
  std::vector<float> z;                  // (tokens, z_size)
  std::vector<float> masked;             // (tokens, cols), dropped values zero
  // Their masks: (tokens, MaskWords(cols)) bits.
  std::vector<uint64_t> kept;
  std::vector<float> rounded;             // (tokens, cols), inputs of a product
  std::vector<std::vector<float>> tiles;  // one a worker: kTileRows rows
  std::optional<BatchScratch> batch;
  size_t input_size;
  size_t mask_size;
};

// Rows (tokens) of inputs, `pitch` elements apart.
struct InputRows {
  const float* data = nullptr;
  size_t pitch = 0;
};

// One packed matrix with its plan and its work counter.
class WeightProduct {
 public:
  static Result<WeightProduct> Create(const ProductSpec& spec, WeightType type,
                                      ProductFactory& factory);

  // y (rows,) at output + output_offset(), ready to run; counts as one token.
  GemvCall Dense(const float* x, float* output, InputScratch& scratch);
  GemvCall ColumnMask(const MaskView& mask, float* output, SumsScratch& sums);
  // The same for what a rank adapter keeps of `z`; Count follows.
  RankBranch Branch(const float* z, const ThresholdRule& rule, float* output,
                    SumsScratch& sums) const;
  const GemvPlan& plan() const { return plan_; }
  const MaskArrays& mask_arrays() const { return plan_.mask_arrays(); }

  // Products of several tokens that are decoded together, each with the bits
  // of Dense, of ColumnMask or of a row mask alone: y_t (rows,) at output + t *
  // pitch + output_offset(). Weights are read once where their layout has
  // kernels for several tokens, else once per token.
  void DenseOfEach(const InputRows& x, size_t tokens, float* output,
                   size_t pitch, Executor& executor, BatchScratch& scratch);
  // The masks, one a token, have at least the arrays of mask_arrays_of_each().
  void MaskedOfEach(std::span<const MaskView> masks, const InputRows& x,
                    float* output, size_t pitch, Executor& executor,
                    BatchScratch& scratch);
  MaskArrays mask_arrays_of_each() const {
    return several_ ? MaskArrays{false, false, false} : mask_arrays();
  }
  // Its part of what the projection writes.
  GemvOutput Output(float* output) const {
    return {.y = output + output_offset_,
            .bias = bias_.empty() ? nullptr : bias_.data()};
  }
  // The same for a call of a column mask.
  GemvOutput Output(float* output, SumsScratch& sums) const {
    GemvOutput own = Output(output);
    own.partial = sums.For(plan_);
    return own;
  }
  // One token that read so many columns, or rows of a row mask.
  void Count(size_t kept) { runs_read_ += kept; }
  // y (tokens, rows) = x (tokens, cols) @ w^T + bias, rows of y `pitch` apart.
  // `runs_read` is what decode would have read of the columns (of the rows, for
  // a row mask), over all tokens. scratch.kept are the masks of a column mask,
  // whose input is zero elsewhere.
  //
  // Inputs are rounded as decode rounds them. Where decode rounds x, the
  // products of the rounded values are the library's. A column mask rounds
  // factors of columns that a token keeps, of which no library knows: each
  // token runs decode's kernels, tile by tile of the weights.
  void Multiply(const InputRows& x, size_t tokens, uint64_t runs_read,
                float* output, size_t pitch, Executor& executor,
                ProductScratch& scratch);

  size_t rows() const { return weights_->rows(); }
  size_t cols() const { return weights_->cols(); }
  double useful_bytes() const { return weights_->useful_bytes(); }
  const QuantizationError& quantization_error() const {
    return weights_->quantization_error();
  }
  size_t input_offset() const { return input_offset_; }

  // Since ResetCounter.
  double macs() const;
  double bytes_read() const;
  void ResetCounter() { runs_read_ = 0; }

 private:
  void MultiplyTiles(const InputRows& x, size_t tokens, float* output,
                     size_t pitch, Executor& executor,
                     ProductScratch& scratch) const;
  void MultiplyKeptColumns(const InputRows& x, size_t tokens, float* output,
                           size_t pitch, Executor& executor,
                           ProductScratch& scratch) const;

  // Runs call_of(token) for each token, part by part of the weights.
  template <class CallOf>
  void RunEach(size_t tokens, Executor& executor, CallOf call_of) const;

  std::unique_ptr<PackedMatrix> weights_;  // the plans keep its address
  GemvPlan plan_;
  std::optional<GemvPlan> several_;
  std::vector<float> bias_;  // (rows,) or none
  size_t input_offset_ = 0;
  size_t output_offset_ = 0;
  uint64_t runs_read_ = 0;  // columns, or rows, summed over tokens
};

// Of a mask: (cols,), the adapter's times `tau_scale`; 0 where it has none yet.
std::vector<float> ThresholdsOf(const MaskSpec& spec, double tau_scale);

// Keeps v_j iff |v_j| >= tau_j.
class ThresholdMask {
 public:
  ThresholdMask(const MaskSpec& spec, double tau_scale);

  ThresholdRule rule() const { return {.tau = tau_.data()}; }
  // Of one token's values (cols,); counts it.
  MaskView Make(const float* values, const MaskArrays& arrays,
                const MaskStorage& storage);
  // Of each of `tokens` tokens that are decoded together, in scratch.masks;
  // counts them.
  std::span<const MaskView> MakeEach(const InputRows& values, size_t tokens,
                                     const MaskArrays& arrays,
                                     Executor& executor, BatchScratch& scratch);
  // One token that kept so many values.
  void Count(size_t kept);
  // Copies x (tokens, cols) to `masked` (tokens, cols) with dropped values
  // zero; counts and returns how many were kept.
  uint64_t Zero(const InputRows& x, size_t tokens, float* masked,
                Executor& executor, ProductScratch& scratch);
  // Makes every threshold the quantile at which x (tokens, cols) is kept with
  // the density that the adapter states.
  void Fit(const InputRows& x, size_t tokens);

  size_t offset() const { return offset_; }
  size_t cols() const { return tau_.size(); }
  void AddTo(ForwardCounters& counters) const;
  void ResetCounter();

 private:
  std::string module_;
  size_t offset_;
  double density_;
  std::vector<float> tau_;
  std::vector<uint64_t> tokens_by_kept_;  // (cols + 1,)
};

// Time spent in a step of a projection while decoding.
struct StageClock {
  using Time = std::chrono::steady_clock::time_point;

  std::string name;  // none: the projection has no such step
  double seconds = 0;

  void Add(Time begin, Time end) {
    seconds += std::chrono::duration<double>(end - begin).count();
  }
  // Runs and times work().
  template <class Work>
  void Run(Work work) {
    const Time begin = std::chrono::steady_clock::now();
    work();
    Add(begin, std::chrono::steady_clock::now());
  }
};

class Projection;

// y = down(act(gate) * up) for one token, as one call that does not store
// act(gate) * up. gate_up writes gate and up to `gate`, one after the other (an
// MLP without gate: up alone); down masks its input. The result equals that of
// both projections with Activate between them, bit for bit.
void DecodeGatedMlp(Projection& gate_up, Projection& down,
                    Activation activation, const float* x, float* gate,
                    float* y, Executor& executor, ProductScratch& scratch);

// y = down(m * act(gate) * up) for one token, as one call, where the gate
// decides (gate_up.GateDecides()): rows of up that the mask drops are not
// computed. `gate` as above.
void DecodeGateFirstMlp(Projection& gate_up, Projection& down,
                        Activation activation, const float* x, float* gate,
                        float* y, Executor& executor, ProductScratch& scratch);

// The same for up to kMostTokens tokens that are decoded together: x (tokens,
// gate_up's cols), gate_up_values (tokens, gate and up), y (tokens, down's
// rows).
void DecodeGateFirstMlps(Projection& gate_up, Projection& down,
                         Activation activation, const float* x, size_t tokens,
                         float* gate_up_values, float* y, Executor& executor,
                         ProductScratch& scratch);

// The first half of that for `tokens` tokens of a prompt: `hidden` (tokens,
// down's cols) = m * act(gate) * up, with all of up computed; `gate_up_values`
// (tokens, gate and up) is scratch. `fit` fits the thresholds first. Returns
// how many values take part, over all tokens. Projection::RunKept is the second
// half.
struct GateFirstRun {
  const float* x = nullptr;
  size_t tokens = 1;
  Activation activation = Activation::kSilu;
  bool fit = false;
  float* gate_up_values = nullptr;
  float* hidden = nullptr;
};
uint64_t RunGateFirstHidden(Projection& gate_up, const GateFirstRun& run,
                            Executor& executor, ProductScratch& scratch);

// See ProjectionSpec for the two steps.
class Projection {
 public:
  static Result<Projection> Create(const ProjectionSpec& spec, WeightType type,
                                   ProductFactory& factory);

  // y (tokens, rows) from x (tokens, cols).
  void Run(const float* x, size_t tokens, float* y, Executor& executor,
           ProductScratch& scratch);
  // The same of up to kMostTokens tokens that are decoded together: each y_t is
  // what Run gives for x_t alone, bit for bit but for signs of zeros.
  void RunEach(const float* x, size_t tokens, float* y, Executor& executor,
               ProductScratch& scratch);
  // Fits the thresholds to x while running it (tokens >= 2).
  void FitAndRun(const float* x, size_t tokens, float* y, Executor& executor,
                 ProductScratch& scratch);

  // The same of the down projection of an MLP whose gate decides: x is zero
  // where the gate drops, `kept` values take part over all tokens.
  void RunKept(const float* x, size_t tokens, uint64_t kept, float* y,
               Executor& executor, ProductScratch& scratch);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  // Whether it is gate and up of an MLP whose gate decides.
  bool GateDecides() const { return gate_mask_.has_value(); }
  // Whether it reads its input by a mask, and nothing but that.
  bool MasksInput() const { return input_mask_ && direct_.size() == 1 && !b_; }

  // Calls function(product) for each of them.
  template <class Function>
  void ForEachProduct(Function function) const {
    for (const WeightProduct& product : direct_) function(product);
    if (b_) function(*b_);
    for (const WeightProduct& product : a_) function(product);
  }

  double useful_bytes() const;
  QuantizationError quantization_error() const;
  void AddTo(ForwardCounters& counters) const;
  void ResetCounters();

 private:
  // What one token runs: first, then the branches.
  struct Steps {
    std::span<const GemvCall> first() const {
      return {calls.data(), call_count};
    }
    std::span<const RankBranch> branches() const {
      return {ranks.data(), rank_count};
    }
    std::array<GemvCall, kMaxFirstCalls> calls;
    std::array<RankBranch, kMaxRankBranches> ranks;
    size_t call_count = 0, rank_count = 0;
  };

  friend void DecodeGatedMlp(Projection& gate_up, Projection& down,
                             Activation activation, const float* x, float* gate,
                             float* y, Executor& executor,
                             ProductScratch& scratch);
  friend void DecodeGateFirstMlp(Projection& gate_up, Projection& down,
                                 Activation activation, const float* x,
                                 float* gate, float* y, Executor& executor,
                                 ProductScratch& scratch);
  friend void DecodeGateFirstMlps(Projection& gate_up, Projection& down,
                                  Activation activation, const float* x,
                                  size_t tokens, float* gate_up_values,
                                  float* y, Executor& executor,
                                  ProductScratch& scratch);
  friend uint64_t RunGateFirstHidden(Projection& gate_up,
                                     const GateFirstRun& run,
                                     Executor& executor,
                                     ProductScratch& scratch);
  // Counts one token, but for what the branches keep.
  Steps StepsOf(const float* x, float* y, ProductScratch& scratch);
  // What a run from `begin` to `end` kept and took.
  void CountRun(StageClock::Time begin, const RankRun& run,
                StageClock::Time end);
  void RunOne(const float* x, float* y, Executor& executor,
              ProductScratch& scratch);
  void RunMany(const float* x, size_t tokens, bool fit, float* y,
               Executor& executor, ProductScratch& scratch);

  size_t rows_ = 0;
  size_t cols_ = 0;
  std::optional<ThresholdMask> input_mask_;
  std::optional<ThresholdMask> gate_mask_;
  std::vector<WeightProduct> direct_;
  std::optional<WeightProduct> b_;
  std::vector<ThresholdMask> rank_masks_;
  std::vector<WeightProduct> a_;
  std::span<const WeightProduct> FirstDirect() const;
  std::span<const WeightProduct> Second() const;

  StageClock first_;   // direct products and B
  StageClock second_;  // A; up, where the gate decides
};

// The inputs of this projection, the most values that one mask of it covers,
// and the size of z.
size_t InputSize(const ProjectionSpec& spec);
size_t MaskSize(const ProjectionSpec& spec);
size_t ZSize(const ProjectionSpec& spec);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_FORWARD_PROJECTION_H_
