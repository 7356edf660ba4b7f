// Plans: layers that callers run. One class per kind of layer, each over
// products (Product) and memory of the caller's.
#ifndef RANKFORGE_CAPI_PLAN_H_
#define RANKFORGE_CAPI_PLAN_H_

#include <cstddef>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "capi/context.h"
#include "capi/handle.h"
#include "capi/problem.h"
#include "capi/weights.h"
#include "include/rankforge/rankforge.h"
#include "meta/variants.h"
#include "runtime/plan/plan.h"

namespace rankforge::capi {

// A run's arguments, checked.
struct RunArgs {
  size_t tokens = 1;
  const float* x = nullptr;  // token t at x + t * x_stride
  size_t x_stride = 0;
  float* y = nullptr;
  size_t y_stride = 0;
  GemvOutput output;  // y, bias, accumulate
  const rankforge_mask* masks = nullptr;
  size_t mask_count = 0;
  size_t* kept = nullptr;

  // Those of one of the tokens.
  RunArgs Of(size_t token) const;
  const float* InputOf(size_t token) const { return x + token * x_stride; }
  TokenBatch batch() const { return {tokens, x_stride, y_stride}; }
  void Report(size_t token, size_t count) const {
    if (kept != nullptr) kept[token] = count;
  }
};

// Weights bound to kernels of one operation, for one token and for several.
class Product {
 public:
  // What is asked of weights; rows, cols and type are theirs.
  struct Demand {
    Operation operation;
    size_t granularity = 1;
    size_t tokens = 1;
    size_t threads = 1;
    std::optional<Activations> activations = std::nullopt;
  };
  // `name` is for messages. Products that round their inputs take one token.
  Product(const Dispatcher& dispatcher, std::shared_ptr<const Weights> weights,
          const Demand& demand, const char* name);
  Product(Product&&) = default;

  size_t rows() const { return weights_->matrix.rows(); }
  size_t cols() const { return weights_->matrix.cols(); }
  const GemvPlan& For(size_t tokens) const {
    return tokens > 1 ? *several_ : one_;
  }
  // Lines for people.
  std::string Explain() const;

 private:
  std::string name_;
  std::shared_ptr<const Weights> weights_;  // keeps the address of its matrix
  GemvPlan one_;
  std::optional<GemvPlan> several_;
};

// What products of such weights do to their inputs.
inline Activations ActivationsOf(const Weights& weights, Operation operation,
                                 std::optional<Activations> asked) {
  const WeightType type = weights.matrix.type();
  return ActivationsFor(operation, type,
                        asked.value_or(DefaultActivations(type)));
}

// The products of a layer, and what a caller asks of all of them.
class ProductsOf {
 public:
  struct One {
    const rankforge_weights* weights;  // null: there is no such product
    const char* name;
    Operation operation;
  };
  // Fails unless one of them takes the activations of this number.
  ProductsOf(std::initializer_list<One> products, int32_t activations);
  std::optional<Activations> activations() const { return asked_; }
  // Whether tokens run one after the other: where a product rounds its inputs
  // or adds in several sums no kernel takes several.
  bool one_by_one() const { return one_by_one_; }

 private:
  std::optional<Activations> asked_;
  bool one_by_one_ = false;
};

class Plan {
 public:
  struct Shape {
    size_t rows = 0;
    size_t cols = 0;
    size_t tokens = 1;  // that run together
  };
  Plan(std::shared_ptr<const Context> context, const Shape& shape)
      : context_(std::move(context)),
        shape_(shape),
        most_tokens_(shape.tokens) {}
  virtual ~Plan() = default;

