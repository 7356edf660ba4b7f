#include "bench/peers/peers.h"

#include <algorithm>
#include <cstring>

#include "meta/variants.h"

namespace rankforge {
namespace {

#ifdef RANKFORGE_PEER_EIGEN
constexpr PeerOffer* kEigen = OfferEigen;
#else
constexpr PeerOffer* kEigen = nullptr;
#endif
#ifdef RANKFORGE_PEER_ONEDNN
constexpr PeerOffer* kOneDnn = OfferOneDnn;
#else
constexpr PeerOffer* kOneDnn = nullptr;
#endif
#ifdef RANKFORGE_PEER_GGML
constexpr PeerOffer* kGgml = OfferGgml;
#else
constexpr PeerOffer* kGgml = nullptr;
#endif

std::vector<PageBuffer> FloatCopies(size_t copies, size_t count,
                                    const float* values) {
  std::vector<PageBuffer> all;
  for (size_t i = 0; i < copies; ++i) {
    all.emplace_back(count * sizeof(float));
    std::memcpy(all.back().data(), values, count * sizeof(float));
  }
  return all;
}

// (cols, rows) of a (rows, cols) matrix.
std::vector<float> Transposed(std::span<const float> weights, size_t rows,
                              size_t cols) {
  std::vector<float> transposed(weights.size());
  // A line of 16 rows at a time: one row would write a line for each weight.
  for (size_t begin = 0; begin < rows; begin += 16) {
    const size_t end = std::min(begin + 16, rows);
    for (size_t col = 0; col < cols; ++col) {
      for (size_t row = begin; row < end; ++row) {
        transposed[col * rows + row] = weights[row * cols + col];
      }
    }
  }
  return transposed;
}

std::vector<double> Expected(const PeerGroup& group, Operation operation,
                             const GemvInput& input) {
  const MaskView& mask = input.mask();
  const std::vector<float>& x = input.x();
  std::vector<double> column(group.cols(), 0.0);
  std::vector<double> row(group.rows(), 1.0);
  if (operation == Operation::kColumnMask) {
    for (size_t k = 0; k < mask.kept; ++k)
      column[mask.index[k]] = mask.value[k];
  } else {
    std::copy_n(x.begin(), column.size(), column.begin());
  }
  if (operation == Operation::kRowMask) {
    std::ranges::fill(row, 0.0);
    for (size_t k = 0; k < mask.kept; ++k) row[mask.index[k]] = 1;
  }
  std::vector<double> y(group.rows());
  for (size_t i = 0; i < y.size(); ++i) {
    const float* w = &group.weights()[i * group.cols()];
    double sum = 0;
    for (size_t j = 0; j < column.size(); ++j) sum += w[j] * column[j];
    y[i] = row[i] * sum;
  }
  return y;
}

}  // namespace

PeerGroup::PeerGroup(size_t rows, size_t cols, WeightType type, size_t threads,
                     std::span<const float> weights, double least_density,
                     bool cached)
    : rows_(rows),
      cols_(cols),
      type_(type),
      weights_(weights.first(rows * cols)),
      least_density_(least_density),
      cached_(cached),
      executor_(MakeDefaultExecutor(threads)) {}

size_t PeerGroup::Copies(size_t bytes) const {
  const double touched = least_density_ * static_cast<double>(bytes);
  return CopiesFor(std::max<size_t>(static_cast<size_t>(touched), 1), cached_);
}

const std::vector<PageBuffer>& PeerGroup::ByRow() {
  if (by_row_.empty()) {
    by_row_ = FloatCopies(Copies(weights_.size_bytes()), weights_.size(),
                          weights_.data());
  }
  return by_row_;
}

const std::vector<PageBuffer>& PeerGroup::ByColumn() {
  if (by_column_.empty()) {
    by_column_ = FloatCopies(Copies(weights_.size_bytes()), weights_.size(),
                             Transposed(weights_, rows_, cols_).data());
  }
  return by_column_;
}

const std::vector<PackedMatrix>& PeerGroup::Packed(Layout layout) {
  std::vector<PackedMatrix>& packed = packed_[layout];
  if (packed.empty()) {
    const SourceMatrix source{weights_.data(), SourceMatrix::Type::kF32, rows_,
                              cols_, false};
    PackedMatrix matrix =
        PackedMatrix::Pack({&source, 1}, type_, layout).value();
    const size_t copies = Copies(matrix.bytes());
    packed = CopiesOf(std::move(matrix), copies);
  }
  return packed;
}

Problem PeerProblem(Operation operation, size_t rows, size_t cols,
                    WeightType type, size_t threads, bool exact) {
  const Activations activations =
      exact ? Activations::kF32
            : ActivationsFor(operation, type, DefaultActivations(type));
  return {operation, rows, cols, type, 1, 1, threads, activations};
}

PeerProduct::PeerProduct(const PeerGroup& group, Operation operation,
                         double share, bool exact)
    : problem(PeerProblem(operation, group.rows(), group.cols(), group.type(),
                          group.threads(), exact)),
      density(share),
      input(problem, density),
      expected(Expected(group, operation, input)) {}

std::span<const Peer> Peers() {
  static constexpr Peer kPeers[] = {
      {"OpenBLAS", "apt-get install libopenblas-dev", OfferOpenBlas},
      {"BLIS", "apt-get install libblis-dev", OfferBlis},
      {"Eigen", "apt-get install libeigen3-dev and configure again", kEigen},
      {"oneDNN",
       "apt-get install libdnnl-dev ocl-icd-opencl-dev and configure again",
       kOneDnn},
      {"ggml", "configure with -Dggml_DIR=, where ggml-config.cmake is", kGgml},
  };
  return kPeers;
}

}  // namespace rankforge
