// Linear layers of a graph that somebody else builds (llama.cpp), computed by
// RankForge.
//
// A graph of llama.cpp has no place for other operations, but its scheduler
// calls `cb_eval` for every node before it computes a graph, on the thread that
// computes. GraphPatch::Visit makes a node y = W x there into an operation of
// its own. It wants to see no result, so that the graph runs as a whole.
//
//   rf::ggml::GraphPatch patch;
//   patch.Add(std::move(projection));
//   params.cb_eval = rf::ggml::GraphPatch::Visit;  // llama_context_params
//   params.cb_eval_user_data = &patch;
//
// A patch serves one llama_context, on the CPU.
#ifndef RANKFORGE_INTEGRATIONS_GGML_GRAPH_PATCH_H_
#define RANKFORGE_INTEGRATIONS_GGML_GRAPH_PATCH_H_

#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <rankforge/rankforge.hpp>
#include <string>
#include <vector>

#include "integrations/ggml/linear.h"

struct ggml_tensor;

namespace rankforge {
namespace ggml {

// Holds threads until all of them have come. ggml runs all threads of an
// operation at the same time, as its own barriers need.
class SpinBarrier {
 public:
  void Wait(size_t threads);

 private:
  std::atomic<size_t> arrived_{0};
  std::atomic<size_t> turn_{0};
};

// Layers that read the same input x (cols,), stacked: q, k and v. Together they
// are y (rows,), in up to two steps: those of `first` read x and write y or z
// (ranks,); those of `second` read z and write y.
struct PatchedLayers {
  // One product. No two of one step write the same values.
  struct Step {
    std::unique_ptr<Linear> linear;  // no row mask
    size_t input = 0;                // where its inputs begin in x or z
    size_t output = 0;               // where its outputs begin in y or z
    bool to_ranks = false;           // of `first`: writes z
  };
  // A layer of the graph: the name of its weights ("blk.3.attn_q.weight"), and
  // its outputs. Value i of them is y[begin + i], or y[order[i]].
  struct Member {
    std::string weights;
    size_t begin = 0;
    size_t rows = 0;
    std::vector<size_t> order;
  };
  std::vector<Step> first;
  std::vector<Step> second;
  std::vector<Member> members;
  size_t rows = 0;
  size_t cols = 0;
  size_t ranks = 0;
};

class GraphPatch {
 public:
  GraphPatch();
  ~GraphPatch();
  GraphPatch(const GraphPatch&) = delete;
  GraphPatch& operator=(const GraphPatch&) = delete;

  // Errors: steps or members out of range, a name that another projection has.
  Result<void> Add(PatchedLayers projection);

  // A ggml_backend_sched_eval_callback, whose last argument is the patch.
  // Always false.
  static bool Visit(ggml_tensor* node, bool ask, void* patch);

  // Names of weights whose nodes no graph had so far.
  std::vector<std::string> Unseen() const;
  // The first reason why a node was left as it is, or why one failed.
  std::string error() const;

 private:
  class Layer;
  struct Node;

  void Replace(ggml_tensor* node);
  static void Compute(ggml_tensor* y, int thread, int threads, void* node);

  std::vector<std::unique_ptr<Layer>> layers_;
  std::map<std::string, std::unique_ptr<Node>> nodes_;  // by weights
  mutable std::mutex reporting_;
  std::string error_;
};

}  // namespace ggml
}  // namespace rankforge

#endif  // RANKFORGE_INTEGRATIONS_GGML_GRAPH_PATCH_H_
