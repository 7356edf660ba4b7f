#include "runtime/model/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "runtime/model/text/unicode_additions.h"

namespace rankforge {

namespace {

struct Taken {
  size_t size = 1;     // bytes that belong together
  bool valid = false;  // whether they are a character
  char32_t character = 0xFFFD;
};

// What `text`, which is not empty, begins with: a character, or the longest
// start of one.
Taken Take(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true, lead};
  if (lead < 0xC2 || lead > 0xF4) return {};
  const size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t character = lead & (0x7Fu >> size);
  for (size_t i = 1; i < size; ++i) {
    // The second byte excludes overlong forms, surrogates, and values above
    // U+10FFFF.
    uint8_t low = 0x80, high = 0xBF;
    if (i == 1) {
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    if (i == text.size() || byte(i) < low || byte(i) > high) return {i};
    character = character << 6 | (byte(i) & 0x3F);
  }
  return {size, true, character};
}

// The general category of `character`: "Lu".
std::string_view CategoryOf(char32_t character) {
  const std::string_view category =
      utf8proc_category_string(static_cast<utf8proc_int32_t>(character));
  if (category != "Cn") return category;
  for (const CategoryRange& range : UnicodeAdditions()) {
    if (character >= range.first && character <= range.last) {
      return range.category;
    }
  }
  return category;
}

struct Range {
  char32_t first, last;
};

bool Contains(std::span<const Range> ranges, char32_t character) {
  return std::ranges::any_of(ranges, [&](const Range& range) {
    return character >= range.first && character <= range.last;
  });
}

// Symbols (So) that are Alphabetic: letters in circles and squares.
constexpr Range kAlphabeticSymbols[] = {{0x24B6, 0x24E9},
                                        {0x1F130, 0x1F149},
                                        {0x1F150, 0x1F169},
                                        {0x1F170, 0x1F189}};
// Of Unicode 17.
constexpr Range kLaterNumbers[] = {{0x11DE0, 0x11DE9}, {0x16FF4, 0x16FF6}};
// The tokenizers library asks the tables of Unicode 8 what punctuation is.
// Two characters were, and many came later.
constexpr Range kEarlierPunctuation[] = {{0x166D, 0x166D}, {0x111C9, 0x111C9}};
constexpr Range kLaterPunctuation[] = {
    {0x61D, 0x61D},     {0x9FD, 0x9FD},     {0xA76, 0xA76},
    {0xC77, 0xC77},     {0xC84, 0xC84},     {0x1B4E, 0x1B4F},
    {0x1B7D, 0x1B7F},   {0x2E43, 0x2E4F},   {0x2E52, 0x2E5D},
    {0x10D6E, 0x10D6E}, {0x10EAD, 0x10EAD}, {0x10F55, 0x10F59},
    {0x10F86, 0x10F89}, {0x113D4, 0x113D5}, {0x113D7, 0x113D8},
    {0x1144B, 0x1144F}, {0x1145A, 0x1145B}, {0x1145D, 0x1145D},
    {0x11660, 0x1166C}, {0x116B9, 0x116B9}, {0x1183B, 0x1183B},
    {0x11944, 0x11946}, {0x119E2, 0x119E2}, {0x11A3F, 0x11A46},
    {0x11A9A, 0x11A9C}, {0x11A9E, 0x11AA2}, {0x11B00, 0x11B09},
    {0x11BE1, 0x11BE1}, {0x11C41, 0x11C45}, {0x11C70, 0x11C71},
    {0x11EF7, 0x11EF8}, {0x11F43, 0x11F4F}, {0x11FFF, 0x11FFF},
    {0x12FF1, 0x12FF2}, {0x16D6D, 0x16D6F}, {0x16E97, 0x16E9A},
    {0x16FE2, 0x16FE2}, {0x1E5FF, 0x1E5FF}, {0x1E95E, 0x1E95F}};

}  // namespace

char32_t TakeCharacter(std::string_view& text) {
  const Taken taken = Take(text);
  text.remove_prefix(taken.size);
  return taken.character;
}

size_t CharacterSize(std::string_view text) { return Take(text).size; }

void AppendCharacter(char32_t character, std::string& text) {
  std::array<uint8_t, 4> bytes;
  const auto size = utf8proc_encode_char(
      static_cast<utf8proc_int32_t>(character), bytes.data());
  text.append(reinterpret_cast<const char*>(bytes.data()),
              static_cast<size_t>(size));
}

std::string WithoutInvalid(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const Taken taken = Take(bytes);
    text += taken.valid ? bytes.substr(0, taken.size) : kReplacementCharacter;
    bytes.remove_prefix(taken.size);
  }
  return text;
}

bool IsSpace(char32_t character) {
  if (character < 0x80) {
    return character == ' ' || (character >= '\t' && character <= '\r');
  }
  return character == 0x85 || CategoryOf(character).starts_with('Z');
}

bool IsWord(char32_t character) {
  const std::string_view category = CategoryOf(character);
  return category.starts_with('L') || category.starts_with('M') ||
         category == "Nd" || category == "Nl" || category == "Pc" ||
         Contains(kAlphabeticSymbols, character) || character == 0x200C ||
         character == 0x200D;
}

bool IsNumber(char32_t character) {
  return CategoryOf(character).starts_with('N') ||
         Contains(kLaterNumbers, character);
}

bool IsPunctuation(char32_t character) {
  if (Contains(kEarlierPunctuation, character)) return true;
  const std::string_view category = CategoryOf(character);
  if (category.starts_with('S')) return character < 0x80;
  return category.starts_with('P') && !Contains(kLaterPunctuation, character);
}

}  // namespace rankforge
