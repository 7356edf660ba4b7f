#include "runtime/model/text/token_decoder.h"

#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>

#include "runtime/model/text/byte_alphabet.h"
#include "runtime/model/text/unicode.h"

namespace rankforge {

namespace {

using Tokens = std::vector<std::string>;

Tokens Apply(const BytesOfCharacters&, const Tokens& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) {
    bytes += ByteAlphabet::Get().Bytes(token).value_or(token);
  }
  return {WithoutInvalid(bytes)};
}

// The byte that "<0x41>" names.
std::optional<char> NamedByte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') {
    return std::nullopt;
  }
  uint8_t byte = 0;
  const char* const end = token.data() + 5;
  // A sign is allowed where two digits are read.
  const char* const begin = token.data() + (token[3] == '+' ? 4 : 3);
  const auto parsed = std::from_chars(begin, end, byte, 16);
  if (parsed.ec != std::errc() || parsed.ptr != end) return std::nullopt;
  return static_cast<char>(byte);
}

Tokens Apply(const BytesOfNames&, const Tokens& tokens) {
  Tokens result;
  std::string bytes;  // of the last tokens
  const auto finish = [&] {
    if (bytes.empty()) return;
    std::string text = WithoutInvalid(bytes);
    if (text != bytes) {
      text.clear();
      for (size_t i = 0; i < bytes.size(); ++i) text += kReplacementCharacter;
    }
    result.push_back(std::move(text));
    bytes.clear();
  };
  for (const std::string& token : tokens) {
    if (const std::optional<char> byte = NamedByte(token)) {
      bytes += *byte;
    } else {
      finish();
      result.push_back(token);
    }
  }
  finish();
  return result;
}

Tokens Apply(const FuseTokens&, const Tokens& tokens) {
  std::string whole;
  for (const std::string& token : tokens) whole += token;
  return {whole};
}

Tokens Apply(const ReplaceInTokens& step, Tokens tokens) {
  for (std::string& token : tokens) {
    token = Replaced(token, step.pattern, step.content);
  }
  return tokens;
}

std::string Stripped(const StripTokens& step, std::string_view token) {
  std::string mark;
  AppendCharacter(step.character, mark);
  for (size_t i = 0; i < step.start && token.starts_with(mark); ++i) {
    token.remove_prefix(mark.size());
  }
  for (size_t i = 0; i < step.stop && token.ends_with(mark); ++i) {
    token.remove_suffix(mark.size());
  }
  return std::string(token);
}

Tokens Apply(const StripTokens& step, Tokens tokens) {
  for (std::string& token : tokens) token = Stripped(step, token);
  return tokens;
}

Tokens Apply(const MetaspaceTokens& step, Tokens tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    std::string text;
    for (std::string_view rest = tokens[i]; !rest.empty();) {
      const char32_t character = TakeCharacter(rest);
      if (character != step.replacement) {
        AppendCharacter(character, text);
      } else if (i > 0 || !step.drops_first) {
        text += ' ';
      }
    }
    tokens[i] = std::move(text);
  }
  return tokens;
}

}  // namespace

std::string TextOf(const std::vector<DecoderStep>& steps,
                   std::vector<std::string> tokens) {
  for (const DecoderStep& step : steps) {
    tokens = std::visit([&](const auto& s) { return Apply(s, tokens); }, step);
  }
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

}  // namespace rankforge
