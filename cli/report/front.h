// What `rankforge optimize` found: front.json, and the same for people.
#ifndef RANKFORGE_CLI_REPORT_FRONT_H_
#define RANKFORGE_CLI_REPORT_FRONT_H_

#include <string>
#include <vector>

#include "cli/support/output.h"
#include "meta/types.h"
#include "optimize/points.h"

namespace rankforge {

struct FrontPoint {
  std::string form;         // "dense", "keep 0.7"
  std::string description;  // "dense, i8_group32"
  PointFigures figures;
  double predicted_divergence = 0;
  double predicted_ms = 0;  // of the products alone
  bool dominated = false;
};

// Products that share a type.
struct FrontGroup {
  std::string name;
  WeightType type = WeightType::kBf16;  // of the chosen point
  std::vector<double> divergences;      // by candidate type
  std::vector<double> dense_ns;         // by candidate type
};

struct Front {
  std::string model;
  std::string answer;      // a sentence
  std::string conditions;  // what the figures rest on
  size_t threads = 1;
  size_t context = 0;
  size_t timed_tokens = 0;
  size_t held_tokens = 0;
  std::vector<WeightType> types;
  std::vector<FrontPoint> points;
  size_t chosen = 0;  // of points
  std::vector<FrontGroup> groups;
};

Json ToJson(const Front& front);
void PrintFront(const Front& front);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_REPORT_FRONT_H_
