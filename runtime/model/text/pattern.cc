#include "runtime/model/text/pattern.h"

#include <fmt/format.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <new>
#include <utility>

#include "runtime/model/text/pattern_syntax.h"
#include "runtime/model/text/unicode.h"

namespace rankforge {

namespace {

struct FreePcre2 {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* match) const {
    pcre2_match_data_free(match);
  }
  void operator()(pcre2_compile_context* context) const {
    pcre2_compile_context_free(context);
  }
};
template <class T>
using Owned = std::unique_ptr<T, FreePcre2>;

}  // namespace

// A compiled pattern.
struct TextPattern::Code {
  Owned<pcre2_code> code;

  // The number of ovector pairs, or an error below 0. All text is valid UTF-8.
  int Match(std::string_view text, size_t from, pcre2_match_data* match) const {
    const auto run = [&](uint32_t options) {
      return pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                         text.size(), from, PCRE2_NO_UTF_CHECK | options, match,
                         nullptr);
    };
    const int found = run(0);
    // The stack of the compiled matcher is small; the interpreter's heap holds
    // what a long text may need.
    return found == PCRE2_ERROR_JIT_STACKLIMIT ? run(PCRE2_NO_JIT) : found;
  }
};

Result<TextPattern> TextPattern::Regex(std::string_view pattern) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string translated, ToPcre2(pattern));
  const Owned<pcre2_compile_context> context(
      pcre2_compile_context_create(nullptr));
  if (context == nullptr) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  size_t offset = 0;
  auto code = std::make_shared<Code>();
  code->code.reset(pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, context.get()));
  if (code->code == nullptr) {
    std::array<unsigned char, 120> message{};
    pcre2_get_error_message(error, message.data(), message.size());
    return Failed(reinterpret_cast<char*>(message.data()));
  }
  // Makes matching four times as fast. Where it is unavailable, matching works
  // without it.
  pcre2_jit_compile(code->code.get(), PCRE2_JIT_COMPLETE);
  TextPattern result;
  result.kind_ = std::shared_ptr<const Code>(std::move(code));
  return result;
}

TextPattern TextPattern::Literal(std::string text) {
  TextPattern result;
  result.kind_ = std::move(text);
  return result;
}

TextPattern TextPattern::Characters(bool (*contains)(char32_t)) {
  TextPattern result;
  result.kind_ = contains;
  return result;
}

namespace {

// Collects matches, and the parts between them.
class PartList {
 public:
  void AddMatch(size_t begin, size_t end) {
    if (covered_ < begin) parts_.push_back({covered_, begin, false});
    parts_.push_back({begin, end, true});
    covered_ = end;
  }
  std::vector<TextPart> Finish(size_t size) && {
    if (covered_ < size) parts_.push_back({covered_, size, false});
    return std::move(parts_);
  }

 private:
  std::vector<TextPart> parts_;
  size_t covered_ = 0;
};

// `find(from, begin, end)` finds the first match from `from` on.
template <class Find>
std::vector<TextPart> PartsOf(std::string_view text, const Find& find) {
  PartList parts;
  size_t from = 0;
  size_t last_end = std::string_view::npos;  // of the last match
  size_t begin = 0, end = 0;
  while (from <= text.size() && find(from, begin, end)) {
    if (begin == end && last_end == end) {
      // Nothing, right after a match: looks on after the next character.
      from += from < text.size() ? CharacterSize(text.substr(from)) : 1;
      continue;
    }
    parts.AddMatch(begin, end);
    from = last_end = end;
  }
  return std::move(parts).Finish(text.size());
}

std::vector<TextPart> PartsOfCharacters(std::string_view text,
                                        bool (*contains)(char32_t)) {
  PartList parts;
  for (std::string_view rest = text; !rest.empty();) {
    const size_t begin = text.size() - rest.size();
    const char32_t character = TakeCharacter(rest);
    if (contains(character)) parts.AddMatch(begin, text.size() - rest.size());
  }
  return std::move(parts).Finish(text.size());
}

}  // namespace

std::vector<TextPart> TextPattern::Parts(std::string_view text) const {
  if (text.empty()) return {};
  if (const auto* contains = std::get_if<ContainsCharacter>(&kind_)) {
    return PartsOfCharacters(text, *contains);
  }
  if (const auto* literal = std::get_if<std::string>(&kind_)) {
    return PartsOf(text, [&](size_t from, size_t& begin, size_t& end) {
      begin = text.find(*literal, from);
      end = begin + literal->size();
      return begin != text.npos;
    });
  }
  const Code& code = *std::get<std::shared_ptr<const Code>>(kind_);
  const Owned<pcre2_match_data> match(
      pcre2_match_data_create_from_pattern(code.code.get(), nullptr));
  if (match == nullptr) throw std::bad_alloc();
  const size_t* const found = pcre2_get_ovector_pointer(match.get());
  return PartsOf(text, [&](size_t from, size_t& begin, size_t& end) {
    if (code.Match(text, from, match.get()) < 0) return false;
    begin = found[0];
    end = found[1];
    // With \K in a look behind, a match may begin before `from` or behind its
    // own end.
    return begin >= from && end >= begin;
  });
}

std::string Replaced(std::string_view text, const TextPattern& pattern,
                     std::string_view content) {
  std::string replaced;
  for (const TextPart& part : pattern.Parts(text)) {
    replaced +=
        part.matches ? content : text.substr(part.begin, part.end - part.begin);
  }
  return replaced;
}

}  // namespace rankforge
