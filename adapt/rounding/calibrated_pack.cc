#include "adapt/rounding/calibrated_pack.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "adapt/calibrate/calibration.h"
#include "adapt/calibrate/load_weights.h"
#include "adapt/forms/rank_basis.h"
#include "adapt/rounding/round_matrix.h"
#include "adapt/rounding/rounded_weights.h"
#include "base/content_hash.h"
#include "runtime/model/forward/norm.h"
#include "runtime/model/forward/projection.h"
#include "runtime/model/weights/adapter_weights.h"
#include "runtime/model/weights/folded_weights.h"
#include "runtime/model/weights/modules.h"
#include "runtime/threads/parallel.h"

namespace rankforge {
namespace {

TensorNames NamesOf(const ProductSpec& product) {
  TensorNames names;
  for (const TensorShape& tensor : product.tensors) {
    names.push_back(tensor.name);
  }
  return names;
}

// x (tokens, cols) with zeros where the mask drops a value.
Matrix<float> Masked(const Matrix<float>& x, const MaskSpec& mask,
                     Executor& executor) {
  const std::vector<float> tau = ThresholdsOf(mask, 1);
  Matrix<float> kept(x.rows, mask.cols);
  ParallelFor(executor, x.rows, [&](size_t token, size_t) {
    const float* const from = x.row(token) + mask.offset;
    for (size_t j = 0; j < mask.cols; ++j) {
      kept.row(token)[j] = std::fabs(from[j]) >= tau[j] ? from[j] : 0;
    }
  });
  return kept;
}

// What a product reads, (tokens, cols) each.
struct ProductInputs {
  Matrix<float> exact;    // in the model before its weights are rounded
  Matrix<float> rounded;  // with all earlier weights rounded
};

// a - b, (tokens, width).
Matrix<float> Difference(const Matrix<float>& a, const Matrix<float>& b) {
  Matrix<float> difference(a.rows, a.cols);
  std::ranges::transform(a.values, b.values, difference.values.begin(),
                         std::minus());
  return difference;
}

// A model before rounding and the same model with its weights so far rounded,
// on one text.
struct Stream {
  Model& model;
  const WeightSource& weights;
  Calibration calibration;
};

// Rounds the products of a model in the order in which it runs them.
class ModelRounder {
 public:
  // `shapes` is the adapter without its matrices, or null. `exact` has the
  // weights before they are rounded; what is rounded is added to `weights`, of
  // which `rounded` is made. All must outlive this object.
  ModelRounder(const Adapter* shapes, const std::vector<PackRequest>& requests,
               Stream& exact, Stream& rounded, RoundedWeights& weights)
      : shapes_(shapes),
        exact_(exact),
        rounded_(rounded),
        executor_(exact.model.executor()),
        weights_(weights) {
    for (const PackRequest& request : requests) {
      requests_[request.names] = &request;
    }
  }

  // `progress` is called with the number of blocks done.
  Status Run(const std::function<void(size_t done)>& progress) {
    const ModelConfig& config = exact_.model.config();
    const ModelSpec spec = DescribeModel(config, shapes_);
    for (size_t layer = 0; layer < spec.blocks.size(); ++layer) {
      progress(layer);
      RANKFORGE_RETURN_IF_ERROR(RoundBlock(spec.blocks[layer], layer));
      for (const Stream* stream : {&exact_, &rounded_}) {
        RANKFORGE_RETURN_IF_ERROR(stream->model.CheckFinite());
      }
    }
    progress(spec.blocks.size());
    RANKFORGE_ASSIGN_OR_RETURN(const Norm norm,
                               Norm::Load(spec.final_norm, config, weights_));
    ProductInputs inputs = {exact_.calibration.hidden(),
                            rounded_.calibration.hidden()};
    for (Matrix<float>* x : {&inputs.exact, &inputs.rounded}) {
      ParallelFor(executor_, x->rows, [&](size_t token, size_t) {
        norm.Run(x->row(token), x->row(token));
      });
    }
    return Round({&spec.lm_head}, inputs, nullptr);
  }

