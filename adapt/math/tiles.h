// Calibration tokens in tiles whose outputs stay in cache.
#ifndef RANKFORGE_ADAPT_MATH_TILES_H_
#define RANKFORGE_ADAPT_MATH_TILES_H_

#include <algorithm>
#include <cstddef>

#include "runtime/threads/executor.h"
#include "runtime/threads/parallel.h"

namespace rankforge {

inline constexpr size_t kTokenTile = 128;

constexpr size_t TokenTiles(size_t tokens) {
  return (tokens + kTokenTile - 1) / kTokenTile;
}

// Calls function(begin, count, tile, worker) for tiles of tokens.
template <class F>
void ForTiles(Executor& executor, size_t tokens, F&& function) {
  ParallelFor(executor, TokenTiles(tokens), [&](size_t tile, size_t worker) {
    const size_t begin = tile * kTokenTile;
    function(begin, std::min(kTokenTile, tokens - begin), tile, worker);
  });
}

}  // namespace rankforge

#endif  // RANKFORGE_ADAPT_MATH_TILES_H_
