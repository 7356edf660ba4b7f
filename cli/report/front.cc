#include "cli/report/front.h"

#include <string_view>

namespace rankforge {
namespace {

Json ToJson(const FrontPoint& point, bool chosen) {
  const PointFigures& figures = point.figures;
  const Difference& difference = figures.against_dense;
  return {{"form", point.form},
          {"description", point.description},
          {"divergence", Rounded(difference.divergence.mean)},
          {"divergence_error", Rounded(difference.divergence.error)},
          {"loss", Rounded(figures.loss)},
          {"excess_loss", Rounded(difference.excess_loss.mean)},
          {"excess_loss_error", Rounded(difference.excess_loss.error)},
          {"ms_per_token", Rounded(figures.ms_per_token)},
          {"mean_ms_per_token", Rounded(figures.mean_ms_per_token)},
          {"time_ratio", Rounded(figures.time_ratio)},
          {"bytes_per_token", Rounded(figures.bytes_per_token, 9)},
          {"predicted_divergence", Rounded(point.predicted_divergence)},
          {"predicted_product_ms", Rounded(point.predicted_ms)},
          {"dominated", point.dominated},
          {"chosen", chosen}};
}

template <class Values>
Json RoundedValues(const Values& values, double factor) {
  Json list = Json::array();
  for (const double value : values) list.push_back(Rounded(value * factor));
  return list;
}

}  // namespace

Json ToJson(const Front& front) {
  Json types = Json::array();
  for (const WeightType type : front.types) types.push_back(Name(type));
  Json points = Json::array();
  for (size_t i = 0; i < front.points.size(); ++i) {
    points.push_back(ToJson(front.points[i], i == front.chosen));
  }
  Json groups = Json::array();
  for (const FrontGroup& group : front.groups) {
    groups.push_back({{"name", group.name},
                      {"type", Name(group.type)},
                      {"divergences", RoundedValues(group.divergences, 1)},
                      {"dense_us", RoundedValues(group.dense_ns, 1e-3)}});
  }
  return {{"model", front.model},
          {"answer", front.answer},
          {"conditions", front.conditions},
          {"threads", front.threads},
          {"context", front.context},
          {"timed_tokens", front.timed_tokens},
          {"held_tokens", front.held_tokens},
          {"types", types},
          {"points", points},
          {"groups", groups}};
}

void PrintFront(const Front& front) {
  Print("{:<44}{:>11}{:>17}{:>10}{:>9}{:>9}{:>9}\n", "model", "divergence",
        "excess loss", "ms/token", "mean", "of dense", "MB");
  for (size_t i = 0; i < front.points.size(); ++i) {
    const FrontPoint& point = front.points[i];
    const PointFigures& figures = point.figures;
    const TokenMean& excess = figures.against_dense.excess_loss;
    const std::string_view mark = i == front.chosen ? "  chosen"
                                  : point.dominated ? "  dominated"
                                                    : "";
    Print(
        "{:<44}{:>11.5f}{:>9.4f} +-{:.4f}{:>10.3f}{:>9.3f}{:>9.3f}{:>9.2f}"
        "{}\n",
        point.description, figures.against_dense.divergence.mean, excess.mean,
        excess.error, figures.ms_per_token, figures.mean_ms_per_token,
        figures.time_ratio, figures.bytes_per_token / 1e6, mark);
  }
  Print("{}\n{}\n", front.conditions, front.answer);
}

}  // namespace rankforge