 private:
  const PackRequest& RequestOf(const ProductSpec& product) const {
    return *requests_.at(NamesOf(product));
  }
  bool IsRounded(const ProductSpec& product) const {
    return IsRoundable(RequestOf(product).type);
  }

  // What the stream lacks of what it is in the exact model.
  Matrix<float> Missing() const {
    return Difference(exact_.calibration.hidden(),
                      rounded_.calibration.hidden());
  }

  Status RoundBlock(const BlockSpec& spec, size_t layer) {
    if (spec.enter) {
      RANKFORGE_RETURN_IF_ERROR(
          Round({&spec.enter->direct.front()},
                {exact_.calibration.hidden(), rounded_.calibration.hidden()},
                nullptr));
    }
    if (spec.leave) RANKFORGE_RETURN_IF_ERROR(RoundLeave(*spec.leave));
    for (Stream* stream : {&exact_, &rounded_}) {
      RANKFORGE_RETURN_IF_ERROR(
          stream->model.AdaptBlock(layer, stream->weights, shapes_));
    }
    ProductInputs x = {exact_.calibration.First(),
                       rounded_.calibration.First()};
    for (const Site site : kSites) {
      const NormSpec& behind = site == Site::kAttentionOutput
                                   ? spec.attention_out_norm
                                   : spec.mlp_out_norm;
      // A norm behind the product is in the way.
      if (ReadsStream(site) || !behind.weight.empty()) {
        RANKFORGE_RETURN_IF_ERROR(RoundProjection(spec[site], x, nullptr));
      } else {
        const Matrix<float> missing = Missing();
        RANKFORGE_RETURN_IF_ERROR(RoundProjection(spec[site], x, &missing));
      }
      RANKFORGE_RETURN_IF_ERROR(
          rounded_.model.AdaptSite(layer, site, weights_, shapes_));
      x = {exact_.calibration.Next(site, x.exact),
           rounded_.calibration.Next(site, x.rounded)};
    }
    exact_.model.DropBlock(layer);
    rounded_.model.DropBlock(layer);
    return {};
  }

  // Nothing hands out what it reads.
  Status RoundLeave(const ProjectionSpec& spec) {
    const ProductSpec& leave = spec.direct.front();
    if (!IsRounded(leave)) return {};
    RANKFORGE_ASSIGN_OR_RETURN(
        const InputMoments inputs,
        InputMoments::Of(Matrix<double>(leave.cols(), leave.cols()),
                         executor_));
    RANKFORGE_ASSIGN_OR_RETURN(const Matrix<float> w,
                               LoadWeights(exact_.weights, leave.tensors));
    return RoundTo(leave, w, w, inputs);
  }

  // A projection that reads x. `missing` (tokens, rows): what its output should
  // make up for; null: nothing.
  Status RoundProjection(const ProjectionSpec& spec, const ProductInputs& x,
                         const Matrix<float>* missing) {
    std::vector<const ProductSpec*> direct;
    for (const ProductSpec& product : spec.direct) direct.push_back(&product);
    if (spec.input_mask) {
      return Round(direct, MaskedInputs(x, *spec.input_mask), missing);
    }
    RANKFORGE_RETURN_IF_ERROR(Round(direct, x, missing));
    if (!spec.b) return {};
    RANKFORGE_RETURN_IF_ERROR(Round({&*spec.b}, x, nullptr));
    ProductInputs z;
    for (const auto& [weights, from, to] :
         {std::tuple(&exact_.weights, &x.exact, &z.exact),
          std::tuple(&rounded_.weights, &x.rounded, &z.rounded)}) {
      RANKFORGE_ASSIGN_OR_RETURN(const Matrix<float> b,
                                 LoadWeights(*weights, spec.b->tensors));
      *to = Product(executor_, *from, Transposed(b));
    }
    for (size_t i = 0; i < spec.a.size(); ++i) {
      RANKFORGE_RETURN_IF_ERROR(
          Round({&spec.a[i]}, MaskedInputs(z, spec.rank_masks[i]), missing));
    }
    return {};
  }

