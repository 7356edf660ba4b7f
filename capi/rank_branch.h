// A projection of a layer: W x, or a rank adapter A (m(z) * z) with z = B x.
#ifndef RANKFORGE_CAPI_RANK_BRANCH_H_
#define RANKFORGE_CAPI_RANK_BRANCH_H_

#include <optional>
#include <string>

#include "capi/plan.h"
#include "runtime/plan/rank_stages.h"

namespace rankforge::capi {

// What a caller gives, and its names in messages.
struct BranchWeights {
  const rankforge_weights* first;  // W or B
  const rankforge_weights* a;      // null: W alone
  const rankforge_mask* rule;
  const char* name;
  const char* a_name;
  const char* rule_name;
};

// Where the results of a run go.
struct BranchRun {
  float* z = nullptr;  // (tokens, ranks)
  GemvOutput output;
  size_t y_stride = 0;
};

class Branch {
 public:
  Branch(const Dispatcher& dispatcher, const BranchWeights& weights,
         size_t tokens, size_t threads, std::optional<Activations> activations);

  bool is_adapter() const { return second_.has_value(); }
  size_t rows() const { return is_adapter() ? second_->rows() : first_.rows(); }
  size_t cols() const { return first_.cols(); }
  size_t ranks() const { return first_.rows(); }  // of an adapter
  std::string Explain() const;

  // z of so many tokens.
  float* TakeRanks(ScratchCursor& memory, size_t tokens) const;
  // Those of A, where its output has several.
  PartialSums TakeSums(ScratchCursor& memory) const;
  // W x into the output, or B x into z.
  GemvCall First(const RunArgs& args, const BranchRun& run,
                 InputScratch& input) const;
  // The rest of an adapter, for one token.
  RankBranch Second(const BranchRun& run) const;
  // The rest of an adapter, for several tokens, after First has run.
  void RunSecond(const RunArgs& args, const BranchRun& run,
                 const TokenMasks& masks, Executor& executor,
                 bool reports = true) const;

 private:
  size_t RanksStride() const { return TokenStride(ranks()); }

  Product first_;
  std::optional<Product> second_;
  std::optional<OwnedRule> rule_;
};

}  // namespace rankforge::capi

#endif  // RANKFORGE_CAPI_RANK_BRANCH_H_
