// The tokens that statistics of a linear layer describe.
//
// Trained models put massive activations into the first token of a sequence
// (an attention sink): in some layers it holds 99.9 % of the squared norm of
// what down_proj reads. Second moments, coverages and errors would describe
// that one token, which masks and ranks keep anyway.
#ifndef RANKFORGE_ADAPT_CALIBRATE_ORDINARY_TOKENS_H_
#define RANKFORGE_ADAPT_CALIBRATE_ORDINARY_TOKENS_H_

#include <cstddef>
#include <initializer_list>
#include <vector>

#include "adapt/math/linear_algebra.h"

namespace rankforge {

// A token whose squared norm is more than this many times the median is none of
// the ordinary ones.
inline constexpr double kSinkMultiple = 16;

// The rows, ascending, of all of `inputs` (tokens, any width), whole windows of
// the same tokens, except position 0 of every window and those above
// kSinkMultiple in any of the inputs. All rows where that leaves none, or where
// `apart` is false.
std::vector<size_t> OrdinaryTokens(
    std::initializer_list<const Matrix<float>*> inputs, size_t window,
    bool apart = true);

// Those of `rows` that `matrix` has; it may have fewer tokens.
Matrix<float> RowsOf(const Matrix<float>& matrix,
                     const std::vector<size_t>& rows);

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_CALIBRATE_ORDINARY_TOKENS_H_
