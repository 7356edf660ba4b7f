#include "runtime/model/text/byte_alphabet.h"

#include "runtime/model/text/unicode.h"

namespace rankforge {

const ByteAlphabet& ByteAlphabet::Get() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

ByteAlphabet::ByteAlphabet() {
  bytes_.fill(-1);
  char32_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) ||
                           (byte >= 161 && byte <= 172) || byte >= 174;
    const char32_t character = printable ? static_cast<char32_t>(byte) : next++;
    AppendCharacter(character, characters_[static_cast<size_t>(byte)]);
    bytes_[character] = byte;
  }
}

void ByteAlphabet::Append(std::string_view bytes, std::string& text) const {
  for (const char byte : bytes) text += CharacterOf(byte);
}

std::optional<std::string> ByteAlphabet::Bytes(std::string_view token) const {
  std::string bytes;
  while (!token.empty()) {
    const char32_t character = TakeCharacter(token);
    if (character >= bytes_.size() || bytes_[character] < 0) {
      return std::nullopt;
    }
    bytes += static_cast<char>(bytes_[character]);
  }
  return bytes;
}

}  // namespace rankforge
