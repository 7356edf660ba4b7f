// ggml's mul_mat with one column, which is what llama.cpp decodes with, through
// its CPU backend: weights as they come from a file, and in the order that it
// repacks them to where it has one for this CPU.
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>
#include <sys/mman.h>

#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "bench/peers/peers.h"
#include "meta/packing.h"

namespace rankforge {
namespace {

std::optional<ggml_type> TypeInGgml(WeightType type) {
  constexpr std::array kTypes = {
      std::pair{WeightType::kF32, GGML_TYPE_F32},
      std::pair{WeightType::kBf16, GGML_TYPE_BF16},
      std::pair{WeightType::kF16, GGML_TYPE_F16},
      std::pair{WeightType::kI8Group32, GGML_TYPE_Q8_0},
      std::pair{WeightType::kI4Group32, GGML_TYPE_Q4_0}};
  for (const auto& pair : kTypes) {
    if (pair.first == type) return pair.second;
  }
  return std::nullopt;
}

template <auto Free>
struct Freed {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Context = std::unique_ptr<ggml_context, Freed<ggml_free>>;
using Buffer =
    std::unique_ptr<ggml_backend_buffer, Freed<ggml_backend_buffer_free>>;
using Backend = std::unique_ptr<ggml_backend, Freed<ggml_backend_free>>;
using Threads = std::unique_ptr<ggml_threadpool, Freed<ggml_threadpool_free>>;

Context MakeContext(size_t tensors) {
  return Context(ggml_init({tensors * (ggml_tensor_overhead() +
                                       ggml_graph_overhead_custom(4, false)),
                            nullptr, true}));
}

// Kinds of memory that hold weights: plain first.
std::vector<ggml_backend_buffer_type_t> WeightBuffers() {
  std::vector<ggml_backend_buffer_type_t> types = {
      ggml_backend_cpu_buffer_type()};
  const ggml_backend_reg_t registry = ggml_backend_cpu_reg();
  const auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
      ggml_backend_reg_get_proc_address(registry,
                                        "ggml_backend_dev_get_extra_bufts"));
  if (extra == nullptr) return types;
  for (auto* type = extra(ggml_backend_reg_dev_get(registry, 0));
       type != nullptr && *type != nullptr; ++type) {
    types.push_back(*type);
  }
  return types;
}

// 2 MiB pages, which everybody else's weights lie on; ggml asks for none.
void UseHugePages(ggml_backend_buffer* buffer) {
  const auto begin =
      RoundUp(reinterpret_cast<size_t>(ggml_backend_buffer_get_base(buffer)),
              kSmallPage);
  static_cast<void>(madvise(reinterpret_cast<void*>(begin),
                            ggml_backend_buffer_get_size(buffer),
                            MADV_HUGEPAGE));
}

class GgmlProduct {
 public:
  // Null where `kind` of memory has no order of its own for these weights.
  static std::shared_ptr<GgmlProduct> Make(PeerGroup& group, const float* x,
                                           ggml_type type,
                                           ggml_backend_buffer_type_t kind) {
    std::shared_ptr<GgmlProduct> product(new GgmlProduct);
    if (!product->Store(group, type, kind)) return nullptr;
    product->Plan(group, x);
    return product;
  }
  ~GgmlProduct() {
    for (ggml_backend_graph_plan_t plan : plans_) {
      ggml_backend_graph_plan_free(backend_.get(), plan);
    }
  }

  const float* Run(size_t turn) {
    const size_t copy = turn % plans_.size();
    ggml_backend_graph_plan_compute(backend_.get(), plans_[copy]);
    return ggml_get_data_f32(outputs_[copy]);
  }
  // Its threads poll for 0.1 s and more.
  void Rest() { ggml_threadpool_pause(threads_.get()); }

 private:
  GgmlProduct() = default;

