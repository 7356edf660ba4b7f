// What a node of a ggml graph costs beside the product that it computes: both
// in turn, many times, one thread. Usage: ggml_overhead [ROWS COLS [TURNS]]
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "integrations/ggml/linear.h"

namespace {

namespace rf = rankforge;
using Clock = std::chrono::steady_clock;

struct Layer {
  Layer(size_t rows, size_t cols)
      : weights(rows * cols, 0.01f), x(cols, 1.0f), y(rows) {
    rf::ContextOptions one;
    one.threads = 1;
    context = rf::Context::Create(one).value();
    rf::Problem problem(RANKFORGE_DENSE, rows, cols, RANKFORGE_BF16);
    const rf::Source source(weights.data(), rows, cols);
    packed = rf::Weights::Pack(context, problem, source).value();
    plan = rf::Plan::Gemv(context, problem, packed).value();
    rf::ggml::LinearOptions options;
    options.weight_type = RANKFORGE_BF16;
    options.tokens = 1;
    linear = rf::ggml::Linear::Make(context, {&source, 1}, options).value();
  }

  std::vector<float> weights, x, y;
  rf::Context context;
  rf::Weights packed;
  rf::Plan plan;
  std::unique_ptr<rf::ggml::Linear> linear;
};

double Microseconds(Clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

double Median(std::vector<double>& times) {
  std::nth_element(times.begin(), times.begin() + times.size() / 2,
                   times.end());
  return times[times.size() / 2];
}

// A graph of `nodes` products that do not depend on each other: the time of one
// more node is that of a node, without that of starting a graph.
class Graph {
 public:
  Graph(Layer& layer, size_t nodes) : backend_(ggml_backend_cpu_init()) {
    ggml_backend_cpu_set_n_threads(backend_, 1);
    context_ =
        ggml_init({(nodes + 2) * ggml_tensor_overhead() + ggml_graph_overhead(),
                   nullptr, true});
    ggml_tensor* x = ggml_new_tensor_1d(context_, GGML_TYPE_F32,
                                        static_cast<int64_t>(layer.x.size()));
    graph_ = ggml_new_graph(context_);
    for (size_t i = 0; i < nodes; ++i) {
      ggml_build_forward_expand(graph_,
                                layer.linear->Build(context_, x).value());
    }
    buffer_ = ggml_backend_alloc_ctx_tensors(context_, backend_);
    ggml_backend_tensor_set(x, layer.x.data(), 0,
                            layer.x.size() * sizeof(float));
  }
  ~Graph() {
    ggml_backend_buffer_free(buffer_);
    ggml_free(context_);
    ggml_backend_free(backend_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void Run() { ggml_backend_graph_compute(backend_, graph_); }

 private:
  ggml_backend_t backend_;
  ggml_context* context_;
  ggml_cgraph* graph_;
  ggml_backend_buffer_t buffer_;
};

}  // namespace

int main(int argc, char** argv) {
  const size_t rows = argc > 2 ? std::strtoull(argv[1], nullptr, 10) : 1024;
  const size_t cols = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 2816;
  const size_t turns = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 2000;
  constexpr size_t kNodes = 16;
  Layer layer(rows, cols);
  Graph graph(layer, kNodes);
  rf::Scratch scratch = layer.plan.MakeScratch().value();
  std::vector<double> nodes, calls;
  for (size_t turn = 0; turn < turns; ++turn) {
    const auto begin = Clock::now();
    graph.Run();
    const auto between = Clock::now();
    for (size_t i = 0; i < kNodes; ++i) {
      layer.plan.Run(layer.x, layer.y, scratch).value();
    }
    nodes.push_back(Microseconds(between - begin) / kNodes);
    calls.push_back(Microseconds(Clock::now() - between) / kNodes);
  }
  const double node = Median(nodes), call = Median(calls);
  std::printf(
      "%zu x %zu, bf16, one thread, medians of %zu: call %.2f us, "
      "node %.2f us, overhead %.2f us\n",
      rows, cols, turns, call, node, node - call);
  return 0;
}
