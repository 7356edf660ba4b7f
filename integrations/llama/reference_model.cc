#include "integrations/llama/reference_model.h"

#include <optional>
#include <utility>

#include "runtime/model/format/adapter.h"
#include "runtime/model/format/checkpoint.h"
#include "runtime/model/forward/model.h"
#include "runtime/model/weights/adapter_weights.h"
#include "runtime/model/weights/modules.h"
#include "runtime/table/dispatch.h"

namespace rankforge::llama {
namespace {

class Reference final : public ReferenceModel {
 public:
  Status Load(const std::string& gguf, const std::string& adapter,
              WeightType type, size_t positions) {
    RANKFORGE_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(gguf));
    checkpoint_.emplace(std::move(checkpoint));
    if (!adapter.empty()) {
      RANKFORGE_ASSIGN_OR_RETURN(
          Adapter loaded,
          LoadAdapterOf(*checkpoint_, adapter, AdapterParts::kAll));
      RANKFORGE_RETURN_IF_ERROR(CheckAdapter(checkpoint_->config(), loaded));
      adapter_.emplace(std::move(loaded));
    }
    const Adapter* used = adapter_ ? &*adapter_ : nullptr;
    weights_.emplace(*checkpoint_, used);
    ModelOptions options;
    options.type = type;
    RANKFORGE_ASSIGN_OR_RETURN(
        Model model,
        Model::Create(checkpoint_->config(), *weights_, used,
                      Dispatcher(nullptr), options, MakeSerialExecutor()));
    model_.emplace(std::move(model));
    RANKFORGE_ASSIGN_OR_RETURN(KvCache cache, model_->NewCache(positions));
    cache_.emplace(std::move(cache));
    return {};
  }

  std::vector<float> Next(int token) override {
    std::vector<float> logits(checkpoint_->config().vocab);
    if (!model_->Forward({&token, 1}, *cache_, logits).ok()) return {};
    return logits;
  }

 private:
  std::optional<Checkpoint> checkpoint_;
  std::optional<Adapter> adapter_;
  std::optional<AdapterWeights> weights_;
  std::optional<Model> model_;
  std::optional<KvCache> cache_;
};

}  // namespace

std::unique_ptr<ReferenceModel> ReferenceModel::Open(const std::string& gguf,
                                                     const std::string& adapter,
                                                     const std::string& type,
                                                     size_t positions,
                                                     std::string* error) {
  const std::optional<WeightType> stored = FromName(kWeightTypes, type);
  if (!stored) {
    *error = "'" + type + "' is no weight type";
    return nullptr;
  }
  auto model = std::make_unique<Reference>();
  const Status loaded = model->Load(gguf, adapter, *stored, positions);
  if (!loaded.ok()) {
    *error = loaded.message();
    return nullptr;
  }
  return model;
}

}  // namespace rankforge::llama
