// Layers inside graphs of ggml, on its threads, against calls of the C library.
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <random>

#include "integrations/ggml/graph_patch.h"
#include "integrations/ggml/linear.h"

namespace {

namespace rf = rankforge;
using rf::ggml::Linear;
using rf::ggml::LinearOptions;
using Floats = std::vector<float>;

Floats Random(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Floats values(n);
  for (float& value : values) value = normal(random);
  return values;
}

rf::Context OneThread() {
  rf::ContextOptions options;
  options.threads = 1;
  return rf::Context::Create(options).value();
}

// Tensors in memory of a CPU backend, and graphs over them.
class Host {
 public:
  explicit Host(int threads) : backend_(ggml_backend_cpu_init()) {
    ggml_backend_cpu_set_n_threads(backend_, threads);
  }
  ~Host() {
    if (buffer_ != nullptr) ggml_backend_buffer_free(buffer_);
    ggml_free(context_);
    ggml_backend_free(backend_);
  }
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  ggml_context* context() { return context_; }
  ggml_backend_t backend() { return backend_; }
  ggml_tensor* Matrix(size_t cols, size_t rows,
                      ggml_type type = GGML_TYPE_F32) {
    return ggml_new_tensor_2d(context_, type, static_cast<int64_t>(cols),
                              static_cast<int64_t>(rows));
  }
  void Allocate() {
    buffer_ = ggml_backend_alloc_ctx_tensors(context_, backend_);
  }
  static void Set(ggml_tensor* tensor, const Floats& values) {
    ASSERT_EQ(ggml_nbytes(tensor), values.size() * sizeof(float));
    ggml_backend_tensor_set(tensor, values.data(), 0, ggml_nbytes(tensor));
  }
  Floats Run(ggml_tensor* result) {
    ggml_cgraph* graph = ggml_new_graph(context_);
    ggml_build_forward_expand(graph, result);
    EXPECT_EQ(ggml_backend_graph_compute(backend_, graph), GGML_STATUS_SUCCESS);
    return Values(result);
  }
  static Floats Values(const ggml_tensor* tensor) {
    Floats values(static_cast<size_t>(ggml_nelements(tensor)));
    ggml_backend_tensor_get(tensor, values.data(), 0,
                            values.size() * sizeof(float));
    return values;
  }

 private:
  ggml_backend_t backend_;
  ggml_context* context_ =
      ggml_init({64 * ggml_tensor_overhead() + 16 * ggml_graph_overhead(),
                 nullptr, true});
  ggml_backend_buffer_t buffer_ = nullptr;
};

// What C calls compute, token by token.
Floats Called(const rf::Plan& plan, size_t rows, size_t cols, const Floats& x,
              const std::function<rf::Mask(size_t)>& mask = {}) {
  rf::Scratch scratch = plan.MakeScratch().value();
  Floats y(x.size() / cols * rows);
  for (size_t t = 0; t * cols < x.size(); ++t) {
    rf::RunArgs args;
    args.x = x.data() + t * cols;
    args.y = y.data() + t * rows;
    rf::Mask one;
    if (mask) {
      one = mask(t);
      args.masks = &one;
      args.mask_count = 1;
    }
    plan.Run(args, scratch).value();
  }
  return y;
}

// Zeros of both signs are equal: the outputs of several tokens may differ
// there.
void ExpectSame(const Floats& got, const Floats& expected,
                const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i], expected[i]) << what << ", value " << i;
  }
}

constexpr size_t kRows = 96, kCols = 256;

struct Stored {
  ggml_type type;
  int32_t weights;
  bool in_place;  // of rows
};
constexpr Stored kStored[] = {
    {GGML_TYPE_F32, RANKFORGE_F32, true},
    {GGML_TYPE_F16, RANKFORGE_F16, true},
    {GGML_TYPE_BF16, RANKFORGE_BF16, false},
    {GGML_TYPE_Q8_0, RANKFORGE_I8_GROUP32, false},
    {GGML_TYPE_Q4_0, RANKFORGE_I4_GROUP32, false},
};

