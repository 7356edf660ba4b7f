// What the samples of a search say. Measures nothing.
#ifndef RANKFORGE_TUNER_SEARCH_CHOOSE_H_
#define RANKFORGE_TUNER_SEARCH_CHOOSE_H_

#include "runtime/table/decision.h"
#include "tuner/search/measurements.h"
#include "tuner/search/space.h"

namespace rankforge {

// What the samples say: the layout and threads with the least expected time
// over the weights of the densities, and within them a variant per density.
// A challenger replaces the default only if it wins by `margin` and beyond the
// noise; ties go to the candidate declared first. Bucket limits lie midway
// between densities.
Decision Choose(const SearchSpace& space, const Measurements& measurements,
                double margin);

}  // namespace rankforge

#endif  // RANKFORGE_TUNER_SEARCH_CHOOSE_H_
