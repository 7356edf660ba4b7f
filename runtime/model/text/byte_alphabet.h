// The characters that stand for bytes in a byte-level vocabulary.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_BYTE_ALPHABET_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_BYTE_ALPHABET_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace rankforge {

// Printable characters of Latin-1 stand for their own bytes, characters from
// U+0100 on for the others.
class ByteAlphabet {
 public:
  // One more than the largest character.
  static constexpr size_t kEnd = 256 + 68;

  static const ByteAlphabet& Get();

  std::string_view CharacterOf(char byte) const {
    return characters_[static_cast<uint8_t>(byte)];
  }
  // Adds the characters that stand for `bytes`.
  void Append(std::string_view bytes, std::string& text) const;
  // The bytes that `token` stands for. None if one of its characters stands for
  // no byte.
  std::optional<std::string> Bytes(std::string_view token) const;

 private:
  ByteAlphabet();

  std::array<std::string, 256> characters_;  // by byte
  std::array<int, kEnd> bytes_;              // by character; -1: none
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_BYTE_ALPHABET_H_
