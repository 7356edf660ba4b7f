// Hashes of large files, remembered from one run to the next.
#ifndef RANKFORGE_BASE_HASH_CACHE_H_
#define RANKFORGE_BASE_HASH_CACHE_H_

#include <functional>
#include <span>
#include <string>

#include "base/files.h"

namespace rankforge {

// The hash of these files in this order: as an earlier run left it, if they
// have the stamps that they had then, else compute(). It is kept in the folder
// $XDG_CACHE_HOME/rankforge, or ~/.cache/rankforge. Where that cannot be
// written, and for files that changed within the last 0.1 s, each run computes.
std::string RememberedHash(std::span<const FileStamp> files,
                           const std::function<std::string()>& compute);

}  // namespace rankforge

#endif  // RANKFORGE_BASE_HASH_CACHE_H_
