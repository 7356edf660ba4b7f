#include "tuner/search/measurements.h"

namespace rankforge {

Measurements::Measurements(size_t candidates, size_t densities)
    : densities_(densities), cells_(candidates * densities) {}

const std::vector<double>& Measurements::CellAt(size_t candidate,
                                                size_t density) const {
  return cells_[candidate * densities_ + density];
}

void Measurements::Add(size_t candidate, size_t density, const Sample& sample) {
  cells_[candidate * densities_ + density].push_back(sample.ns);
  ++total_;
}

void Measurements::Forget(size_t candidate) {
  for (size_t d = 0; d < densities_; ++d) {
    std::vector<double>& cell = cells_[candidate * densities_ + d];
    total_ -= cell.size();
    cell.clear();
  }
}

void Measurements::Scale(double factor) {
  for (std::vector<double>& cell : cells_) {
    for (double& ns : cell) ns *= factor;
  }
}

size_t Measurements::Count(size_t candidate, size_t density) const {
  return CellAt(candidate, density).size();
}

const std::vector<double>& Measurements::Samples(size_t candidate,
                                                 size_t density) const {
  return CellAt(candidate, density);
}

Timing Measurements::At(size_t candidate, size_t density) const {
  return Summarise(CellAt(candidate, density));
}

}  // namespace rankforge
