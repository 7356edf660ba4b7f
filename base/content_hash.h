// A 128-bit hash of gigabytes: identifies a checkpoint or a text, and is no
// protection against an adversary.
#ifndef RANKFORGE_BASE_CONTENT_HASH_H_
#define RANKFORGE_BASE_CONTENT_HASH_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace rankforge {

// FNV-1a with four lanes of 64 bits and a rotation: every step is a bijection
// of its lane, so that no single changed word goes unseen, and four independent
// multiplications are in flight where byte-wise FNV waits for one at a time.
class ContentHash {
 public:
  // Each call is a piece of its own: its length counts, too.
  void Add(std::span<const std::byte> bytes);
  // The same in parts: Begin says how many bytes the piece has, and every part
  // but its last has a multiple of 32 of them.
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
