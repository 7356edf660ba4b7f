#include "base/content_hash.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace rankforge {

namespace {

constexpr uint64_t Step(uint64_t lane, uint64_t word) {
  return std::rotl((lane ^ word) * 0x9e3779b185ebca87u, 29);
}

// Spreads every bit of `word` over all others (the finaliser of MurmurHash3).
constexpr uint64_t Mix(uint64_t word) {
  word = (word ^ (word >> 33)) * 0xff51afd7ed558ccdu;
  word = (word ^ (word >> 33)) * 0xc4ceb9fe1a85ec53u;
  return word ^ (word >> 33);
}

}  // namespace

void ContentHash::Add(std::span<const std::byte> bytes) {
  Begin(bytes.size());
  Continue(bytes);
}

void ContentHash::Begin(size_t bytes) { lanes_[0] = Step(lanes_[0], bytes); }

void ContentHash::Continue(std::span<const std::byte> bytes) {
  constexpr size_t kStride = sizeof(lanes_);
  std::array<uint64_t, 4> words;
  while (!bytes.empty()) {
    const size_t count = std::min(bytes.size(), kStride);
    if (count < kStride) words = {};
    std::memcpy(words.data(), bytes.data(), count);
    for (size_t i = 0; i < lanes_.size(); ++i) {
      lanes_[i] = Step(lanes_[i], words[i]);
    }
    bytes = bytes.subspan(count);
  }
}

std::string ContentHash::Digest() const {
  const uint64_t high = Mix(lanes_[0] + Mix(lanes_[1]));
  const uint64_t low = Mix(lanes_[2] + Mix(lanes_[3] + high));
  return fmt::format("{:016x}{:016x}", high, low);
}

std::string HashBytes(std::span<const std::byte> bytes) {
  ContentHash hash;
  hash.Add(bytes);
  return hash.Digest();
}

}  // namespace rankforge
