// Characters of UTF-8 text, and the classes of characters that tokenizers ask
// for.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_UNICODE_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_UNICODE_H_

#include <string>
#include <string_view>

namespace rankforge {

inline constexpr std::string_view kReplacementCharacter = "\xef\xbf\xbd";

// Removes the first character of `text` and returns it. A byte that begins no
// character counts as U+FFFD. `text` has at least one byte.
char32_t TakeCharacter(std::string_view& text);

// The size in bytes of the character that `text` begins with.
size_t CharacterSize(std::string_view text);

void AppendCharacter(char32_t character, std::string& text);

// U+FFFD stands for each longest start of a character that is not complete, and
// for each byte that begins none. Valid text stays as it is.
std::string WithoutInvalid(std::string_view bytes);

// White_Space.
bool IsSpace(char32_t character);
// Letters, marks, decimal digits, connectors, and what else is Alphabetic or
// joins letters.
bool IsWord(char32_t character);
// Nd, Nl, No.
bool IsNumber(char32_t character);
// P, and the symbols among the punctuation of ASCII.
bool IsPunctuation(char32_t character);

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_UNICODE_H_
