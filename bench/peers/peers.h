// What the peers of RankForge compute, and who they are. Peers are for
// benchmarks only; each is optional, and knows nothing of the others.
#ifndef RANKFORGE_BENCH_PEERS_PEERS_H_
#define RANKFORGE_BENCH_PEERS_PEERS_H_

#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/page_buffer.h"
#include "base/status.h"
#include "bench/gemv_case.h"
#include "meta/packing.h"
#include "runtime/table/problem.h"
#include "runtime/threads/executor.h"

namespace rankforge {

// The matrix that all contestants of a group multiply with. Each holds copies
// of it in its own form.
class PeerGroup {
 public:
  // `weights` (rows, cols) must outlive the group. `least_density`: the share
  // of the weights that the sparsest product reads; copies are cold for it.
  PeerGroup(size_t rows, size_t cols, WeightType type, size_t threads,
            std::span<const float> weights, double least_density, bool cached);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  WeightType type() const { return type_; }
  std::span<const float> weights() const { return weights_; }
  size_t Copies(size_t bytes) const;
  // f32 in [out][in] and in [in][out], without padding, on 2 MiB pages, for
  // libraries that do not pack. Made at the first call.
  const std::vector<PageBuffer>& ByRow();
  const std::vector<PageBuffer>& ByColumn();
  // The same in a layout of RankForge.
  const std::vector<PackedMatrix>& Packed(Layout layout);
  Executor& executor() { return *executor_; }
  size_t threads() const { return executor_->threads(); }

 private:
  size_t rows_;
  size_t cols_;
  WeightType type_;
  std::span<const float> weights_;
  double least_density_;
  bool cached_;
  std::unique_ptr<Executor> executor_;
  std::vector<PageBuffer> by_row_;
  std::vector<PageBuffer> by_column_;
  std::map<Layout, std::vector<PackedMatrix>> packed_;
};

// What RankForge computes: inputs beside integer weights have 8 bits, as with
// most peers, unless they are `exact`.
Problem PeerProblem(Operation operation, size_t rows, size_t cols,
                    WeightType type, size_t threads, bool exact);

// One product of a group: which weights take part, and what comes out.
struct PeerProduct {
  PeerProduct(const PeerGroup& group, Operation operation, double share,
              bool exact = false);

  Problem problem;
  double density;
  GemvInput input;
  // (rows,) in f64, from the weights without rounding.
  std::vector<double> expected;
};

// One way to compute a product, with its weights in place.
struct Contestant {
  std::string name;
  std::string detail;  // how it does it
  // y (rows,), valid until the next call, from copy `turn` modulo their number.
  std::function<const float*(size_t turn)> run;
  // Puts threads to sleep that would spin for longer than the pause between
  // contestants. May be empty.
  std::function<void()> rest;
};

// Appends the contestants of a library for a product: none if it has no such
// product. An error says why a library that has one cannot run it.
using PeerOffer = Status(PeerGroup& group, const PeerProduct& product,
                         std::vector<Contestant>& contestants);
PeerOffer OfferOpenBlas, OfferBlis, OfferEigen, OfferOneDnn, OfferGgml;

struct Peer {
  const char* name;
  const char* remedy;  // what to do when it is missing
  PeerOffer* offer;    // null: not part of this build
};
std::span<const Peer> Peers();

// body(begin, end) for each thread's share of [0, size), cut at whole cache
// lines of floats: for libraries that have no threads of their own.
template <class Body>
void ShareOut(Executor& executor, size_t size, Body body) {
  const size_t parts = executor.threads();
  const auto boundary = [&](size_t part) {
    return std::min(size,
                    RoundUp(size * part / parts, kCacheLine / sizeof(float)));
  };
  executor.Run(parts, [&](size_t part) {
    const size_t begin = boundary(part);
    const size_t end = boundary(part + 1);
    if (begin < end) body(begin, end);
  });
}

}  // namespace rankforge

#endif  // RANKFORGE_BENCH_PEERS_PEERS_H_