  bool Store(PeerGroup& group, ggml_type type,
             ggml_backend_buffer_type_t kind) {
    const auto rows = static_cast<int64_t>(group.rows());
    const auto cols = static_cast<int64_t>(group.cols());
    const size_t bytes = ggml_row_size(type, cols) * group.rows();
    const size_t copies = group.Copies(bytes);
    weights_context_ = MakeContext(copies);
    for (size_t copy = 0; copy < copies; ++copy) {
      weights_.push_back(
          ggml_new_tensor_2d(weights_context_.get(), type, cols, rows));
    }
    weights_buffer_.reset(
        ggml_backend_alloc_ctx_tensors_from_buft(weights_context_.get(), kind));
    if (weights_buffer_ == nullptr) return false;
    // A tensor that will be repacked has its own functions in `extra`.
    const bool plain = kind == ggml_backend_cpu_buffer_type();
    if (!plain && weights_.front()->extra == nullptr) return false;
    UseHugePages(weights_buffer_.get());
    std::vector<std::byte> stored(bytes);
    ggml_quantize_chunk(type, group.weights().data(), stored.data(), 0, rows,
                        cols, nullptr);
    for (ggml_tensor* tensor : weights_) {
      ggml_backend_tensor_set(tensor, stored.data(), 0, bytes);
    }
    return true;
  }

  void Plan(PeerGroup& group, const float* x) {
    backend_.reset(ggml_backend_cpu_init());
    const int threads = static_cast<int>(group.threads());
    // No CPU masks: with them ggml pins the calling thread for good.
    ggml_threadpool_params parameters = ggml_threadpool_params_default(threads);
    threads_.reset(ggml_threadpool_new(&parameters));
    ggml_backend_cpu_set_n_threads(backend_.get(), threads);
    ggml_backend_cpu_set_threadpool(backend_.get(), threads_.get());

    context_ = MakeContext(4 + 2 * weights_.size());
    ggml_tensor* input = ggml_new_tensor_1d(context_.get(), GGML_TYPE_F32,
                                            static_cast<int64_t>(group.cols()));
    std::vector<ggml_cgraph*> graphs;
    for (ggml_tensor* weights : weights_) {
      outputs_.push_back(ggml_mul_mat(context_.get(), weights, input));
      graphs.push_back(ggml_new_graph_custom(context_.get(), 4, false));
      ggml_build_forward_expand(graphs.back(), outputs_.back());
    }
    buffer_.reset(ggml_backend_alloc_ctx_tensors_from_buft(
        context_.get(), ggml_backend_cpu_buffer_type()));
    ggml_backend_tensor_set(input, x, 0, group.cols() * sizeof(float));
    for (ggml_cgraph* graph : graphs) {
      plans_.push_back(ggml_backend_graph_plan_create(backend_.get(), graph));
    }
  }

  Context weights_context_;
  Buffer weights_buffer_;
  std::vector<ggml_tensor*> weights_;
  Context context_;
  Buffer buffer_;
  std::vector<ggml_tensor*> outputs_;  // by copy of the weights
  Threads threads_;
  Backend backend_;
  std::vector<ggml_backend_graph_plan_t> plans_;
};

}  // namespace

Status OfferGgml(PeerGroup& group, const PeerProduct& product,
                 std::vector<Contestant>& contestants) {
  const std::optional<ggml_type> type = TypeInGgml(group.type());
  if (!type || product.problem.operation != Operation::kDense) return {};
  if (group.cols() % static_cast<size_t>(ggml_blck_size(*type)) != 0) return {};
  // It would log every tensor that it repacks.
  ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  for (ggml_backend_buffer_type_t kind : WeightBuffers()) {
    const auto made =
        GgmlProduct::Make(group, product.input.x().data(), *type, kind);
    if (made == nullptr) continue;
    const bool plain = kind == ggml_backend_cpu_buffer_type();
    contestants.push_back({plain ? "ggml" : "ggml_repacked",
                           std::string("mul_mat, ") + ggml_type_name(*type) +
                               " in " + ggml_backend_buft_name(kind),
                           [made](size_t turn) { return made->Run(turn); },
                           [made] { made->Rest(); }});
  }
  return {};
}

}  // namespace rankforge
