#include "runtime/model/weights/adapter_weights.h"

#include <fmt/format.h>

namespace rankforge {

AdapterWeights::AdapterWeights(const WeightSource& base, const Adapter* adapter)
    : WeightsOver(base) {
  if (adapter == nullptr) return;
  for (const auto& [module, rank] : adapter->ranks) {
    if (!rank.a.empty()) {
      matrices_[module + ".rank.A"] = {.data = rank.a.data(),
                                       .rows = rank.rows,
                                       .cols = rank.d,
                                       .transposed = true};
    }
    if (!rank.b.empty()) {
      matrices_[module + ".rank.B"] = {
          .data = rank.b.data(), .rows = rank.d, .cols = rank.cols};
    }
  }
}

Result<PackedMatrix> AdapterWeights::Pack(std::span<const std::string> names,
                                          std::span<const size_t> rows,
                                          size_t cols, WeightType type,
                                          Layout layout) const {
  // All names of a product are of the same source, so the first one decides.
  if (!matrices_.contains(names.front())) {
    return base().Pack(names, rows, cols, type, layout);
  }
  std::vector<SourceMatrix> parts;
  for (size_t i = 0; i < names.size(); ++i) {
    const auto found = matrices_.find(names[i]);
    if (found == matrices_.end() || found->second.rows != rows[i] ||
        found->second.cols != cols) {
      return Failed(
          fmt::format("adapter: tensor '{}' is not there in shape "
                      "({}, {}); use an adapter made for this model",
                      names[i], rows[i], cols));
    }
    parts.push_back(found->second);
  }
  RANKFORGE_ASSIGN_OR_RETURN(PackedMatrix matrix,
                             PackedMatrix::Pack(parts, type, layout));
  for (size_t i = 0; !matrix.finite() && i < parts.size(); ++i) {
    RANKFORGE_RETURN_IF_ERROR(
        CheckWeights("adapter", names[i], parts[i], type));
  }
  return matrix;
}

}  // namespace rankforge