  ProductInputs MaskedInputs(const ProductInputs& x, const MaskSpec& mask) {
    return {Masked(x.exact, mask, executor_),
            Masked(x.rounded, mask, executor_)};
  }

  // Products that read x. `missing` (tokens, rows) is of all that their
  // projection writes.
  Status Round(const std::vector<const ProductSpec*>& products,
               const ProductInputs& x, const Matrix<float>* missing) {
    if (std::ranges::none_of(products, [&](const auto* product) {
          return IsRounded(*product);
        })) {
      return {};
    }
    RANKFORGE_ASSIGN_OR_RETURN(
        const InputMoments inputs,
        InputMoments::Of(SecondMoments(x.rounded, executor_), executor_));
    const Matrix<float> lost = Narrow(
        CrossMoments(Difference(x.exact, x.rounded), x.rounded, executor_));
    for (const ProductSpec* product : products) {
      if (!IsRounded(*product)) continue;
      RANKFORGE_ASSIGN_OR_RETURN(const Matrix<float> w,
                                 LoadWeights(exact_.weights, product->tensors));
      Matrix<float> wanted = Product(executor_, w, lost);
      if (missing != nullptr) {
        const Matrix<float> rows = MatrixOf<float>(MatrixView(*missing).Columns(
            product->output_offset, product->rows()));
        const Matrix<double> more = CrossMoments(rows, x.rounded, executor_);
        for (size_t i = 0; i < wanted.values.size(); ++i) {
          wanted.values[i] += static_cast<float>(more.values[i]);
        }
      }
      RANKFORGE_RETURN_IF_ERROR(RoundTo(
          *product, w, Corrected(w, wanted, inputs, executor_), inputs));
    }
    return {};
  }

  // Adds the product of weights w (rows, cols), rounded so that it computes
  // what `target` does.
  Status RoundTo(const ProductSpec& product, const Matrix<float>& w,
                 const Matrix<float>& target, const InputMoments& inputs) {
    const PackRequest& request = RequestOf(product);
    // Finds weights that are not finite or too large, too.
    RANKFORGE_ASSIGN_OR_RETURN(
        PackedMatrix nearest,
        exact_.weights.Pack(request.names, request.rows, request.cols,
                            request.type, request.layout));
    if (nearest.quantization_error().error == 0) {
      weights_.Add(request.names, std::move(nearest));
      return {};
    }
    Result<PackedMatrix> rounded =
        RoundMatrix(w, target, inputs, request.type, request.layout, executor_);
    if (!rounded.ok()) {
      return Failed(fmt::format("tensor '{}': {}", request.names.front(),
                                rounded.status().message()));
    }
    weights_.Add(request.names, std::move(rounded).value());
    return {};
  }

