// The line search of a rank adapter: how many ranks d to compute for a budget,
// and how many of them to keep.
#ifndef RANKFORGE_ADAPT_FORMS_RANK_SEARCH_H_
#define RANKFORGE_ADAPT_FORMS_RANK_SEARCH_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "adapt/forms/cost_model.h"
#include "adapt/math/linear_algebra.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// Inner dimensions are rounded to a multiple of this, so that few distinct
// problems need tuning.
constexpr size_t InnerMultiple(size_t d) { return d >= 1024 ? 64 : 16; }

// Which inner dimensions the search may return, and what they cost.
struct RankGrid {
  size_t step = 10;   // d = rank, rank - step, ..., as the paper has it
  bool round = true;  // then the better neighbour among the multiples
  CostModel costs = {};
};

// What a rank adapter (rows, cols) with d ranks, of which `kept` take part on
// average, costs relative to the dense layer.
double RankCost(size_t rows, size_t cols, size_t d, double kept,
                const CostModel& costs = {});

struct RankChoice {
  size_t d = 0;
  double kept = 0;           // mean kept ranks per token that it allows
  double coverage = 0;       // share of the squared output that they hold
  float tau = 0;             // approximate threshold, to one bin of |z|
  size_t searched_d = 0;     // before rounding
  double rounding_loss = 0;  // coverage lost by rounding
};

// Histograms of |z| for the inner dimensions of a grid. One pass over Z answers
// the search for every budget, while the paper sorts all z^2 once per d.
class RankSearch {
 public:
  // z (rank, tokens): all ranks of the basis.
  RankSearch(const Matrix<float>& z, size_t rows, size_t cols,
             const RankGrid& grid, Executor& executor);

  // The choice with the largest coverage at `budget`, the allowed cost relative
  // to the dense layer. None: it is too little for the smallest d.
  std::optional<RankChoice> Best(double budget) const;

 private:
  // All values of the first d ranks, in bins of descending magnitude; entry b
  // holds what lies in bins 0..b.
  struct Candidate {
    size_t d = 0;
    bool searched = false;  // on the search grid (else only a multiple)
    std::vector<uint64_t> count;
    std::vector<double> energy;
  };
  // The candidate's choice at `budget`; none when it leaves nothing for A or
  // nothing to mask.
  std::optional<RankChoice> At(const Candidate& candidate, double budget) const;

  size_t rows_;
  size_t cols_;
  size_t tokens_;
  RankGrid grid_;
  uint32_t top_ = 0;                   // magnitude bits of bin 0
  double energy_ = 0;                  // of all ranks
  std::vector<Candidate> candidates_;  // ascending d
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_FORMS_RANK_SEARCH_H_
