// Linear layers of RankForge as nodes of a ggml graph: dense, row mask, column
// mask, and rank adapters. ggml's own threads compute them, each its share.
//
//   rf::ContextOptions one;  one.threads = 1;  // threads are ggml's
//   rf::Context context = rf::Context::Create(one).value();
//   rf::ggml::LinearOptions options;
//   options.operation = RANKFORGE_COLUMN_MASK;
//   options.rule.tau = 0.8f;
//   auto down = rf::ggml::Linear::Make(context, w_down, options).value();
//   ggml_tensor* y = down->Build(graph_context, x).value();
//
// It needs ggml.h and rankforge.hpp alone, and C++17: compile it with the ggml
// of your program, whose structs differ between versions.
#ifndef RANKFORGE_INTEGRATIONS_GGML_LINEAR_H_
#define RANKFORGE_INTEGRATIONS_GGML_LINEAR_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <rankforge/rankforge.hpp>
#include <string>
#include <vector>

struct ggml_context;
struct ggml_tensor;

namespace rankforge {
namespace ggml {

// Which channels take part. The default keeps |s_j| >= 0: all but NaN.
struct Rule {
  int32_t kind = RANKFORGE_MASK_THRESHOLD;  // or RANKFORGE_MASK_TOP_K
  float tau = 0;
  std::vector<float> taus;  // (channels,), or empty: tau for all
  size_t k = 0;             // TOP_K
};

// The weight type that loses nothing of the source, or least.
inline constexpr int32_t kStoredType = -1;

struct LinearOptions {
  int32_t operation = RANKFORGE_DENSE;  // as rankforge_problem
  int32_t weight_type = kStoredType;
  // Where rankforge_weights_adopt takes the rows, they are not copied: the
  // source must then outlive the layer.
  bool in_place = true;
  int32_t activations = RANKFORGE_ACTIVATIONS_DEFAULT;  // as rankforge_problem
  // Most tokens that read each weight once, 1 to RANKFORGE_MOST_TOKENS, where
  // activations are exact. Longer inputs run in several turns. 1 makes use of
  // tables, which have no entries for several tokens.
  uint32_t tokens = RANKFORGE_MOST_TOKENS;
  Rule rule;  // of masked operations
};

// A matrix (rows, cols) of ggml: tensor->ne is (cols, rows). Errors: more
// dimensions, a type that is not read, data that is not in the memory of the
// CPU or in another order there (a repacked buffer).
Result<Source> SourceOf(const ggml_tensor* tensor);

// Floats of several tokens: token t at data + t * stride.
template <class Float>
struct TokenRows {
  Float* data = nullptr;
  size_t stride = 0;
};

// y = w @ x, with a mask over x (COLUMN_MASK) or over y (ROW_MASK). Shared by
// any number of graphs and threads. It must outlive the graphs that it is in.
class Linear {
 public:
  // `sources` are stacked, as rankforge_weights_pack has them.
  static Result<std::unique_ptr<Linear>> Make(const Context& context,
                                              Span<const Source> sources,
                                              const LinearOptions& options = {},
                                              const Table& table = {});
  static Result<std::unique_ptr<Linear>> Make(const Context& context,
                                              const ggml_tensor* w,
                                              const LinearOptions& options = {},
                                              const Table& table = {});

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  bool in_place() const { return info_.adopted != 0; }
  // Of rounding weights to integers, relative (rankforge_weights_info).
  double quantization_error() const { return info_.quantization_error; }
  // The share of channels that tokens have kept so far; 1 before the first.
  double density() const;

  // A node for y (rows, tokens, ...) of x (cols, tokens, ...), in f32. Rows of
  // x are contiguous. `score` is what a row mask judges, (rows, tokens, ...)
  // likewise, and null elsewhere. Errors: another shape or type.
  Result<ggml_tensor*> Build(ggml_context* graph, ggml_tensor* x,
                             ggml_tensor* score = nullptr);

  // Share `share` of `shares` of what a node does, for operations of your own:
  // every share of a product must run. `score.data` is null but for row masks.
  void RunShare(TokenRows<const float> x, TokenRows<const float> score,
                TokenRows<float> y, size_t tokens, size_t share, size_t shares);

  // Nodes cannot fail. One that does (memory runs out) sets y to NaN; this is
  // the first reason, and empty as long as there is none.
  std::string error() const;

 private:
  Linear(Plan plan, const rankforge_weights_info& info,
         const LinearOptions& options);
  static void Compute(ggml_tensor* y, int thread, int threads, void* linear);
  Mask MaskFor(const float* score) const;
  rankforge_status RunTurn(const RunArgs& args, TokenRows<const float> score,
                           size_t share, size_t shares);
  void Fail(TokenRows<float> y, size_t tokens, const char* reason);

  Plan plan_;
  rankforge_weights_info info_;
  LinearOptions options_;
  size_t rows_, cols_, scratch_bytes_ = 0;
  std::atomic<uint64_t> kept_{0}, judged_{0};
  mutable std::mutex failing_;
  std::string error_;
};

// y = A (m(z) * z), z = B x, as two nodes: `a` is a column mask whose rule is
// m, `b` is dense.
Result<ggml_tensor*> BuildRankAdapter(ggml_context* graph, Linear& b, Linear& a,
                                      ggml_tensor* x);

}  // namespace ggml
}  // namespace rankforge

#endif  // RANKFORGE_INTEGRATIONS_GGML_LINEAR_H_
