#include "integrations/ggml/graph_patch.h"

#include <ggml-backend.h>
#include <ggml.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <utility>

namespace rankforge {
namespace ggml {
namespace {

Error Bad(std::string message) {
  return {RANKFORGE_ERROR_ARGUMENT, std::move(message)};
}

// ggml keeps the function of an operation in a struct of its own: taken from an
// operation that ggml made.
struct CustomOperation {
  ggml_op op;
  std::array<int32_t, GGML_MAX_OP_PARAMS / sizeof(int32_t)> params;
};

CustomOperation MakeOperation(ggml_custom_op_t function, void* data) {
  const ggml_init_params memory = {4 * ggml_tensor_overhead(), nullptr, true};
  const std::unique_ptr<ggml_context, void (*)(ggml_context*)> context(
      ggml_init(memory), ggml_free);
  ggml_tensor* input = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 1);
  const ggml_tensor* made =
      ggml_custom_4d(context.get(), GGML_TYPE_F32, 1, 1, 1, 1, &input, 1,
                     function, GGML_N_TASKS_MAX, data);
  CustomOperation operation;
  operation.op = made->op;
  std::memcpy(operation.params.data(), made->op_params,
              sizeof(made->op_params));
  return operation;
}

bool InMemory(const ggml_tensor* tensor) {
  return tensor->buffer == nullptr ||
         ggml_backend_buffer_is_host(tensor->buffer);
}

// Where neighbouring shares begin.
size_t Begin(size_t count, size_t share, size_t shares) {
  return count * share / shares;
}

}  // namespace

void SpinBarrier::Wait(size_t threads) {
  if (threads == 1) return;
  const size_t turn = turn_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
    arrived_.store(0, std::memory_order_relaxed);
    turn_.store(turn + 1, std::memory_order_release);
    return;
  }
  // Where other programs have the CPUs, the last one may be long in coming.
  constexpr size_t kSpins = 20000;
  for (size_t spins = 0; turn_.load(std::memory_order_acquire) == turn;
       ++spins) {
    if (spins > kSpins) sched_yield();
  }
}

// A projection with what its nodes share.
class GraphPatch::Layer {
 public:
  explicit Layer(PatchedLayers projection) : parts_(std::move(projection)) {}

  const PatchedLayers& parts() const { return parts_; }
  // Results of the first node, which the other members take theirs from.
  // Called on the thread that computes graphs, while none runs.
  void Reserve(size_t tokens) {
    if (values_.size() < tokens * parts_.rows) {
      values_.resize(tokens * parts_.rows);
    }
    if (ranks_.size() < tokens * parts_.ranks) {
      ranks_.resize(tokens * parts_.ranks);
    }
  }
  // A node of a graph that is about to run, in its order. The first one
  // computes for all. False if another one reads another x.
  bool Meet(const PatchedLayers::Member* member, const ggml_tensor* x) {
    if (met_.empty() || met_.count(member) != 0) {  // the next graph
      met_.clear();
      x_ = x;
    }
    if (x != x_) return false;
    if (met_.empty()) leader_ = member;
    met_.insert(member);
    return true;
  }
  const PatchedLayers::Member* leader() const { return leader_; }
  // Whether the only member's outputs are y as it is.
  bool writes_in_place() const {
    return parts_.members.size() == 1 && parts_.members[0].order.empty();
  }

  // All of y, or this thread's share of it. Every thread must call.
  void Run(const ggml_tensor* x, ggml_tensor* y, size_t share, size_t shares) {
    const TokenRows<const float> input = {static_cast<const float*>(x->data),
                                          x->nb[1] / sizeof(float)};
    TokenRows<float> output = {values_.data(), parts_.rows};
    if (writes_in_place()) {
      output = {static_cast<float*>(y->data), y->nb[1] / sizeof(float)};
    }
    const TokenRows<float> ranks = {ranks_.data(), parts_.ranks};
    const auto tokens = static_cast<size_t>(x->ne[1]);
    RunSteps(parts_.first, input, output, ranks, tokens, share, shares);
    if (parts_.second.empty()) return;
    barrier_.Wait(shares);
    RunSteps(parts_.second, {ranks.data, ranks.stride}, output, ranks, tokens,
             share, shares);
  }
  void Wait(size_t shares) { barrier_.Wait(shares); }

  void Copy(const PatchedLayers::Member& member, ggml_tensor* y, size_t share,
            size_t shares) const {
    const size_t end = Begin(member.rows, share + 1, shares);
    for (int64_t t = 0; t < y->ne[1]; ++t) {
      const float* from = values_.data() + static_cast<size_t>(t) * parts_.rows;
      auto* to = reinterpret_cast<float*>(static_cast<char*>(y->data) +
                                          static_cast<size_t>(t) * y->nb[1]);
      for (size_t i = Begin(member.rows, share, shares); i < end; ++i) {
        to[i] = from[member.order.empty() ? member.begin + i : member.order[i]];
      }
    }
  }

  std::string error() const {
    for (const auto* steps : {&parts_.first, &parts_.second}) {
      for (const PatchedLayers::Step& step : *steps) {
        std::string error = step.linear->error();
        if (!error.empty()) return error;
      }
    }
    return "";
  }

 private:
  static void RunSteps(const std::vector<PatchedLayers::Step>& steps,
                       TokenRows<const float> input, TokenRows<float> output,
                       TokenRows<float> ranks, size_t tokens, size_t share,
                       size_t shares) {
    for (const PatchedLayers::Step& step : steps) {
      const TokenRows<float>& to = step.to_ranks ? ranks : output;
      step.linear->RunShare({input.data + step.input, input.stride}, {},
                            {to.data + step.output, to.stride}, tokens, share,
                            shares);
    }
  }

