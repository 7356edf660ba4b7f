// A 128-bit hash for gigabytes of data. It identifies a checkpoint or a text;
// it does not protect against an adversary.
#ifndef RANKFORGE_BASE_CONTENT_HASH_H_
#define RANKFORGE_BASE_CONTENT_HASH_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace rankforge {

// FNV-1a with four lanes of 64 bits and a rotation. Every step is a bijection
// of its lane, so that a single changed word always changes the hash. Four
// independent multiplications are in flight; byte-wise FNV waits for each one.
class ContentHash {
 public:
  // Each call adds one piece; its length enters the hash, too.
  void Add(std::span<const std::byte> bytes);
  // The same in parts. Begin says how many bytes the piece has. Every part but
  // the last has a multiple of 32 bytes.
  void Begin(size_t bytes);
  void Continue(std::span<const std::byte> part);
  // 32 hexadecimal digits.
  std::string Digest() const;

 private:
  std::array<uint64_t, 4> lanes_ = {0xcbf29ce484222325u, 0x84222325cbf29ce4u,
                                    0x9e3779b97f4a7c15u, 0x7f4a7c159e3779b9u};
};

std::string HashBytes(std::span<const std::byte> bytes);

}  // namespace rankforge

#endif  // RANKFORGE_BASE_CONTENT_HASH_H_
