// A ggml graph with one product of RankForge in it: y = w @ x, where inputs
// below a threshold count as 0. Prints how many inputs took part, and how far y
// is from ggml's own product of the same inputs.
//
//   g++ masked_graph.cc linear.cc $(pkg-config --cflags --libs rankforge ggml)
//
// linear.h and linear.cc are those of integrations/ggml.
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "integrations/ggml/linear.h"

namespace rf = rankforge;

namespace {

constexpr int64_t kRows = 1024, kCols = 2816;
constexpr float kTau = 0.8f;

std::vector<float> Random(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<float> Read(const ggml_tensor* tensor) {
  std::vector<float> values(static_cast<size_t>(ggml_nelements(tensor)));
  ggml_backend_tensor_get(tensor, values.data(), 0, ggml_nbytes(tensor));
  return values;
}

}  // namespace

int main() {
  ggml_backend_t backend = ggml_backend_cpu_init();
  ggml_context* graph_context =
      ggml_init({64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr,
                 /*no_alloc=*/true});
  ggml_tensor* w =
      ggml_new_tensor_2d(graph_context, GGML_TYPE_F32, kCols, kRows);
  ggml_tensor* x = ggml_new_tensor_1d(graph_context, GGML_TYPE_F32, kCols);
  ggml_tensor* dropped =  // x with zeros, for ggml's own product
      ggml_new_tensor_1d(graph_context, GGML_TYPE_F32, kCols);
  ggml_tensor* expected = ggml_mul_mat(graph_context, w, dropped);
  ggml_backend_buffer_t buffer =
      ggml_backend_alloc_ctx_tensors(graph_context, backend);
  const std::vector<float> weights = Random(kRows * kCols, 1);
  std::vector<float> inputs = Random(kCols, 2);
  ggml_backend_tensor_set(w, weights.data(), 0, ggml_nbytes(w));
  ggml_backend_tensor_set(x, inputs.data(), 0, ggml_nbytes(x));
  for (float& input : inputs) input = std::fabs(input) >= kTau ? input : 0;
  ggml_backend_tensor_set(dropped, inputs.data(), 0, ggml_nbytes(dropped));

  // Once per layer: the weights are packed for masked columns.
  rf::ContextOptions one;
  one.threads = 1;  // the threads are ggml's
  rf::Context context = rf::Context::Create(one).value();
  rf::ggml::LinearOptions options;
  options.operation = RANKFORGE_COLUMN_MASK;
  options.weight_type = RANKFORGE_F32;
  options.rule.tau = kTau;
  auto made = rf::ggml::Linear::Make(context, w, options);
  if (!made) {
    std::fprintf(stderr, "%s\n", made.error().message.c_str());
    return 1;
  }
  rf::ggml::Linear& linear = *made.value();

  // Once per graph: a node as any other.
  ggml_context* nodes =
      ggml_init({64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr,
                 /*no_alloc=*/true});
  ggml_tensor* y = linear.Build(nodes, x).value();
  ggml_backend_buffer_t outputs =
      ggml_backend_alloc_ctx_tensors(nodes, backend);
  ggml_cgraph* graph = ggml_new_graph(nodes);
  ggml_build_forward_expand(graph, y);
  ggml_build_forward_expand(graph, expected);
  ggml_backend_cpu_set_n_threads(backend, 2);
  const ggml_status status = ggml_backend_graph_compute(backend, graph);

  double error = 0, norm = 0;
  const std::vector<float> ours = Read(y), theirs = Read(expected);
  for (size_t r = 0; r < ours.size(); ++r) {
    error += std::pow(ours[r] - theirs[r], 2);
    norm += std::pow(theirs[r], 2);
  }
  error = std::sqrt(error / norm);
  std::printf("kept %.3f of the inputs; relative error %.1e %s\n",
              linear.density(), error, linear.error().c_str());
  ggml_backend_buffer_free(outputs);
  ggml_free(nodes);
  ggml_backend_buffer_free(buffer);
  ggml_free(graph_context);
  ggml_backend_free(backend);
  return status == GGML_STATUS_SUCCESS && error < 1e-5 ? 0 : 1;
}
