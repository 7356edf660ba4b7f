#include "runtime/model/text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "runtime/model/text/byte_alphabet.h"
#include "runtime/model/text/unicode.h"

namespace rankforge {

namespace {

struct Range {
  char32_t first, last;
};

// The tokenizers library normalises with the tables of Unicode 9. These
// characters came later; there they have no decomposition. None of them takes
// part in a composition.
constexpr Range kNotDecomposed[] = {{0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},
                                    {0xAB69, 0xAB69},   {0x10781, 0x10785},
                                    {0x10787, 0x107B0}, {0x107B2, 0x107BA},
                                    {0x11938, 0x11938}, {0x1E030, 0x1E06D},
                                    {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};

bool IsDecomposed(char32_t character) {
  return std::ranges::none_of(kNotDecomposed, [&](const Range& range) {
    return character >= range.first && character <= range.last;
  });
}

bool IsAscii(std::string_view text) {
  return std::ranges::all_of(
      text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// Canonical order: marks that follow each other by their combining class.
// utf8proc moves one mark at a time, which takes minutes for a text of a
// million marks.
void SortMarks(std::vector<utf8proc_int32_t>& characters) {
  const auto class_of = [](utf8proc_int32_t character) {
    return utf8proc_get_property(character)->combining_class;
  };
  auto begin = characters.begin();
  while (begin != characters.end()) {
    begin = std::find_if(begin, characters.end(), class_of);
    const auto end = std::find_if_not(begin, characters.end(), class_of);
    std::ranges::stable_sort(begin, end, {}, class_of);
    begin = end;
  }
}

void AppendForm(std::string_view text, const UnicodeForm& form,
                std::string& out) {
  const auto options =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                     (form.compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> characters;
  // The longest decomposition of a character has eighteen.
  std::array<utf8proc_int32_t, 32> parts;
  while (!text.empty()) {
    const auto count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(TakeCharacter(text)), parts.data(),
        parts.size(), options, nullptr);
    const auto kept = static_cast<size_t>(std::max<utf8proc_ssize_t>(count, 0));
    characters.insert(
        characters.end(), parts.begin(),
        parts.begin() + static_cast<ptrdiff_t>(std::min(kept, parts.size())));
  }
  SortMarks(characters);
  if (form.composes) {
    const auto size = utf8proc_normalize_utf32(
        characters.data(), static_cast<utf8proc_ssize_t>(characters.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    characters.resize(static_cast<size_t>(size));
  }
  for (const utf8proc_int32_t character : characters) {
    AppendCharacter(static_cast<char32_t>(character), out);
  }
}

std::string Apply(const UnicodeForm& form, std::string_view text) {
  if (IsAscii(text)) return std::string(text);
  std::string normal;
  size_t begin = 0;  // of the text that is not in `normal` yet
  for (std::string_view rest = text; !rest.empty();) {
    const size_t at = text.size() - rest.size();
    if (IsDecomposed(TakeCharacter(rest))) continue;
    const size_t end = text.size() - rest.size();
    AppendForm(text.substr(begin, at - begin), form, normal);
    normal += text.substr(at, end - at);
    begin = end;
  }
  AppendForm(text.substr(begin), form, normal);
  return normal;
}

// Capitals of Unicode 16 and 17, and how far their lower case is.
struct LaterCapitals {
  char32_t first, last;
  int32_t offset;
};
constexpr LaterCapitals kLaterCapitals[] = {
    {0x1C89, 0x1C89, 1},   {0xA7CB, 0xA7CB, -42343}, {0xA7CC, 0xA7CC, 1},
    {0xA7CE, 0xA7CE, 1},   {0xA7D2, 0xA7D2, 1},      {0xA7D4, 0xA7D4, 1},
    {0xA7DA, 0xA7DA, 1},   {0xA7DC, 0xA7DC, -42561}, {0x10D50, 0x10D65, 32},
    {0x16EA0, 0x16EB8, 27}};

char32_t Lowercase(char32_t character) {
  const auto code = static_cast<utf8proc_int32_t>(character);
  if (character >= kLaterCapitals[0].first) {
    for (const LaterCapitals& capitals : kLaterCapitals) {
      if (character >= capitals.first && character <= capitals.last) {
        return static_cast<char32_t>(code + capitals.offset);
      }
    }
  }
  return static_cast<char32_t>(utf8proc_tolower(code));
}

std::string Apply(const LowercaseStep&, std::string_view text) {
  std::string lower;
  while (!text.empty()) {
    const char32_t character = TakeCharacter(text);
    AppendCharacter(Lowercase(character), lower);
    // The only character whose lower case is two: it keeps its dot.
    if (character == 0x130) AppendCharacter(0x307, lower);
  }
  return lower;
}

std::string Apply(const ByteCharactersStep&, std::string_view text) {
  std::string characters;
  ByteAlphabet::Get().Append(text, characters);
  return characters;
}

std::string Apply(const PrependStep& step, std::string_view text) {
  return text.empty() ? "" : step.text + std::string(text);
}

std::string Apply(const ReplaceStep& step, std::string_view text) {
  return Replaced(text, step.pattern, step.content);
}

std::string Apply(const TrimStep& step, std::string_view text) {
  // One pass: the end of the last character that is no space.
  size_t begin = text.size(), end = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const size_t at = text.size() - rest.size();
    if (IsSpace(TakeCharacter(rest))) continue;
    begin = std::min(begin, at);
    end = text.size() - rest.size();
  }
  if (!step.left) begin = 0;
  if (!step.right) end = text.size();
  return std::string(text.substr(begin, std::max(begin, end) - begin));
}

}  // namespace

std::string Normalized(const std::vector<NormalizerStep>& steps,
                       std::string_view text) {
  // NFKC, the longest of honest steps, makes 18 characters of one.
  const size_t longest = 64 * text.size() + (size_t{1} << 12);
  std::string normal(text);
  for (const NormalizerStep& step : steps) {
    if (normal.size() > longest) break;
    normal = std::visit([&](const auto& s) { return Apply(s, normal); }, step);
  }
  return normal;
}

}  // namespace rankforge
