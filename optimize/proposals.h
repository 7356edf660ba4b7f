// Which combinations of forms and weight types are worth measuring.
#ifndef RANKFORGE_OPTIMIZE_PROPOSALS_H_
#define RANKFORGE_OPTIMIZE_PROPOSALS_H_

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "meta/types.h"
#include "optimize/allocation.h"

namespace rankforge {

// A form of the whole model, dense or with one adapter, and the type of each
// group, an index into the candidate types.
struct Proposal {
  size_t form = 0;
  std::vector<size_t> types;
  // Predicted: of the products of a token, and against the dense model.
  double ns = 0;
  double divergence = 0;
};

// What is known of a form.
struct FormCosts {
  std::vector<std::vector<double>> ns;  // by group, by type
  double divergence = 0;  // measured, with all groups of the first type
};

struct ProposalOptions {
  size_t count = 6;  // at most
  std::optional<double> max_divergence = {};
  std::optional<double> max_ns = {};
};

// A candidate with its predictions. `divergences` (by group, by type) are added
// up (MeasureSensitivities), in place of those of the first type, which the
// form's divergence includes.
Proposal Predicted(std::span<const FormCosts> forms,
                   const std::vector<std::vector<double>>& divergences,
                   size_t form, std::vector<size_t> types);

// Of the candidates that no other beats in both predictions, by ascending time:
// the best within each limit and the best within 0.6 of it (0.97 of a time), as
// predictions err, and others spread over the front. None of `measured`.
std::vector<Proposal> Propose(
    std::span<const FormCosts> forms,
    const std::vector<std::vector<double>>& divergences,
    const ProposalOptions& options, std::span<const Proposal> measured);

// "i8_group32", or for several "62 % i4_group32, 38 % i8_group32": the shares
// of `weights`, the number of weights of each group.
std::string DescribeTypes(std::span<const size_t> choice,
                          std::span<const WeightType> types,
                          std::span<const double> weights);

}  // namespace rankforge

#endif  // RANKFORGE_OPTIMIZE_PROPOSALS_H_
