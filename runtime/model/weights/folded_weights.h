// The weights of blocks that hold the residual stream in another basis, and of
// projections whose masks have gains.
#ifndef RANKFORGE_RUNTIME_MODEL_WEIGHTS_FOLDED_WEIGHTS_H_
#define RANKFORGE_RUNTIME_MODEL_WEIGHTS_FOLDED_WEIGHTS_H_

#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/model/format/adapter.h"
#include "runtime/model/format/config.h"
#include "runtime/model/weights/modules.h"
#include "runtime/model/weights/weights_over.h"

namespace rankforge {

// Answers for weights and biases that an adapter changes as its blocks need
// them, and for everything else from `base`.
//
// An input mask with a gain and a bias makes of W and b
//
//   W diag(gain), b + bias
//
// where gain is of inputs as the block reads them, rotated or not, and bias of
// outputs in the basis of h. A block whose group has the basis Q holds h' = Q^T
// h. With g and c, the weight and the bias of a norm:
//
//   weights that read its output       W diag(g) Q
//   biases of these                    b + W c
//   weights and biases of what is      Q^T P W, Q^T P b
//     added to h
//   out of basis Q into R              R^T Q
//   out of h into Q, and back          Q^T P, Q
//
// P takes the mean away where norms do (LayerNorm), and is I elsewhere. After
// it, a LayerNorm only divides by the root mean square, as an RMSNorm does,
// which every Q leaves alone (SliceGPT, arXiv 2401.15024). Of a rank adapter in
// place of W, B reads h' / rms(h') as it is, and A of what is added to h is
// that of h.
//
// Computed in f32 from what `base` has, and rounded once, to the type asked
// for. All of it is passed on to a `base` that HasPacked.
class FoldedWeights : public WeightsOver {
 public:
  // `adapter` (may be null) must fit the model (CheckAdapter), and outlive this
  // object, as `base` must.
  FoldedWeights(const ModelConfig& config, const WeightSource& base,
                const Adapter* adapter);

  Result<PackedMatrix> Pack(std::span<const std::string> names,
                            std::span<const size_t> rows, size_t cols,
                            WeightType type, Layout layout) const override;
  Result<std::vector<float>> Vector(const std::string& name,
                                    size_t n) const override;

 private:
  // What becomes of a tensor.
  struct Fold {
    const RotationGroup* reads = nullptr;  // the stream after `norm`
    const RotationGroup* writes = nullptr;
    NormSpec norm = {};
    const std::vector<float>* gain = nullptr;  // of the mask of its inputs
  };
  // Of a bias.
  struct BiasFold {
    Fold fold;
    TensorShape tensor;                 // beside it, if it reads
    bool stored = false;                // whether `base` has it
    std::span<const float> added = {};  // by a mask, to each of its values
  };
  using Turn = std::pair<const RotationGroup*, const RotationGroup*>;

  void AddRotated(const BlockSpec& dense, const BlockSpec& rotated,
                  const RotationGroup* group);
  void AddGains(const ProjectionSpec& projection, const InputMask& mask);
  Result<std::vector<float>> Factors(const NormSpec& norm) const;
  // Of the matrices `names`, stacked, in f32 and row-major.
  Result<std::vector<float>> Matrix(std::span<const std::string> names,
                                    std::span<const size_t> rows,
                                    size_t cols) const;
  Status ReadStream(const Fold& fold, size_t rows, float* w) const;
  void WriteStream(const RotationGroup& group, size_t cols, float* w) const;
  std::vector<float> TurnOf(const Turn& turn) const;
  Status CheckBases() const;
  Status AddNormBias(const BiasFold& bias, std::vector<float>& values) const;
  Status FoldMatrix(const Fold& fold, size_t rows, size_t cols, float* w) const;

  size_t hidden_;
  float norm_offset_;
  bool centred_;  // P is not I
  bool lacks_bases_ = false;
  std::map<std::string, Fold> matrices_;
  std::map<std::string, BiasFold> biases_;
  std::map<std::string, Turn> turns_;  // out of the first basis; null: h
  std::set<std::string> stored_;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_WEIGHTS_FOLDED_WEIGHTS_H_
