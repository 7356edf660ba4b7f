#include "runtime/model/use/packed_weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <mutex>
#include <numeric>
#include <optional>
#include <string_view>
#include <utility>

#include "runtime/model/weights/adapter_weights.h"
#include "runtime/model/weights/folded_weights.h"
#include "runtime/threads/executor.h"
#include "runtime/threads/parallel.h"

namespace rankforge {

namespace {

constexpr std::string_view kOrWriteAgain =
    "or write the pack again with `rankforge pack`";

// Notes what a model asks for and gives it zeros, whose pages take no memory
// until they are touched.
class RequestRecorder : public WeightsOver {
 public:
  using WeightsOver::WeightsOver;

  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override {
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back({{names.begin(), names.end()},
                           {rows.begin(), rows.end()},
                           cols,
                           type,
                           layout});
    }
    return PackedMatrix::Zero(
        std::accumulate(rows.begin(), rows.end(), size_t{0}), cols, type,
        layout);
  }
  bool HasPacked() const override { return true; }
  const std::vector<PackRequest>& requests() const { return requests_; }

 private:
  mutable std::mutex mutex_;
  mutable std::vector<PackRequest> requests_;
};

}  // namespace

Adapter WithoutMatrices(Adapter adapter) {
  for (auto& [module, rank] : adapter.ranks) {
    rank.a.clear();
    rank.b.clear();
  }
  for (RotationGroup& group : adapter.rotation.groups) group.q.clear();
  return adapter;
}

// Asks the model itself and not its list of products, so that whatever it packs
// is in the file.
Result<std::vector<PackRequest>> PackRequests(const ModelConfig& config,
                                              const WeightSource& base,
                                              const Adapter* adapter,
                                              const Dispatcher& dispatcher,
                                              const ModelOptions& options) {
  // Without matrices, so that the model asks the recorder for them.
  std::optional<Adapter> shapes;
  if (adapter != nullptr) shapes = WithoutMatrices(*adapter);
  const RequestRecorder recorder(base);
  // On one thread, so that the model asks in the order of its layers.
  RANKFORGE_RETURN_IF_ERROR(
      Model::Create(config, recorder, shapes ? &*shapes : nullptr, dispatcher,
                    options, MakeDefaultExecutor(1))
          .status());
  return recorder.requests();
}

Result<PackedWeights> PackedWeights::Open(const std::string& path,
                                          const WeightSource& base,
                                          const PackOrigin& origin) {
  RANKFORGE_ASSIGN_OR_RETURN(PackFile file, PackFile::Open(path));
  const auto wrong = [&](std::string_view field, const std::string& made_from,
                         const std::string& here, std::string_view next) {
    const auto shown = [](const std::string& identity) {
      return identity.empty() ? "none" : identity;
    };
    return UsageError(fmt::format(
        "{}: field '{}' is {:.64}, here it is {}; {} that the pack was made "
        "from, {}",
        path, field, shown(made_from), shown(here), next, kOrWriteAgain));
  };
  const PackOrigin& made_from = file.origin();
  if (made_from.checkpoint != origin.checkpoint) {
    return wrong("checkpoint", made_from.checkpoint, origin.checkpoint,
                 "give the --model");
  }
  if (made_from.adapter != origin.adapter) {
    return wrong("adapter", made_from.adapter, origin.adapter,
                 made_from.adapter.empty()
                     ? "give no --adapter, as for the model"
                     : "give the --adapter");
  }
  return PackedWeights(std::move(file), base);
}

Result<PackedMatrix> PackedWeights::Pack(std::span<const std::string> names,
                                         std::span<const size_t> rows,
                                         size_t cols, WeightType type,
                                         Layout layout) const {
  const auto wrong = [&](const std::string& what) {
    return UsageError(fmt::format("{}: matrix '{}' {}, {}", file_.path(),
                                  fmt::join(names, "+"), what, kOrWriteAgain));
  };
  const auto found = file_.matrices().find({names.begin(), names.end()});
  if (found == file_.matrices().end()) {
    return wrong("is missing; use the build that wrote the pack");
  }
  const PackFile::Matrix& matrix = found->second;
  const size_t all_rows = std::accumulate(rows.begin(), rows.end(), size_t{0});
  if (matrix.rows != all_rows || matrix.cols != cols) {
    return wrong(fmt::format(
        "is {} x {}, the model's is {} x {}; give the --model of the pack",
        matrix.rows, matrix.cols, all_rows, cols));
  }
  if (matrix.type != type) {
    return wrong(fmt::format(
        "has 'type' {}, asked for is {}; give the --dtype and --lm-head-dtype, "
        "or the --optimized, of the pack",
        Name(matrix.type), Name(type)));
  }
  if (matrix.layout != layout) {
    return wrong(fmt::format(
        "has 'layout' {}, the table (or its absence) asks for {}; give the "
        "--table, --activations and --threads of the pack",
        Name(matrix.layout), Name(layout)));
  }
  return file_.Adopt(matrix);
}

Result<PackSummary> WritePack(
    const ModelConfig& config, const WeightSource& base, const Adapter* adapter,
    const Dispatcher& dispatcher, const ModelOptions& options,
    const PackOrigin& origin, const std::string& path,
    const std::function<void(size_t done, size_t total)>& progress) {
  RANKFORGE_ASSIGN_OR_RETURN(PackWriter writer,
                             PackWriter::Create(path, origin));
  RANKFORGE_ASSIGN_OR_RETURN(
      const std::vector<PackRequest> requests,
      PackRequests(config, base, adapter, dispatcher, options));
  const AdapterWeights adapted(base, adapter);
  const FoldedWeights weights(config, adapted, adapter);
  const auto executor = MakeDefaultExecutor(options.threads);
  PackSummary summary;
  // As many matrices at a time as there are threads to pack them.
  std::vector<std::optional<Result<PackedMatrix>>> packed(executor->threads());
  while (summary.matrices < requests.size()) {
    progress(summary.matrices, requests.size());
    const size_t count =
        std::min(packed.size(), requests.size() - summary.matrices);
    ParallelFor(*executor, count, [&](size_t item, size_t) {
      const PackRequest& request = requests[summary.matrices + item];
      packed[item] = weights.Pack(request.names, request.rows, request.cols,
                                  request.type, request.layout);
    });
    for (size_t item = 0; item < count; ++item) {
      RANKFORGE_ASSIGN_OR_RETURN(const PackedMatrix matrix,
                                 *std::move(packed[item]));
      RANKFORGE_RETURN_IF_ERROR(
          writer.Append(requests[summary.matrices].names, matrix));
      summary.bytes += matrix.bytes();
      ++summary.matrices;
    }
  }
  progress(summary.matrices, requests.size());
  RANKFORGE_RETURN_IF_ERROR(writer.Commit());
  return summary;
}

}  // namespace rankforge