class ByType : public testing::TestWithParam<Stored> {
 protected:
  // A layer of random weights in a ggml tensor, and the same as a plan.
  void Make(int32_t operation, Host& host, size_t tokens) {
    const Stored& stored = GetParam();
    w_ = host.Matrix(kCols, kRows, stored.type);
    x_ = host.Matrix(kCols, tokens);
    score_ = host.Matrix(kRows, tokens);
    options_.operation = operation;
    options_.rule.tau = 0.7f;
  }
  void Fill(int32_t operation) {
    const Floats values = Random(kRows * kCols, 1);
    std::vector<std::byte> bytes(ggml_nbytes(w_));
    ggml_quantize_chunk(w_->type, values.data(), bytes.data(), 0, kRows, kCols,
                        nullptr);
    ggml_backend_tensor_set(w_, bytes.data(), 0, bytes.size());
    Host::Set(x_, Random(kCols * static_cast<size_t>(x_->ne[1]), 2));
    Host::Set(score_, Random(kRows * static_cast<size_t>(x_->ne[1]), 3));
    linear_ = Linear::Make(context_, w_, options_).value();
    rf::Problem problem(operation, kRows, kCols, GetParam().weights);
    const rf::Source source(w_->data, kRows, kCols, w_->type);
    weights_ = rf::Weights::Pack(context_, problem, source).value();
    plan_ = rf::Plan::Gemv(context_, problem, weights_).value();
  }

  rf::Context context_ = OneThread();
  LinearOptions options_;
  ggml_tensor *w_ = nullptr, *x_ = nullptr, *score_ = nullptr;
  std::unique_ptr<Linear> linear_;
  rf::Weights weights_;
  rf::Plan plan_;
};

