// Characters that Unicode 15 and 16 added.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_UNICODE_ADDITIONS_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_UNICODE_ADDITIONS_H_

#include <span>
#include <string_view>

namespace rankforge {

struct CategoryRange {
  std::string_view category;  // "Lo"
  char32_t first, last;
};

// The tokenizers library matches patterns with the tables of Unicode 16, PCRE2
// 10.42 with those of Unicode 14. Where PCRE2 knows these, they change nothing.
std::span<const CategoryRange> UnicodeAdditions();

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_UNICODE_ADDITIONS_H_
