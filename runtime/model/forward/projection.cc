#include "runtime/model/forward/projection.h"

#include <cblas.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <utility>

#include "kernels/mask/mask.h"
#include "runtime/model/weights/stored_types.h"
#include "runtime/threads/parallel.h"

namespace rankforge {

namespace {

// Rows of a matrix that are widened and multiplied at once. The number is
// fixed, so that results do not depend on threads, and a multiple of every
// panel. A tile of 128 x 4096 f32 is 2 MiB, a core's share of L3, and has
// enough columns of output for the library's kernels.
constexpr size_t kTileRows = 128;
static_assert(kTileRows % PanelWidth(Layout::kPanel128) == 0);

// Outputs that the kernels of kept columns compute for kTokensPerShare tokens,
// one after the other, before the next ones: 2 MiB of 4-bit weights for 8,192
// columns, which stay in a cache. Fewer outputs cost more per weight, as the
// factors of columns are rounded for sixteen blocks at a time.
constexpr size_t kColumnTileRows = 512;
constexpr size_t kTokensPerShare = 32;
static_assert(kColumnTileRows % PartQuantum(Layout::kInOut) == 0);

// Grows, never shrinks: prefill reuses its scratch.
template <class T>
void Reserve(std::vector<T>& buffer, size_t size) {
  if (buffer.size() < size) buffer.resize(size);
}

}  // namespace

ProductScratch::ProductScratch(size_t threads, size_t input_size,
                               size_t mask_size, size_t z_size)
    : masks(threads, MaskScratch(mask_size)),
      ranks(threads, mask_size),
      worker_sums(threads),
      mlp(threads, mask_size),
      z(z_size),
      tiles(threads),
      input_size(input_size),
      mask_size(mask_size) {
  while (inputs.size() < kMaxFirstCalls) inputs.emplace_back(input_size);
}

BatchScratch& ProductScratch::ForBatch() {
  if (!batch) batch.emplace(input_size, mask_size);
  return *batch;
}

BatchScratch::BatchScratch(size_t input_size, size_t mask_size)
    : masks(kMostTokens, MaskScratch(mask_size)),
      joined(kMostTokens, mask_size) {
  while (inputs.size() < kMostTokens) inputs.emplace_back(input_size);
}

Result<WeightProduct> WeightProduct::Create(const ProductSpec& spec,
                                            WeightType type,
                                            ProductFactory& factory) {
  type = TypeOf(spec, type, factory.stored_types);
  const Problem problem =
      ProblemOf(spec, type, factory.activations, factory.threads);
  Choice choice = [&] {
    const std::lock_guard lock(factory.mutex);
    return factory.dispatcher.Decide(problem).choice;
  }();
  // Only groups along rows hold the blocks of a file as they are.
  if (factory.stored_types != nullptr && !factory.stored_types->chosen &&
      IsQuantized(type) && spec.operation == Operation::kDense &&
      !RunsAreRows(choice.layout)) {
    choice = DefaultChoice(problem);
  }
  std::vector<std::string> names;
  std::vector<size_t> rows;
  for (const TensorShape& tensor : spec.tensors) {
    names.push_back(tensor.name);
    rows.push_back(tensor.rows);
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      PackedMatrix weights,
      factory.source.Pack(names, rows, spec.cols(), type, choice.layout));
  WeightProduct product;
  product.weights_ = std::make_unique<PackedMatrix>(std::move(weights));
  product.plan_ = GemvPlan::Bind(*product.weights_, problem, choice);
  product.several_ = product.plan_.ForSeveral();
  for (const TensorShape& bias : spec.biases) {
    RANKFORGE_ASSIGN_OR_RETURN(const std::vector<float> values,
                               factory.source.Vector(bias.name, bias.cols));
    product.bias_.insert(product.bias_.end(), values.begin(), values.end());
  }
  product.input_offset_ = spec.input_offset;
  product.output_offset_ = spec.output_offset;
  return product;
}

GemvCall WeightProduct::Dense(const float* x, float* output,
                              InputScratch& scratch) {
  runs_read_ += cols();
  return plan_.Dense(x, Output(output), {}, &scratch);
}

GemvCall WeightProduct::ColumnMask(const MaskView& mask, float* output,
                                   SumsScratch& sums) {
  runs_read_ += mask.kept;
  return plan_.ColumnMask(mask, Output(output, sums));
}

RankBranch WeightProduct::Branch(const float* z, const ThresholdRule& rule,
                                 float* output, SumsScratch& sums) const {
  return {&plan_, z, rule, Output(output, sums)};
}

template <class CallOf>
void WeightProduct::RunEach(size_t tokens, Executor& executor,
                            CallOf call_of) const {
  assert(tokens <= kMostTokens);
  std::array<GemvCall, kMostTokens> calls;
  for (size_t t = 0; t < tokens; ++t) calls[t] = call_of(t);
  const std::span<GemvCall> used = std::span(calls).first(tokens);
  CutForReuse(*weights_, used);
  RunCalls(used, executor);
}

void WeightProduct::DenseOfEach(const InputRows& x, size_t tokens,
                                float* output, size_t pitch, Executor& executor,
                                BatchScratch& scratch) {
  assert(tokens <= kMostTokens);
  runs_read_ += tokens * cols();
  if (several_) {
    const GemvCall call =
        several_->Dense(x.data, Output(output), {tokens, x.pitch, pitch});
    RunCalls({&call, 1}, executor);
    return;
  }
  RunEach(tokens, executor, [&](size_t t) {
    return plan_.Dense(x.data + t * x.pitch, Output(output + t * pitch), {},
                       &scratch.inputs[t]);
  });
}

void WeightProduct::MaskedOfEach(std::span<const MaskView> masks,
                                 const InputRows& x, float* output,
                                 size_t pitch, Executor& executor,
                                 BatchScratch& scratch) {
  const bool rows_are_masked = plan_.problem().operation == Operation::kRowMask;
  const size_t tokens = masks.size();
  assert(tokens <= kMostTokens);
  std::array<const uint64_t*, kMostTokens> bits;
  for (size_t t = 0; t < tokens; ++t) {
    bits[t] = masks[t].bits;
    runs_read_ += masks[t].kept;
  }
  if (several_) {
    const MaskView joined = UnionOfMasks(
        std::span(bits).first(tokens), 1, rows_are_masked ? nullptr : x.data,
        x.pitch, rows_are_masked ? rows() : cols(), scratch.joined.storage());
    const TokenBatch batch = {tokens, x.pitch, pitch};
    const GemvCall call =
        rows_are_masked
            ? several_->RowMask(x.data, joined, Output(output), batch)
            : several_->ColumnMask(joined, Output(output), batch);
    RunCalls({&call, 1}, executor);
    return;
  }
  RunEach(tokens, executor, [&](size_t t) {
    const GemvOutput own = Output(output + t * pitch, scratch.sums[t]);
    return rows_are_masked ? plan_.RowMask(x.data + t * x.pitch, masks[t], own,
                                           {}, &scratch.inputs[t])
                           : plan_.ColumnMask(masks[t], own);
  });
}

void WeightProduct::Multiply(const InputRows& x, size_t tokens,
                             uint64_t runs_read, float* output, size_t pitch,
                             Executor& executor, ProductScratch& scratch) {
  runs_read_ += runs_read;
  const Problem& problem = plan_.problem();
  if (problem.activations == Activations::kF32) {
    MultiplyTiles(x, tokens, output, pitch, executor, scratch);
    return;
  }
  if (problem.operation == Operation::kColumnMask) {
    MultiplyKeptColumns(x, tokens, output, pitch, executor, scratch);
    return;
  }
  Reserve(scratch.rounded, tokens * cols());
  float* const rounded = scratch.rounded.data();
  ParallelFor(executor, tokens, [&](size_t token, size_t) {
    RoundValues(x.data + token * x.pitch, cols(), problem.activations,
                rounded + token * cols());
  });
  MultiplyTiles({rounded, cols()}, tokens, output, pitch, executor, scratch);
}

void WeightProduct::MultiplyTiles(const InputRows& x, size_t tokens,
                                  float* output, size_t pitch,
                                  Executor& executor,
                                  ProductScratch& scratch) const {
  const auto n = [](size_t value) { return static_cast<blasint>(value); };
  const size_t tiles = (rows() + kTileRows - 1) / kTileRows;
  ParallelFor(executor, tiles, [&](size_t item, size_t worker) {
    const size_t begin = item * kTileRows;
    const size_t count = std::min(kTileRows, rows() - begin);
    std::vector<float>& tile = scratch.tiles[worker];
    Reserve(tile, kTileRows * cols());
    weights_->WidenTile(begin, count, tile.data());
    const bool transposed = weights_->TilesAreTransposed();  // (cols, count)
    float* const y = output + output_offset_ + begin;
    if (!bias_.empty()) {
      for (size_t token = 0; token < tokens; ++token) {
        std::copy_n(bias_.data() + begin, count, y + token * pitch);
      }
    }
    // y (tokens, count) = x (tokens, cols) @ tile (count, cols)^T, on top of
    // the bias
    cblas_sgemm(CblasRowMajor, CblasNoTrans,
                transposed ? CblasNoTrans : CblasTrans, n(tokens), n(count),
                n(cols()), 1, x.data, n(x.pitch), tile.data(),
                n(transposed ? count : cols()), bias_.empty() ? 0.0f : 1.0f, y,
                n(pitch));
  });
}

void WeightProduct::MultiplyKeptColumns(const InputRows& x, size_t tokens,
                                        float* output, size_t pitch,
                                        Executor& executor,
                                        ProductScratch& scratch) const {
  const size_t tiles = (rows() + kColumnTileRows - 1) / kColumnTileRows;
  const size_t shares = (tokens + kTokensPerShare - 1) / kTokensPerShare;
  ParallelFor(executor, tiles * shares, [&](size_t item, size_t worker) {
    const size_t row = item % tiles * kColumnTileRows;
    const size_t first = item / tiles * kTokensPerShare;
    const size_t last = std::min(tokens, first + kTokensPerShare);
    for (size_t token = first; token < last; ++token) {
      const MaskView mask =
          MaskFromBits(scratch.kept.data() + token * MaskWords(cols()),
                       x.data + token * x.pitch, cols(), 1,
                       scratch.masks[worker].storage(), mask_arrays());
      RunOutputs(plan_.ColumnMask(mask, Output(output + token * pitch,
                                               scratch.worker_sums[worker])),
                 row, std::min(rows(), row + kColumnTileRows));
    }
  });
}

double WeightProduct::macs() const {
  const size_t length =
      plan_.problem().operation == Operation::kRowMask ? cols() : rows();
  return static_cast<double>(runs_read_) * static_cast<double>(length);
}

double WeightProduct::bytes_read() const {
  return WeightBytes(weights_->type(), macs());
}

std::vector<float> ThresholdsOf(const MaskSpec& spec, double tau_scale) {
  std::vector<float> thresholds = *spec.tau;
  thresholds.resize(spec.cols, 0.0f);  // a synthetic adapter has none yet
  for (float& tau : thresholds) {
    tau = static_cast<float>(static_cast<double>(tau) * tau_scale);
  }
  return thresholds;
}

ThresholdMask::ThresholdMask(const MaskSpec& spec, double tau_scale)
    : module_(spec.module),
      offset_(spec.offset),
      density_(spec.density),
      tau_(ThresholdsOf(spec, tau_scale)),
      tokens_by_kept_(spec.cols + 1) {}

MaskView ThresholdMask::Make(const float* values, const MaskArrays& arrays,
                             const MaskStorage& storage) {
  const MaskView view = MakeMask(values, cols(), rule(), storage, arrays);
  Count(view.kept);
  return view;
}

std::span<const MaskView> ThresholdMask::MakeEach(const InputRows& values,
                                                  size_t tokens,
                                                  const MaskArrays& arrays,
                                                  Executor& executor,
                                                  BatchScratch& scratch) {
  assert(tokens <= kMostTokens);
  ParallelFor(executor, tokens, [&](size_t token, size_t) {
    scratch.views[token] =
        MakeMask(values.data + token * values.pitch, cols(), rule(),
                 scratch.masks[token].storage(), arrays);
  });
  const std::span<const MaskView> views =
      std::span(scratch.views).first(tokens);
  for (const MaskView& view : views) Count(view.kept);
  return views;
}

void ThresholdMask::Count(size_t kept) { ++tokens_by_kept_[kept]; }

uint64_t ThresholdMask::Zero(const InputRows& x, size_t tokens, float* masked,
                             Executor& executor, ProductScratch& scratch) {
  std::vector<size_t> kept(tokens);
  const size_t words = MaskWords(cols());
  Reserve(scratch.kept, tokens * words);
  ParallelFor(executor, tokens, [&](size_t token, size_t worker) {
    const MaskView view =
        MakeMask(x.data + token * x.pitch, cols(), rule(),
                 scratch.masks[worker].storage(), {false, false, true});
    std::copy_n(view.bits, words, scratch.kept.data() + token * words);
    std::copy_n(view.zeroed, cols(), masked + token * cols());
    kept[token] = view.kept;
  });
  for (const size_t count : kept) Count(count);
  return std::accumulate(kept.begin(), kept.end(), uint64_t{0});
}

void ThresholdMask::Fit(const InputRows& x, size_t tokens) {
  std::vector<float> magnitudes(tokens * cols());
  for (size_t token = 0; token < tokens; ++token) {
    std::transform(x.data + token * x.pitch, x.data + token * x.pitch + cols(),
                   magnitudes.begin() + token * cols(),
                   [](float value) { return std::fabs(value); });
  }
  const auto kept = static_cast<size_t>(
      std::llround(density_ * static_cast<double>(magnitudes.size())));
  float threshold = std::numeric_limits<float>::infinity();
  if (kept > 0) {
    const auto smallest_kept =
        magnitudes.end() - std::min(kept, magnitudes.size());
    std::nth_element(magnitudes.begin(), smallest_kept, magnitudes.end());
    threshold = *smallest_kept;
  }
  std::fill(tau_.begin(), tau_.end(), threshold);
}

void ThresholdMask::AddTo(ForwardCounters& counters) const {
  ForwardCounters::LayerDensity& density = counters.density[module_];
  density.tokens_by_kept = tokens_by_kept_;
  uint64_t tokens = 0, kept = 0;
  for (size_t count = 0; count < tokens_by_kept_.size(); ++count) {
    tokens += tokens_by_kept_[count];
    kept += tokens_by_kept_[count] * count;
  }
  density.kept = static_cast<double>(kept);
  density.total = static_cast<double>(tokens * cols());
}

void ThresholdMask::ResetCounter() {
  std::fill(tokens_by_kept_.begin(), tokens_by_kept_.end(), 0);
}

Result<Projection> Projection::Create(const ProjectionSpec& spec,
                                      WeightType type,
                                      ProductFactory& factory) {
  Projection projection;
  projection.rows_ = spec.rows;
  projection.cols_ = spec.cols;
  if (spec.input_mask) {
    projection.input_mask_.emplace(*spec.input_mask, factory.tau_scale);
  }
  if (spec.gate_mask) {
    projection.gate_mask_.emplace(*spec.gate_mask, factory.tau_scale);
  }
  for (const ProductSpec& product : spec.direct) {
    RANKFORGE_ASSIGN_OR_RETURN(WeightProduct direct,
                               WeightProduct::Create(product, type, factory));
    projection.direct_.push_back(std::move(direct));
  }
  if (spec.b) {
    RANKFORGE_ASSIGN_OR_RETURN(projection.b_,
                               WeightProduct::Create(*spec.b, type, factory));
  }
  for (const MaskSpec& mask : spec.rank_masks) {
    projection.rank_masks_.emplace_back(mask, factory.tau_scale);
  }
  for (const ProductSpec& product : spec.a) {
    RANKFORGE_ASSIGN_OR_RETURN(WeightProduct a,
                               WeightProduct::Create(product, type, factory));
    projection.a_.push_back(std::move(a));
  }
  projection.first_.name = spec.b ? spec.b->layer : spec.direct.front().layer;
  if (!spec.a.empty()) projection.second_.name = spec.name + ".rank.A";
  if (spec.gate_mask) projection.second_.name = spec.direct.back().layer;
  return projection;
}

void Projection::Run(const float* x, size_t tokens, float* y,
                     Executor& executor, ProductScratch& scratch) {
  if (tokens == 1) {
    RunOne(x, y, executor, scratch);
  } else {
    RunMany(x, tokens, false, y, executor, scratch);
  }
}

void Projection::FitAndRun(const float* x, size_t tokens, float* y,
                           Executor& executor, ProductScratch& scratch) {
  RunMany(x, tokens, true, y, executor, scratch);
}

Projection::Steps Projection::StepsOf(const float* x, float* y,
                                      ProductScratch& scratch) {
  Steps steps;
  MaskView mask;
  if (input_mask_) {
    MaskArrays arrays{false, false, false};
    for (const WeightProduct& product : direct_) {
      arrays = arrays | product.mask_arrays();
    }
    mask = input_mask_->Make(x, arrays, scratch.masks[0].storage());
  }
  for (WeightProduct& product : direct_) {
    const size_t call = steps.call_count++;
    steps.calls[call] =
        input_mask_ ? product.ColumnMask(mask, y, scratch.first_sums[call])
                    : product.Dense(x, y, scratch.inputs[call]);
  }
  float* const z = scratch.z.data();
  if (b_) {
    InputScratch& rounded = scratch.inputs[steps.call_count];
    steps.calls[steps.call_count++] = b_->Dense(x, z, rounded);
  }
  for (const WeightProduct& product : a_) {
    const size_t branch = steps.rank_count++;
    const ThresholdMask& rank_mask = rank_masks_[branch];
    steps.ranks[branch] = product.Branch(
        z + rank_mask.offset(), rank_mask.rule(), y, scratch.rank_sums[branch]);
  }
  return steps;
}

void Projection::CountRun(StageClock::Time begin, const RankRun& run,
                          StageClock::Time end) {
  first_.Add(begin, run.first_done);
  if (a_.empty()) return;
  for (size_t i = 0; i < a_.size(); ++i) {
    a_[i].Count(run.kept[i]);
    rank_masks_[i].Count(run.kept[i]);
  }
  second_.Add(run.first_done, end);
}

void Projection::RunOne(const float* x, float* y, Executor& executor,
                        ProductScratch& scratch) {
  const StageClock::Time start = std::chrono::steady_clock::now();
  const Steps steps = StepsOf(x, y, scratch);
  RankRun run;
  if (a_.empty()) {
    RunCalls(steps.first(), executor);
    run.first_done = std::chrono::steady_clock::now();
  } else {
    run =
        RunRankStages(steps.first(), steps.branches(), executor, scratch.ranks);
  }
  CountRun(start, run, std::chrono::steady_clock::now());
}

void DecodeGatedMlp(Projection& gate_up, Projection& down,
                    Activation activation, const float* x, float* gate,
                    float* y, Executor& executor, ProductScratch& scratch) {
  const StageClock::Time start = std::chrono::steady_clock::now();
  const Projection::Steps steps = gate_up.StepsOf(x, gate, scratch);
  WeightProduct& product = down.direct_.front();
  ThresholdMask& mask = *down.input_mask_;
  const bool gated = gate_up.rows_ > down.cols_;
  const float* const up = gated ? gate + down.cols_ : nullptr;
  const GatedMlpRun run =
      RunGatedMlp({.first = steps.first(),
                   .branches = steps.branches(),
                   .hidden = {gate, up, activation},
                   .rule = mask.rule(),
                   .down = &product.plan(),
                   .output = product.Output(y, scratch.down_sums)},
                  executor, scratch.ranks, scratch.mlp);
  product.Count(run.kept);
  mask.Count(run.kept);
  gate_up.CountRun(start, run.first, run.up_done);
  down.first_.Add(run.mask_done, std::chrono::steady_clock::now());
}

void DecodeGateFirstMlp(Projection& gate_up, Projection& down,
                        Activation activation, const float* x, float* gate,
                        float* y, Executor& executor, ProductScratch& scratch) {
  const StageClock::Time start = std::chrono::steady_clock::now();
  const GemvCall call =
      gate_up.direct_.front().Dense(x, gate, scratch.inputs.front());
  WeightProduct& up = gate_up.direct_.back();
  WeightProduct& product = down.direct_.front();
  ThresholdMask& mask = *gate_up.gate_mask_;
  const GatedMlpRun run =
      RunGateFirstMlp({.gate = {&call, 1},
                       .gate_values = gate,
                       .activation = activation,
                       .gate_rule = mask.rule(),
                       .up = &up.plan(),
                       .x = x,
                       .up_values = gate + mask.cols(),
                       .hidden_rule = nullptr,
                       .down = &product.plan(),
                       .output = product.Output(y, scratch.down_sums),
                       .rounded = up.plan().Round(x, &scratch.inputs.back())},
                      executor, scratch.mlp);
  up.Count(run.up_kept);
  product.Count(run.up_kept);
  mask.Count(run.up_kept);
  gate_up.first_.Add(start, run.first.first_done);
  gate_up.second_.Add(run.first.first_done, run.up_done);
  down.first_.Add(run.mask_done, std::chrono::steady_clock::now());
}

void DecodeGateFirstMlps(Projection& gate_up, Projection& down,
                         Activation activation, const float* x, size_t tokens,
                         float* gate_up_values, float* y, Executor& executor,
                         ProductScratch& scratch) {
  BatchScratch& batch = scratch.ForBatch();
  WeightProduct& up = gate_up.direct_.back();
  WeightProduct& product = down.direct_.front();
  const InputRows input = {x, gate_up.cols_};
  const InputRows hidden = {gate_up_values, gate_up.rows_};
  const size_t neurons = down.cols_;
  const auto gate_of = [&](size_t token) {
    return gate_up_values + token * gate_up.rows_;
  };
  gate_up.first_.Run([&] {
    gate_up.direct_.front().DenseOfEach(input, tokens, gate_up_values,
                                        gate_up.rows_, executor, batch);
  });
  std::span<const MaskView> masks;
  gate_up.second_.Run([&] {
    ParallelFor(executor, tokens, [&](size_t token, size_t) {
      Activate(activation, gate_of(token), nullptr, neurons, gate_of(token));
    });
    masks = gate_up.gate_mask_->MakeEach(
        hidden, tokens, up.mask_arrays() | product.mask_arrays(), executor,
        batch);
    up.MaskedOfEach(masks, input, gate_up_values, gate_up.rows_, executor,
                    batch);
  });
  // h = act(gate) * up, both in the masks and for their union.
  ParallelFor(executor, tokens, [&](size_t token, size_t) {
    float* const h = gate_of(token);
    const float* const factor = h + neurons;
    MultiplyKept(masks[token], factor, batch.masks[token].storage());
    for (size_t j = 0; j < neurons; ++j) h[j] *= factor[j];
  });
  down.first_.Run([&] {
    product.MaskedOfEach(masks, hidden, y, down.rows_, executor, batch);
  });
}

uint64_t RunGateFirstHidden(Projection& gate_up, const GateFirstRun& run,
                            Executor& executor, ProductScratch& scratch) {
  ThresholdMask& mask = *gate_up.gate_mask_;
  const size_t neurons = mask.cols();
  const InputRows input{run.x, gate_up.cols_};
  const size_t tokens = run.tokens;
  const size_t pitch = gate_up.rows_;
  float* const values = run.gate_up_values;
  gate_up.direct_.front().Multiply(input, tokens, tokens * gate_up.cols_,
                                   values, pitch, executor, scratch);
  ParallelFor(executor, tokens, [&](size_t token, size_t) {
    float* const own = values + token * pitch;
    Activate(run.activation, own, nullptr, neurons, own);
  });
  const InputRows activated{values, pitch};
  if (run.fit) mask.Fit(activated, tokens);
  const uint64_t kept =
      mask.Zero(activated, tokens, run.hidden, executor, scratch);
  gate_up.direct_.back().Multiply(input, tokens, kept, values, pitch, executor,
                                  scratch);
  ParallelFor(executor, tokens, [&](size_t token, size_t) {
    float* const h = run.hidden + token * neurons;
    const float* const factor = values + token * pitch + neurons;
    for (size_t j = 0; j < neurons; ++j) {
      // Decoding does not multiply dropped values. 0 times an infinite factor
      // would be NaN here.
      h[j] = h[j] == 0 ? 0 : h[j] * factor[j];
    }
  });
  return kept;
}

void Projection::RunKept(const float* x, size_t tokens, uint64_t kept, float* y,
                         Executor& executor, ProductScratch& scratch) {
  // By the values, not by the masks of the gate: other tokens may have run
  // since. Decoding also reads a kept column whose value happens to be zero,
  // which adds nothing but counts among the eight that share a step.
  const size_t words = MaskWords(cols_);
  scratch.kept.assign(tokens * words, 0);
  ParallelFor(executor, tokens, [&](size_t token, size_t) {
    uint64_t* const bits = scratch.kept.data() + token * words;
    for (size_t j = 0; j < cols_; ++j) {
      bits[j / 64] |= uint64_t{x[token * cols_ + j] != 0} << (j % 64);
    }
  });
  direct_.front().Multiply({x, cols_}, tokens, kept, y, rows_, executor,
                           scratch);
}

void Projection::RunMany(const float* x, size_t tokens, bool fit, float* y,
                         Executor& executor, ProductScratch& scratch) {
  const auto zero = [&](ThresholdMask& mask, const InputRows& values) {
    if (fit) mask.Fit(values, tokens);
    Reserve(scratch.masked, tokens * mask.cols());
    return mask.Zero(values, tokens, scratch.masked.data(), executor, scratch);
  };
  InputRows input{x, cols_};
  uint64_t inputs_read = tokens * cols_;
  if (input_mask_) {
    inputs_read = zero(*input_mask_, input);
    input.data = scratch.masked.data();
  }
  for (WeightProduct& product : direct_) {
    product.Multiply(input, tokens, inputs_read, y, rows_, executor, scratch);
  }
  if (!b_) return;
  const size_t z_size = b_->rows();
  Reserve(scratch.z, tokens * z_size);
  b_->Multiply({x, cols_}, tokens, tokens * cols_, scratch.z.data(), z_size,
               executor, scratch);
  for (size_t i = 0; i < a_.size(); ++i) {
    ThresholdMask& mask = rank_masks_[i];
    const uint64_t kept =
        zero(mask, {scratch.z.data() + mask.offset(), z_size});
    a_[i].Multiply({scratch.masked.data(), mask.cols()}, tokens, kept, y, rows_,
                   executor, scratch);
  }
}

void Projection::RunEach(const float* x, size_t tokens, float* y,
                         Executor& executor, ProductScratch& scratch) {
  BatchScratch& batch = scratch.ForBatch();
  const InputRows input = {x, cols_};
  const size_t z_size = b_ ? b_->rows() : 0;
  Reserve(scratch.z, tokens * z_size);
  first_.Run([&] {
    std::span<const MaskView> masks;
    if (input_mask_) {
      MaskArrays arrays{false, false, false};
      for (const WeightProduct& product : direct_) {
        arrays = arrays | product.mask_arrays_of_each();
      }
      masks = input_mask_->MakeEach(input, tokens, arrays, executor, batch);
    }
    for (WeightProduct& product : direct_) {
      if (input_mask_) {
        product.MaskedOfEach(masks, input, y, rows_, executor, batch);
      } else {
        product.DenseOfEach(input, tokens, y, rows_, executor, batch);
      }
    }
    if (!b_) return;
    b_->DenseOfEach(input, tokens, scratch.z.data(), z_size, executor, batch);
  });
  if (a_.empty()) return;
  second_.Run([&] {
    for (size_t i = 0; i < a_.size(); ++i) {
      ThresholdMask& mask = rank_masks_[i];
      const InputRows z = {scratch.z.data() + mask.offset(), z_size};
      const std::span<const MaskView> masks = mask.MakeEach(
          z, tokens, a_[i].mask_arrays_of_each(), executor, batch);
      a_[i].MaskedOfEach(masks, z, y, rows_, executor, batch);
    }
  });
}

double Projection::useful_bytes() const {
  double bytes = 0;
  ForEachProduct(
      [&](const WeightProduct& product) { bytes += product.useful_bytes(); });
  return bytes;
}

QuantizationError Projection::quantization_error() const {
  QuantizationError error;
  ForEachProduct([&](const WeightProduct& product) {
    error += product.quantization_error();
  });
  return error;
}

// The products whose time is in first_, without B, and the products whose time
// is in second_.
std::span<const WeightProduct> Projection::FirstDirect() const {
  return std::span(direct_).first(gate_mask_ ? 1 : direct_.size());
}
std::span<const WeightProduct> Projection::Second() const {
  return gate_mask_ ? std::span(direct_).subspan(1) : std::span(a_);
}

void Projection::AddTo(ForwardCounters& counters) const {
  ForEachProduct([&](const WeightProduct& product) {
    counters.block_macs += product.macs();
    counters.weight_bytes += product.bytes_read();
  });
  const auto add = [&](const StageClock& clock,
                       std::span<const WeightProduct> products) {
    ForwardCounters::Stage& stage = counters.stages[clock.name];
    stage.seconds += clock.seconds;
    for (const WeightProduct& product : products) {
      stage.weight_bytes += product.bytes_read();
    }
  };
  add(first_, FirstDirect());
  if (b_) counters.stages[first_.name].weight_bytes += b_->bytes_read();
  if (!Second().empty()) add(second_, Second());
  if (input_mask_) input_mask_->AddTo(counters);
  if (gate_mask_) gate_mask_->AddTo(counters);
  for (const ThresholdMask& mask : rank_masks_) mask.AddTo(counters);
}

void Projection::ResetCounters() {
  for (WeightProduct& product : direct_) product.ResetCounter();
  if (b_) b_->ResetCounter();
  for (WeightProduct& product : a_) product.ResetCounter();
  if (input_mask_) input_mask_->ResetCounter();
  if (gate_mask_) gate_mask_->ResetCounter();
  for (ThresholdMask& mask : rank_masks_) mask.ResetCounter();
  first_.seconds = second_.seconds = 0;
}

size_t InputSize(const ProjectionSpec& spec) { return spec.cols; }

size_t MaskSize(const ProjectionSpec& spec) {
  size_t size = 0;
  for (const auto& mask : {spec.input_mask, spec.gate_mask}) {
    if (mask) size = std::max(size, mask->cols);
  }
  for (const MaskSpec& mask : spec.rank_masks) size = std::max(size, mask.cols);
  return size;
}

size_t ZSize(const ProjectionSpec& spec) { return spec.b ? spec.b->rows() : 0; }

}  // namespace rankforge