  const Shape& shape() const { return shape_; }
  size_t scratch_bytes() const { return scratch_bytes_; }
  // The most tokens of a run. More than those of the shape, which is 1 then,
  // run one after the other.
  size_t most_tokens() const { return most_tokens_; }
  void set_most_tokens(size_t tokens) { most_tokens_ = tokens; }
  void Run(const RunArgs& args, ScratchCursor memory) const {
    context_->WithExecutor([&](Executor& executor) {
      ForEachRun(args,
                 [&](const RunArgs& run) { RunWith(executor, run, memory); });
    });
  }
  // `share` of `shares`, on this thread.
  void RunShare(const RunArgs& args, size_t share, size_t shares,
                ScratchCursor memory) const {
    ForEachRun(args, [&](const RunArgs& run) {
      RunShareWith(run, share, shares, memory);
    });
  }
  // Whether runs bring masks.
  virtual bool takes_masks() const { return false; }
  virtual std::string Explain() const = 0;

 protected:
  virtual void RunWith(Executor& executor, const RunArgs& args,
                       ScratchCursor memory) const = 0;
  virtual void RunShareWith(const RunArgs& args, size_t share, size_t shares,
                            ScratchCursor memory) const;
  // Threads of the context: the most members of a team.
  size_t members() const { return context_->threads(); }
  void set_scratch_bytes(size_t bytes) { scratch_bytes_ = bytes; }

 private:
  // All tokens that run together, or one after the other.
  template <class Body>
  void ForEachRun(const RunArgs& args, const Body& body) const {
    if (args.tokens <= shape_.tokens) {
      body(args);
      return;
    }
    for (size_t t = 0; t < args.tokens; ++t) body(args.Of(t));
  }

  std::shared_ptr<const Context> context_;
  Shape shape_;
  size_t most_tokens_;
  size_t scratch_bytes_ = 0;
};

// A threshold with arrays of its own.
class OwnedRule {
 public:
  OwnedRule(const rankforge_mask* rule, size_t count, const char* name);
  const ThresholdRule& rule() const { return rule_; }

 private:
  std::vector<float> tau_, mu_;
  ThresholdRule rule_;
};

// Keeps what `take` takes of the masks of each token, and makes their union.
struct TokenMasks {
  MaskStorage one;  // index, value and zeroed copy of one token at a time
  uint64_t* bits;   // (tokens, MaskWords(count))
  UnionStorage joined;

  static TokenMasks Take(ScratchCursor& memory, size_t tokens, size_t count);
  // The memory of token t's mask.
  MaskStorage Of(size_t token, size_t count) const {
    MaskStorage storage = one;
    storage.bits = bits + token * MaskWords(count);
    return storage;
  }
  // The union over x_t (count,), at x + t * x_stride, or of a row mask.
  MaskView Union(size_t tokens, size_t granularity, const float* x,
                 size_t x_stride, size_t count) const;
};

std::unique_ptr<Plan> MakeGemvPlan(std::shared_ptr<const Context> context,
                                   const Dispatcher& dispatcher,
                                   const CallProblem& problem,
                                   std::shared_ptr<const Weights> weights);
std::unique_ptr<Plan> MakeRankPlan(std::shared_ptr<const Context> context,
                                   const Dispatcher& dispatcher,
                                   const rankforge_rank_adapter& adapter);
std::unique_ptr<Plan> MakeMlpPlan(std::shared_ptr<const Context> context,
                                  const Dispatcher& dispatcher,
                                  const rankforge_gated_mlp& mlp);

// Floats between the values of neighbouring tokens in scratch: an odd number of
// cache lines (TokenBatch).
inline size_t TokenStride(size_t count) {
  constexpr size_t kFloats = kCacheLine / sizeof(float);
  return (RoundUp(count, kFloats) / kFloats | 1) * kFloats;
}

// Tokens and threads of a plan's options, checked.
size_t TokensOf(uint32_t tokens);
size_t ThreadsOf(uint32_t threads, const Context& context);

}  // namespace rankforge::capi

// NOLINTNEXTLINE(readability-identifier-naming): a name of the C header
struct rankforge_plan : rankforge::capi::HandleOf<rankforge::capi::Plan, 4> {};

namespace rankforge::capi {
using PlanPool = HandlePool<rankforge_plan>;
}  // namespace rankforge::capi

#endif  // RANKFORGE_CAPI_PLAN_H_
