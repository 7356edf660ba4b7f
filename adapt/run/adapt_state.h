// How far a run of `adapt` has come: finished blocks, what the next one reads,
// and bases that are needed again. In memory, or in a folder from which a
// killed run goes on.
//
//   run.json               what tells the run apart; another one is refused
//   hidden.L.safetensors   method rana: what block L of the dense model reads
//   hidden.stream.safetensors, basis.stream.L.safetensors  method rotated: what
//                          the next block of the dense model reads; the basis
//                          of the group from block L on
//   survey.safetensors     methods rana and a3: the blocks surveyed so far
//   search.safetensors     method rana: the plans measured so far
//   gains.safetensors      method rana: the gains learned so far
//   basis.L.P.safetensors  A and B of projection P of block L
//   slopes.L.P.safetensors root mean square gradients at its inputs; P_turned:
//                          in a rotated block
//   fisher.L.S.safetensors method rana: second moments of the gradients at what
//                          block L reads at site S
//   trial.L.safetensors    method rana: block L of the plan measured last
//   block.N.L.safetensors  an adapter of block L alone, of attempt N
//   block.L.safetensors    method a3: the tensors of the smaller block L
//   place.safetensors      attempt and next block, and what it reads
//
// Files appear whole or not at all, place.safetensors last: a run goes on after
// what that file names. Each carries a hash of its values.
#ifndef RANKFORGE_ADAPT_RUN_ADAPT_STATE_H_
#define RANKFORGE_ADAPT_RUN_ADAPT_STATE_H_

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "adapt/forms/rank_basis.h"
#include "adapt/math/linear_algebra.h"
#include "adapt/run/options.h"
#include "base/status.h"
#include "runtime/model/format/adapter.h"

namespace rankforge {

// Matrices by name, and text.
struct Snapshot {
  std::map<std::string, Matrix<float>> matrices;
  std::string text;
};

class AdaptState {
 public:
  // In memory; forgotten with the process.
  AdaptState() = default;
  // In `folder`, which is made if it is not there. Errors: it is of another run
  // than `identity`, or it holds something else.
  static Result<AdaptState> Open(const std::string& folder,
                                 const AdaptIdentity& identity);

  // Whether matrices of finished blocks are in files instead of in memory.
  bool stored() const { return !folder_.empty(); }

  // Whether nothing has been saved in the folder.
  bool untouched() const;

  // In memory both do nothing: no run goes on from there.
  Status SaveSnapshot(const std::string& name, const Snapshot& snapshot) const;
  // None: it was not written yet.
  Result<std::optional<Snapshot>> LoadSnapshot(const std::string& name) const;

  // What this run needs again later: in memory or in a file.
  Status Keep(const std::string& name, Snapshot snapshot);
  // None: it was not kept.
  Result<std::optional<Snapshot>> Kept(const std::string& name) const;
  void Forget(const std::string& name);

  // The same for an adapter of a block.
  Status KeepBlock(const std::string& name, Adapter block);
  Result<Adapter> KeptBlock(const std::string& name,
                            const std::string& checkpoint_hash) const;

  // The basis of the projection with this module name.
  Status SaveBasis(size_t layer, const std::string& module,
                   const RankBasis& basis);
  Result<std::optional<RankBasis>> LoadBasis(size_t layer,
                                             const std::string& module) const;
  // The slopes of its inputs (LinearForms::SetSlopes). Empty: not saved.
  Status SaveSlopes(size_t layer, const std::string& module,
                    const std::vector<float>& slopes);
  Result<std::vector<float>> LoadSlopes(size_t layer,
                                        const std::string& module) const;

  // Saves a finished block and adds it to `adapter`, without the matrices of
  // its rank adapters if these are in a file.
  Status SaveBlock(size_t attempt, size_t layer, Adapter block,
                   Adapter& adapter);
  // A saved block with its matrices. It must be stored().
  Result<Adapter> Block(size_t attempt, size_t layer,
                        const std::string& checkpoint_hash) const;
  // Adds a saved block to `adapter`, without those matrices.
  Status LoadBlock(size_t attempt, size_t layer,
                   const std::string& checkpoint_hash, Adapter& adapter);

  // Writes `adapter`, whose blocks of `attempt` were saved, to `path`.
  Status WriteAdapter(size_t attempt, const Adapter& adapter,
                      const std::string& path) const;
  // Removes the files that only this run needed, and the folder if that empties
  // it.
  void Remove();

 private:
  std::string Path(const std::string& name) const;
  std::string BlockPath(size_t attempt, size_t layer) const;
  // Drops the matrices of a block's rank adapters, which its file holds.
  void LeaveMatrices(size_t layer, Adapter& block);

  std::string folder_;                    // empty: in memory
  std::map<std::string, Snapshot> kept_;  // in memory
  std::map<std::string, Adapter> kept_blocks_;
  std::map<std::string, size_t> layers_;  // of saved rank adapters, by module
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_RUN_ADAPT_STATE_H_
