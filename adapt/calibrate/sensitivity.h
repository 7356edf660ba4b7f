// What a layer's error costs the model.
#ifndef RANKFORGE_ADAPT_CALIBRATE_SENSITIVITY_H_
#define RANKFORGE_ADAPT_CALIBRATE_SENSITIVITY_H_

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace rankforge {

// The divergence of the model's predictions for an error of one layer. It is
// interpolated by straight lines between the origin and what was measured. The
// last line goes on beyond that.
class Sensitivity {
 public:
  using Points = std::vector<std::pair<double, double>>;  // by error

  Sensitivity() = default;
  explicit Sensitivity(Points points) : points_(std::move(points)) {}
  void Add(double error, double divergence) {
    points_.emplace_back(error, std::max(divergence, 0.0));
    std::sort(points_.begin(), points_.end());
  }
  bool known() const { return points_.size() > 1; }
  const Points& points() const { return points_; }
  // Of an error >= 0; 0 where nothing was measured.
  double At(double error) const {
    if (!known()) return 0;
    size_t i = 1;
    while (i + 1 < points_.size() && points_[i].first < error) ++i;
    const auto [x0, y0] = points_[i - 1];
    const auto [x1, y1] = points_[i];
    if (x1 <= x0) return y1;
    return std::max(0.0, y0 + (error - x0) * (y1 - y0) / (x1 - x0));
  }

 private:
  Points points_{{0, 0}};
};

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_CALIBRATE_SENSITIVITY_H_