TEST_P(ByType, HaveTheBitsOfTheCall) {
  for (const int32_t operation :
       {RANKFORGE_DENSE, RANKFORGE_ROW_MASK, RANKFORGE_COLUMN_MASK}) {
    for (const int threads : {1, 3}) {
      for (const size_t tokens : {size_t{1}, size_t{5}, size_t{20}}) {
        SCOPED_TRACE(testing::Message()
                     << "operation " << operation << ", " << threads
                     << " threads, " << tokens << " tokens");
        // Weights have to be there before the layer.
        Host weights(1);
        Make(operation, weights, tokens);
        weights.Allocate();
        Fill(operation);
        EXPECT_EQ(linear_->in_place(),
                  GetParam().in_place && operation != RANKFORGE_COLUMN_MASK);
        Host host(threads);
        const bool judged = operation == RANKFORGE_ROW_MASK;
        ggml_tensor* y =
            linear_->Build(host.context(), x_, judged ? score_ : nullptr)
                .value();
        host.Allocate();
        const Floats got = host.Run(y);
        const Floats x = Host::Values(x_);
        const Floats score = Host::Values(score_);
        std::function<rf::Mask(size_t)> mask;
        if (operation != RANKFORGE_DENSE) {
          mask = [&](size_t t) {
            rf::Mask one = rf::Mask::Threshold(0.7f);
            if (judged) one.score = score.data() + t * kRows;
            return one;
          };
        }
        ExpectSame(got, Called(plan_, kRows, kCols, x, mask), "y");
        EXPECT_EQ(linear_->error(), "");
        if (operation == RANKFORGE_DENSE) {
          EXPECT_EQ(linear_->density(), 1);
        } else {  // of a normal distribution
          EXPECT_NEAR(linear_->density(), 0.48, 0.15);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ggml, ByType, testing::ValuesIn(kStored),
                         [](const auto& info) {
                           return std::string(ggml_type_name(info.param.type));
                         });

// Q8_0 has inputs of 8 bits, unless somebody says otherwise.
TEST(Ggml, ActivationsAreTheCallers) {
  const rf::Context context = OneThread();
  Host host(1);
  ggml_tensor* w = host.Matrix(kCols, kRows, GGML_TYPE_Q8_0);
  ggml_tensor* x = host.Matrix(kCols, 3);
  LinearOptions options;
  std::vector<std::unique_ptr<Linear>> layers;
  host.Allocate();
  const Floats values = Random(kRows * kCols, 1);
  std::vector<std::byte> bytes(ggml_nbytes(w));
  ggml_quantize_chunk(w->type, values.data(), bytes.data(), 0, kRows, kCols,
                      nullptr);
  ggml_backend_tensor_set(w, bytes.data(), 0, bytes.size());
  Host::Set(x, Random(kCols * 3, 2));
  std::vector<Floats> results;
  for (const int32_t activations :
       {RANKFORGE_ACTIVATIONS_DEFAULT, RANKFORGE_ACTIVATIONS_I8,
        RANKFORGE_ACTIVATIONS_F32}) {
    options.activations = activations;
    layers.push_back(Linear::Make(context, w, options).value());
    Host run(1);
    ggml_tensor* y = layers.back()->Build(run.context(), x).value();
    run.Allocate();
    results.push_back(run.Run(y));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_NE(results[0], results[2]);
  for (size_t i = 0; i < results[0].size(); ++i) {
    EXPECT_NEAR(results[0][i], results[2][i], 2) << i;
  }
  options.activations = RANKFORGE_ACTIVATIONS_BF16;
  EXPECT_FALSE(Linear::Make(context, w, options));
}

TEST(Ggml, RoundingIsTold) {
  const rf::Context context = OneThread();
  Host weights(1);
  ggml_tensor* w = weights.Matrix(kCols, kRows, GGML_TYPE_Q8_0);
  weights.Allocate();
  const Floats values = Random(kRows * kCols, 1);
  std::vector<std::byte> bytes(ggml_nbytes(w));
  ggml_quantize_chunk(w->type, values.data(), bytes.data(), 0, kRows, kCols,
                      nullptr);
  ggml_backend_tensor_set(w, bytes.data(), 0, bytes.size());
  LinearOptions options;
  EXPECT_EQ(Linear::Make(context, w, options).value()->quantization_error(), 0);
  // Groups lie along columns there, those of ggml along rows.
  options.operation = RANKFORGE_COLUMN_MASK;
  const double error =
      Linear::Make(context, w, options).value()->quantization_error();
  EXPECT_GT(error, 0.0005);
  EXPECT_LT(error, 0.02);
}

// B, A and thresholds of 40 ranks.
struct Adapter {
  static constexpr size_t kRanks = 40;
  Floats b = Random(kRanks * kCols, 5);
  Floats a = Random(kRanks * kRows, 6);  // (ranks, rows)
  Floats taus = Floats(kRanks, 12.0f);
  rf::Context context = OneThread();

  rf::Source SourceOfA() const {
    rf::Source source(a.data(), kRows, kRanks);
    source.transposed = 1;
    return source;
  }
  std::unique_ptr<Linear> B() const {
    const rf::Source source(b.data(), kRanks, kCols);
    LinearOptions options;
    options.weight_type = RANKFORGE_BF16;
    return Linear::Make(context, {&source, 1}, options).value();
  }
  std::unique_ptr<Linear> A() const {
    const rf::Source source = SourceOfA();
    LinearOptions options;
    options.operation = RANKFORGE_COLUMN_MASK;
    options.weight_type = RANKFORGE_BF16;
    options.rule.taus = taus;
    return Linear::Make(context, {&source, 1}, options).value();
  }
  // What the plan of the C library makes of it.
  Floats Call(const Floats& x) const {
    const rf::Problem first(RANKFORGE_DENSE, kRanks, kCols, RANKFORGE_BF16);
    const rf::Problem second(RANKFORGE_COLUMN_MASK, kRows, kRanks,
                             RANKFORGE_BF16);
    const rf::Weights packed_b =
        rf::Weights::Pack(context, first, rf::Source(b.data(), kRanks, kCols))
            .value();
    const rf::Weights packed_a =
        rf::Weights::Pack(context, second, SourceOfA()).value();
    rf::Mask rule = rf::Mask::Threshold(0);
    rule.taus = taus.data();
    rf::RankAdapter adapter;
    adapter.b = packed_b.get();
    adapter.a = packed_a.get();
    adapter.rule = &rule;
    const rf::Plan plan = rf::Plan::Of(context, adapter).value();
    return Called(plan, kRows, kCols, x);
  }
};

TEST(Ggml, RankAdaptersHaveTheBitsOfTheirPlan) {
  const Adapter adapter;
  const auto b = adapter.B(), a = adapter.A();
  for (const size_t tokens : {size_t{1}, size_t{18}}) {
    Host host(2);
    ggml_tensor* x = host.Matrix(kCols, tokens);
    ggml_tensor* y =
        rf::ggml::BuildRankAdapter(host.context(), *b, *a, x).value();
    host.Allocate();
    const Floats values = Random(tokens * kCols, 7);
    Host::Set(x, values);
    ExpectSame(host.Run(y), adapter.Call(values), "y");
  }
  EXPECT_GT(a->density(), 0.1);
  EXPECT_LT(a->density(), 0.9);
  EXPECT_FALSE(rf::ggml::BuildRankAdapter(nullptr, *b, *b, nullptr));
}

// Rows of x that do not follow each other, and more than two dimensions.
TEST(Ggml, InputsMayBeViews) {
  const Adapter adapter;
  const auto b = adapter.B();
  Host host(2);
  ggml_tensor* all = ggml_new_tensor_3d(host.context(), GGML_TYPE_F32,
                                        static_cast<int64_t>(kCols), 6, 2);
  ggml_tensor* x =
      ggml_view_3d(host.context(), all, static_cast<int64_t>(kCols), 3, 2,
                   2 * all->nb[1], all->nb[2], all->nb[1]);
  ggml_tensor* y = b->Build(host.context(), x).value();
  host.Allocate();
  const Floats values = Random(12 * kCols, 8);
  Host::Set(all, values);
  const Floats got = host.Run(y);
  Floats seen;
  for (const size_t token : {1u, 3u, 5u, 7u, 9u, 11u}) {
    seen.insert(seen.end(), values.begin() + token * kCols,
                values.begin() + (token + 1) * kCols);
  }
  const rf::Problem problem(RANKFORGE_DENSE, Adapter::kRanks, kCols,
                            RANKFORGE_BF16);
  const rf::Weights weights =
      rf::Weights::Pack(adapter.context, problem,
                        rf::Source(adapter.b.data(), Adapter::kRanks, kCols))
          .value();
  const rf::Plan plan =
      rf::Plan::Gemv(adapter.context, problem, weights).value();
  ExpectSame(got, Called(plan, Adapter::kRanks, kCols, seen), "y");
}

TEST(Ggml, TopKKeepsK) {
  const Adapter adapter;
  const rf::Source source = adapter.SourceOfA();
  LinearOptions options;
  options.operation = RANKFORGE_COLUMN_MASK;
  options.weight_type = RANKFORGE_F32;
  options.rule.kind = RANKFORGE_MASK_TOP_K;
  options.rule.k = 10;
  const auto a = Linear::Make(adapter.context, {&source, 1}, options).value();
  Host host(2);
  ggml_tensor* x = host.Matrix(Adapter::kRanks, 3);
  ggml_tensor* y = a->Build(host.context(), x).value();
  host.Allocate();
  Host::Set(x, Random(3 * Adapter::kRanks, 9));
  host.Run(y);
  EXPECT_EQ(a->density(), 0.25);
}

TEST(Ggml, WhatDoesNotFitIsAnError) {
  const Adapter adapter;
  const auto b = adapter.B();
  Host host(1);
  ggml_tensor* narrow = host.Matrix(kCols - 1, 1);
  ggml_tensor* half = host.Matrix(kCols, 1, GGML_TYPE_F16);
  ggml_tensor* x = host.Matrix(kCols, 2);
  ggml_tensor* other = host.Matrix(Adapter::kRanks, 1);
  ggml_tensor* turned = ggml_transpose(host.context(), host.Matrix(2, kCols));
  const auto message = [&](ggml_tensor* input, ggml_tensor* score) {
    const auto built = b->Build(host.context(), input, score);
    return built ? std::string("built") : built.error().message;
  };
  EXPECT_NE(message(narrow, nullptr).find("255 values"), std::string::npos);
  EXPECT_NE(message(half, nullptr).find("not f32"), std::string::npos);
  EXPECT_NE(message(turned, nullptr).find("contiguous"), std::string::npos);
  EXPECT_NE(message(x, other).find("other tokens"), std::string::npos);
  EXPECT_NE(message(x, host.Matrix(Adapter::kRanks, 2)).find("no row mask"),
            std::string::npos);
  // Without memory, with three dimensions, and of a type that is no weight.
  EXPECT_FALSE(rf::ggml::SourceOf(x));
  EXPECT_FALSE(rf::ggml::SourceOf(
      ggml_new_tensor_3d(host.context(), GGML_TYPE_F32, 32, 2, 2)));
  LinearOptions options;
  options.operation = RANKFORGE_COLUMN_MASK;
  options.rule.taus = Floats(3);
  const rf::Source source = adapter.SourceOfA();
  EXPECT_FALSE(Linear::Make(adapter.context, {&source, 1}, options));
  options.rule.taus.clear();
  options.rule.kind = RANKFORGE_MASK_BITS;
  EXPECT_FALSE(Linear::Make(adapter.context, {&source, 1}, options));
  EXPECT_FALSE(Linear::Make(adapter.context, rf::Span<const rf::Source>()));
}

// A graph as llama.cpp makes one: q, k and v of one input, a layer after them,
// run by a scheduler that shows its nodes.
class PatchedGraph {
 public:
  explicit PatchedGraph(size_t tokens) : host_(2) {
    const ggml_backend_t backend = host_.backend();
    for (size_t i = 0; i < 2; ++i) {
      w_[i] = host_.Matrix(kCols, kRows / 2);
      ggml_format_name(w_[i], "w%zu", i);
    }
    host_.Allocate();
    Host::Set(w_[0], Random(kRows / 2 * kCols, 11));
    Host::Set(w_[1], Random(kRows / 2 * kCols, 12));
    graph_context_ = ggml_init(
        {32 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true});
    x_ = ggml_new_tensor_2d(graph_context_, GGML_TYPE_F32,
                            static_cast<int64_t>(kCols),
                            static_cast<int64_t>(tokens));
    ggml_set_input(x_);
    graph_ = ggml_new_graph(graph_context_);
    for (size_t i = 0; i < 2; ++i) {
      y_[i] = ggml_scale(graph_context_,
                         ggml_mul_mat(graph_context_, w_[i], x_), 2);
      ggml_set_output(y_[i]);
    }
    // The second one first.
    ggml_build_forward_expand(graph_, y_[1]);
    ggml_build_forward_expand(graph_, y_[0]);
    ggml_backend_t backends[] = {backend};
    scheduler_ = ggml_backend_sched_new(backends, nullptr, 1, 64, false, false);
    ggml_backend_sched_alloc_graph(scheduler_, graph_);
  }
  ~PatchedGraph() {
    ggml_backend_sched_free(scheduler_);
    ggml_free(graph_context_);
  }

  void Patch(rf::ggml::GraphPatch& patch) {
    ggml_backend_sched_set_eval_callback(scheduler_,
                                         rf::ggml::GraphPatch::Visit, &patch);
  }
  std::array<Floats, 2> Run(const Floats& x) {
    Host::Set(x_, x);
    EXPECT_EQ(ggml_backend_sched_graph_compute(scheduler_, graph_),
              GGML_STATUS_SUCCESS);
    return {Host::Values(y_[0]), Host::Values(y_[1])};
  }

 private:
  Host host_;
  ggml_context* graph_context_;
  std::array<ggml_tensor*, 2> w_, y_;
  ggml_tensor* x_;
  ggml_cgraph* graph_;
  ggml_backend_sched_t scheduler_;
};

// An adapter whose rows are those of both layers, the second in another order.
rf::ggml::PatchedLayers LayersOf(const Adapter& adapter) {
  rf::ggml::PatchedLayers projection;
  projection.rows = kRows;
  projection.cols = kCols;
  projection.ranks = Adapter::kRanks;
  projection.first.push_back({adapter.B(), 0, 0, true});
  projection.second.push_back({adapter.A(), 0, 0, false});
  std::vector<size_t> turned(kRows / 2);
  std::iota(turned.rbegin(), turned.rend(), kRows / 2);
  projection.members.push_back({"w0", 0, kRows / 2, {}});
  projection.members.push_back({"w1", 0, kRows / 2, turned});
  return projection;
}

TEST(GraphPatch, PutsAdaptersInPlaceOfProducts) {
  const Adapter adapter;
  for (const size_t tokens : {size_t{1}, size_t{19}}) {
    rf::ggml::GraphPatch patch;
    patch.Add(LayersOf(adapter)).value();
    EXPECT_EQ(patch.Unseen(), (std::vector<std::string>{"w0", "w1"}));
    PatchedGraph graph(tokens);
    graph.Patch(patch);
    // The same graph again: it has the operations already.
    for (const unsigned seed : {21u, 22u, 23u}) {
      const Floats x = Random(tokens * kCols, seed);
      const auto got = graph.Run(x);
      const Floats all = adapter.Call(x);
      for (size_t t = 0; t < tokens; ++t) {
        for (size_t i = 0; i < kRows / 2; ++i) {
          const size_t at = t * kRows / 2 + i;
          ASSERT_EQ(got[0][at], 2 * all[t * kRows + i]);
          ASSERT_EQ(got[1][at], 2 * all[(t + 1) * kRows - 1 - i]);
        }
      }
    }
    EXPECT_EQ(patch.error(), "");
    EXPECT_EQ(patch.Unseen(), std::vector<std::string>{});
  }
}

TEST(GraphPatch, OneMemberWritesItsOutputs) {
  const Adapter adapter;
  const rf::Source source(adapter.a.data(), kRows / 2, kCols / 8);
  LinearOptions options;
  options.operation = RANKFORGE_COLUMN_MASK;
  options.rule.tau = 0.7f;
  rf::ggml::PatchedLayers projection;
  projection.rows = kRows / 2;
  projection.cols = kCols;
  rf::ggml::PatchedLayers::Step step;
  step.linear = Linear::Make(adapter.context, {&source, 1}, options).value();
  step.input = 64;  // a slice of x
  projection.first.push_back(std::move(step));
  projection.members.push_back({"w1", 0, kRows / 2, {}});
  rf::ggml::GraphPatch patch;
  patch.Add(std::move(projection)).value();
  PatchedGraph graph(2), plain(2);
  graph.Patch(patch);
  const Floats x = Random(2 * kCols, 31);
  const auto got = graph.Run(x), dense = plain.Run(x);
  ExpectSame(got[0], dense[0], "the layer that nobody replaces");
  rf::Problem problem(RANKFORGE_COLUMN_MASK, kRows / 2, kCols / 8,
                      RANKFORGE_F32);
  const rf::Weights weights =
      rf::Weights::Pack(adapter.context, problem, source).value();
  const rf::Plan plan =
      rf::Plan::Gemv(adapter.context, problem, weights).value();
  Floats slices;
  for (const size_t t : {0u, 1u}) {
    slices.insert(slices.end(), x.begin() + t * kCols + 64,
                  x.begin() + t * kCols + 96);
  }
  Floats expected = Called(plan, kRows / 2, kCols / 8, slices,
                           [](size_t) { return rf::Mask::Threshold(0.7f); });
  for (float& value : expected) value *= 2;
  ExpectSame(got[1], expected, "the layer that is replaced");
}

TEST(GraphPatch, OtherShapesAreLeftAndTold) {
  const Adapter adapter;
  rf::ggml::PatchedLayers narrow = LayersOf(adapter);
  narrow.members.pop_back();
  narrow.members[0].rows = 3;
  rf::ggml::GraphPatch patch;
  patch.Add(std::move(narrow)).value();
  EXPECT_FALSE(patch.Add(LayersOf(adapter)));  // w0 again
  PatchedGraph graph(1), plain(1);
  graph.Patch(patch);
  const Floats x = Random(kCols, 41);
  ExpectSame(graph.Run(x)[0], plain.Run(x)[0], "a layer of another shape");
  EXPECT_NE(patch.error().find("w0"), std::string::npos);
  rf::ggml::PatchedLayers outside = LayersOf(adapter);
  outside.members[0].begin = kRows / 2 + 1;
  rf::ggml::GraphPatch other;
  EXPECT_FALSE(other.Add(std::move(outside)));
  EXPECT_FALSE(other.Add({}));
}

}  // namespace