  PatchedLayers parts_;
  SpinBarrier barrier_;
  std::set<const PatchedLayers::Member*> met_;
  const PatchedLayers::Member* leader_ = nullptr;
  const ggml_tensor* x_ = nullptr;
  std::vector<float> values_;  // (tokens, rows)
  std::vector<float> ranks_;   // (tokens, ranks)
};

// What a node of a graph computes.
struct GraphPatch::Node {
  Layer* layer;
  const PatchedLayers::Member* member;
  CustomOperation operation;
  bool seen = false;
};

GraphPatch::GraphPatch() = default;
GraphPatch::~GraphPatch() = default;

namespace {

Result<void> CheckSteps(const std::vector<PatchedLayers::Step>& steps,
                        size_t inputs, const PatchedLayers& whole) {
  for (const PatchedLayers::Step& step : steps) {
    const size_t outputs = step.to_ranks ? whole.ranks : whole.rows;
    if (step.linear == nullptr || step.input + step.linear->cols() > inputs ||
        step.output + step.linear->rows() > outputs) {
      return Bad("projection of '" + whole.members[0].weights +
                 "': a product is out of its range");
    }
  }
  return {};
}

Result<void> CheckMember(const PatchedLayers::Member& member, size_t rows) {
  const bool listed = member.order.empty()
                          ? member.begin + member.rows <= rows
                          : member.order.size() == member.rows &&
                                *std::max_element(member.order.begin(),
                                                  member.order.end()) < rows;
  if (!listed || member.rows == 0) {
    return Bad("'" + member.weights + "': its outputs are none of the " +
               std::to_string(rows) + " of the projection");
  }
  return {};
}

}  // namespace

Result<void> GraphPatch::Add(PatchedLayers projection) {
  if (projection.members.empty()) return Bad("projection: has no members");
  Result<void> checked =
      CheckSteps(projection.first, projection.cols, projection);
  if (checked) {
    checked = CheckSteps(projection.second, projection.ranks, projection);
  }
  for (const PatchedLayers::Member& member : projection.members) {
    if (checked) checked = CheckMember(member, projection.rows);
    if (checked && nodes_.count(member.weights) != 0) {
      checked = Bad("'" + member.weights + "': has a projection already");
    }
  }
  if (!checked) return checked;
  layers_.push_back(std::make_unique<Layer>(std::move(projection)));
  Layer& layer = *layers_.back();
  for (const PatchedLayers::Member& member : layer.parts().members) {
    auto node = std::make_unique<Node>();
    node->layer = &layer;
    node->member = &member;
    node->operation = MakeOperation(Compute, node.get());
    nodes_.emplace(member.weights, std::move(node));
  }
  return {};
}

bool GraphPatch::Visit(ggml_tensor* node, bool ask, void* patch) {
  if (ask && node->src[0] != nullptr &&
      (node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_CUSTOM)) {
    static_cast<GraphPatch*>(patch)->Replace(node);
  }
  return false;
}

// A graph that runs again has the operation already, but may meet projections
// that have to grow.
void GraphPatch::Replace(ggml_tensor* node) {
  const auto found = nodes_.find(node->src[0]->name);
  if (found == nodes_.end()) return;
  Node& known = *found->second;
  const bool ours = std::memcmp(node->op_params, known.operation.params.data(),
                                sizeof(node->op_params)) == 0;
  if (node->op == GGML_OP_CUSTOM && !ours) return;
  const ggml_tensor* x = node->src[1];
  const PatchedLayers& parts = known.layer->parts();
  const bool fits = x->type == GGML_TYPE_F32 && node->type == GGML_TYPE_F32 &&
                    static_cast<size_t>(x->ne[0]) == parts.cols &&
                    static_cast<size_t>(node->ne[0]) == known.member->rows &&
                    x->ne[2] == 1 && x->ne[3] == 1 &&
                    x->nb[0] == sizeof(float) && node->nb[0] == sizeof(float) &&
                    InMemory(x) && InMemory(node) &&
                    known.layer->Meet(known.member, x);
  if (!fits) {
    const std::lock_guard<std::mutex> lock(reporting_);
    if (error_.empty()) {
      error_ =
          found->first + ": its node has another input, shape, type or memory";
    }
    return;
  }
  known.layer->Reserve(static_cast<size_t>(x->ne[1]));
  node->op = known.operation.op;
  std::memcpy(node->op_params, known.operation.params.data(),
              sizeof(node->op_params));
  known.seen = true;
}

void GraphPatch::Compute(ggml_tensor* y, int thread, int threads, void* node) {
  const Node& self = *static_cast<const Node*>(node);
  Layer& layer = *self.layer;
  const auto share = static_cast<size_t>(thread);
  const auto shares = static_cast<size_t>(threads);
  if (self.member == layer.leader()) {
    layer.Run(y->src[1], y, share, shares);
    if (layer.writes_in_place()) return;
    layer.Wait(shares);
  }
  layer.Copy(*self.member, y, share, shares);
}

std::vector<std::string> GraphPatch::Unseen() const {
  std::vector<std::string> names;
  for (const auto& [name, node] : nodes_) {
    if (!node->seen) names.push_back(name);
  }
  return names;
}

std::string GraphPatch::error() const {
  {
    const std::lock_guard<std::mutex> lock(reporting_);
    if (!error_.empty()) return error_;
  }
  for (const auto& layer : layers_) {
    std::string error = layer->error();
    if (!error.empty()) return error;
  }
  return "";
}

}  // namespace ggml
}  // namespace rankforge
