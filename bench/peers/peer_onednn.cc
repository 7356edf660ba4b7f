// oneDNN: its inner product of f32, bf16 and s8 weights, in the order that it
// prefers, where this CPU offers it (bf16 of 2.6 needs AVX-512).
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

#include "bench/peers/peers.h"
#include "kernels/numbers/bfloat16.h"

namespace rankforge {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;

// Threads of later parallel regions. By name: oneDNN brings the runtime along,
// which this program has no other use for.
bool SetThreads(size_t threads) {
  using Function = void(int);
  static auto* const set =
      reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (set != nullptr) set(static_cast<int>(threads));
  return set != nullptr;
}

// Of 7 bits: without VNNI it adds pairs of products in 16 bits, which saturate
// with weights of 8 (relative error of a random product .35).
constexpr float kLargestWeight = 63;
constexpr float kLargestInput = 127;

int8_t Quantized(float value, float scale) {
  return static_cast<int8_t>(std::lround(value / scale));
}

// The scale that brings the largest magnitude to `largest`.
float ScaleOf(const float* values, size_t count, float largest) {
  float magnitude = 1e-30f;
  for (size_t i = 0; i < count; ++i) {
    magnitude = std::max(magnitude, std::abs(values[i]));
  }
  return magnitude / largest;
}

memory::data_type StoredType(WeightType type) {
  if (type == WeightType::kF32) return memory::data_type::f32;
  return type == WeightType::kBf16 ? memory::data_type::bf16
                                   : memory::data_type::s8;
}

class OneDnnProduct {
 public:
  OneDnnProduct(PeerGroup& group, const std::vector<float>& x)
      : type_(group.type()),
        threads_(group.threads()),
        rows_(static_cast<memory::dim>(group.rows())),
        cols_(static_cast<memory::dim>(group.cols())),
        x_(x.begin(), x.begin() + cols_),
        y_(group.rows()),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_) {
    SetThreads(threads_);
    const memory::data_type stored = StoredType(type_);
    const memory::desc source({1, cols_}, stored, Tag::ab);
    const memory::desc target({1, rows_}, memory::data_type::f32, Tag::ab);
    dnnl::primitive_attr attributes;
    if (type_ == WeightType::kI8)
      attributes.set_output_scales(2, Scales(group));
    const dnnl::inner_product_forward::primitive_desc description(
        dnnl::inner_product_forward::desc(
            dnnl::prop_kind::forward_inference, source,
            memory::desc({rows_, cols_}, stored, Tag::any), target),
        attributes, engine_);
    product_ = dnnl::inner_product_forward(description);
    source_ = memory(source, engine_);
    target_ = memory(target, engine_, y_.data());
    StoreWeights(group, description.weights_desc());
  }

  const float* Run(size_t turn) {
    SetThreads(threads_);
    StoreInput();
    product_.execute(stream_,
                     {{DNNL_ARG_SRC, source_},
                      {DNNL_ARG_WEIGHTS, weights_[turn % weights_.size()]},
                      {DNNL_ARG_DST, target_}});
    stream_.wait();
    return y_.data();
  }

 private:
  // Of the sums of products of integers. The scale of x is found once, as
  // after a calibration: oneDNN wants it when the product is made.
  std::vector<float> Scales(const PeerGroup& group) {
    x_scale_ = ScaleOf(x_.data(), x_.size(), kLargestInput);
    for (size_t row = 0; row < group.rows(); ++row) {
      row_scales_.push_back(ScaleOf(&group.weights()[row * group.cols()],
                                    group.cols(), kLargestWeight));
    }
    std::vector<float> scales;
    for (const float scale : row_scales_) scales.push_back(scale * x_scale_);
    return scales;
  }

  void StoreInput() {
    void* out = source_.get_data_handle();
    if (type_ == WeightType::kF32) {
      std::memcpy(out, x_.data(), x_.size() * sizeof(float));
    } else if (type_ == WeightType::kBf16) {
      std::ranges::transform(x_, static_cast<uint16_t*>(out), ToBf16);
    } else {
      std::ranges::transform(x_, static_cast<int8_t*>(out), [&](float value) {
        return Quantized(value, x_scale_);
      });
    }
  }

  void StoreWeights(PeerGroup& group, const memory::desc& preferred) {
    memory plain({{rows_, cols_}, StoredType(type_), Tag::ab}, engine_);
    void* out = plain.get_data_handle();
    const std::span<const float> weights = group.weights();
    if (type_ == WeightType::kF32) {
      std::memcpy(out, weights.data(), weights.size_bytes());
    } else if (type_ == WeightType::kBf16) {
      std::ranges::transform(weights, static_cast<uint16_t*>(out), ToBf16);
    } else {
      for (size_t i = 0; i < weights.size(); ++i) {
        static_cast<int8_t*>(out)[i] =
            Quantized(weights[i], row_scales_[i / group.cols()]);
      }
    }
    const size_t bytes = preferred.get_size();
    for (size_t copy = 0; copy < group.Copies(bytes); ++copy) {
      storage_.emplace_back(bytes);
      weights_.emplace_back(preferred, engine_, storage_.back().data());
      if (copy > 0) {
        std::memcpy(storage_[copy].data(), storage_[0].data(), bytes);
      } else {
        dnnl::reorder(plain, weights_[0]).execute(stream_, plain, weights_[0]);
        stream_.wait();
      }
    }
  }

  WeightType type_;
  size_t threads_;
  memory::dim rows_;
  memory::dim cols_;
  std::vector<float> x_;
  std::vector<float> y_;
  float x_scale_ = 1;
  std::vector<float> row_scales_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::inner_product_forward product_;
  memory source_;
  memory target_;
  std::vector<PageBuffer> storage_;
  std::vector<memory> weights_;
};

}  // namespace

Status OfferOneDnn(PeerGroup& group, const PeerProduct& product,
                   std::vector<Contestant>& contestants) {
  const WeightType type = group.type();
  const bool has = type == WeightType::kF32 || type == WeightType::kBf16 ||
                   type == WeightType::kI8;
  if (!has || product.problem.operation != Operation::kDense) return {};
  if (!SetThreads(group.threads())) {
    return EnvironmentError(
        "it was built without OpenMP, nothing else is "
        "controlled here");
  }
  try {
    const auto made = std::make_shared<OneDnnProduct>(group, product.input.x());
    contestants.push_back({"onednn", "inner product, weights reordered",
                           [made](size_t turn) { return made->Run(turn); },
                           nullptr});
  } catch (const dnnl::error& error) {
    return EnvironmentError(fmt::format("no {} product on this CPU ({})",
                                        Name(type), error.what()));
  }
  return {};
}

}  // namespace rankforge