  const Adapter* shapes_;
  Stream& exact_;
  Stream& rounded_;
  Executor& executor_;
  RoundedWeights& weights_;
  std::map<TensorNames, const PackRequest*> requests_;
};

// The model of a stream, whose blocks are packed when they run. In f32, which
// holds what integers stand for. Its lm_head is not used.
Result<Model> MakeModel(const ModelConfig& config, const WeightSource& weights,
                        const Adapter* shapes,
                        const std::shared_ptr<Executor>& executor) {
  return Model::Create(config, weights, shapes, Dispatcher(nullptr),
                       {.type = WeightType::kF32,
                        .lm_head_type = WeightType::kBf16,
                        .threads = executor->threads(),
                        .blocks_on_demand = true},
                       executor);
}

Status CheckTypes(const std::vector<PackRequest>& requests,
                  const ModelOptions& options) {
  if (options.stored_types != nullptr && !options.stored_types->chosen) {
    return UsageError(
        "--calibration: weights of the type 'stored' keep the values of the "
        "file, there is nothing to choose; name a type such as i4_group32");
  }
  if (std::ranges::any_of(requests, [](const PackRequest& request) {
        return IsRoundable(request.type);
      })) {
    return {};
  }
  if (options.stored_types != nullptr) {
    return UsageError(
        "--calibration: none of the types that were chosen has groups of "
        "integers; leave it out");
  }
  std::string types;
  for (const WeightFormat& format : kWeightFormats) {
    if (!IsRoundable(format.value)) continue;
    types += (types.empty() ? "" : ", ") + std::string(format.name);
  }
  return UsageError(
      fmt::format("--calibration: --dtype {} and --lm-head-dtype {} have no "
                  "groups of integers to choose; use {}, or leave it out",
                  Name(options.type), Name(options.lm_head_type), types));
}

Status CheckSample(const ModelConfig& config, const RoundingSample& sample) {
  if (sample.window <= config.max_positions) return {};
  return UsageError(fmt::format(
      "calibration windows of {} tokens: the model has {} positions; use a "
      "smaller --window",
      sample.window, config.max_positions));
}

}  // namespace

Result<CalibratedPackSummary> WriteCalibratedPack(
    const ModelConfig& config, const WeightSource& base, const Adapter* adapter,
    const Dispatcher& dispatcher, const ModelOptions& options,
    const RoundingSample& sample, const PackOrigin& origin,
    const std::string& path,
    const std::function<void(size_t done, size_t total, const char* what)>&
        progress) {
  RANKFORGE_RETURN_IF_ERROR(CheckSample(config, sample));
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<PackRequest> requests,
      PackRequests(config, base, adapter, dispatcher, options));
  RANKFORGE_RETURN_IF_ERROR(CheckTypes(requests, options));
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<int> ids,
      SampleWindows(sample.ids, sample.window, sample.tokens, sample.seed));

  const AdapterWeights adapted(base, adapter);
  const FoldedWeights folded(config, adapted, adapter);
  RoundedWeights weights(folded);
  std::optional<Adapter> shapes;
  if (adapter != nullptr) shapes = WithoutMatrices(*adapter);
  const Adapter* const bare = shapes ? &*shapes : nullptr;
  const RoundedWeights unrounded(folded);
  {
    const std::shared_ptr<Executor> executor =
        MakeDefaultExecutor(options.threads);
    RANKFORGE_ASSIGN_OR_RETURN(Model exact,
                               MakeModel(config, unrounded, bare, executor));
    RANKFORGE_ASSIGN_OR_RETURN(Model rounded,
                               MakeModel(config, weights, bare, executor));
    RANKFORGE_ASSIGN_OR_RETURN(Calibration of_exact,
                               Calibration::Start(exact, ids, sample.window));
    RANKFORGE_ASSIGN_OR_RETURN(Calibration of_rounded,
                               Calibration::Start(rounded, ids, sample.window));
    Stream exact_stream = {exact, unrounded, std::move(of_exact)};
    Stream rounded_stream = {rounded, weights, std::move(of_rounded)};
    ModelRounder rounder(bare, requests, exact_stream, rounded_stream, weights);
    RANKFORGE_RETURN_IF_ERROR(rounder.Run(
        [&](size_t done) { progress(done, config.layers, "blocks"); }));
  }
  PackOrigin calibrated = origin;
  calibrated.calibration = fmt::format(
      "{} tokens, {}", ids.size(), HashBytes(std::as_bytes(std::span(ids))));
  RANKFORGE_ASSIGN_OR_RETURN(
      const PackSummary pack,
      WritePack(config, weights, bare, dispatcher, options, calibrated, path,
                [&](size_t done, size_t total) {
                  progress(done, total, "matrices");
                }));
  return CalibratedPackSummary{pack, ids.size()};
}

}  // namespace rankforge
