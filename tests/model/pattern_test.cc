// Patterns of Oniguruma, classes of characters, and Unicode's forms. What the
// tokenizers library makes of them is in tests/model/data/tokenizers.
#include "runtime/model/text/pattern.h"

#include <gtest/gtest.h>

#include "runtime/model/text/normalizer.h"
#include "runtime/model/text/unicode.h"

namespace rankforge {
namespace {

using Texts = std::vector<std::string>;

// The parts of `text`, matches in brackets.
Texts PartsOf(const std::string& pattern, const std::string& text) {
  const auto compiled = TextPattern::Regex(pattern);
  EXPECT_TRUE(compiled.ok()) << pattern << compiled.status().message();
  if (!compiled.ok()) return {};
  Texts parts;
  for (const TextPart& part : compiled->Parts(text)) {
    const std::string piece = text.substr(part.begin, part.end - part.begin);
    parts.push_back(part.matches ? "[" + piece + "]" : piece);
  }
  return parts;
}

TEST(PatternTest, MeansWhatOnigurumaMeans) {
  // U+180E is no space; ² is part of a word.
  EXPECT_EQ(PartsOf(R"(\s)", "a\u180eb\u0085c"),
            (Texts{"a\u180eb", "[\u0085]", "c"}));
  EXPECT_EQ(PartsOf(R"(\w+)", "x\u00b2-\u200d"),
            (Texts{"[x\u00b2]", "-\u200d"}));
  EXPECT_EQ(PartsOf(R"([^\W]+)", "x\u00b2-\u200d"),
            (Texts{"[x]", "\u00b2-\u200d"}));
  EXPECT_EQ(PartsOf(R"(\h+)", "xafg"), (Texts{"x", "[af]", "g"}));
  EXPECT_EQ(PartsOf(R"(\v)", "a\vb\nc"), (Texts{"a", "[\v]", "b\nc"}));
  // + repeats what {1,3} counts, ? makes {2} optional, {,2} begins at 0.
  EXPECT_EQ(PartsOf(R"(\d{1,3}+)", "1234567 8"),
            (Texts{"[1234567]", " ", "[8]"}));
  EXPECT_EQ(PartsOf("a{2}?b", "aaab"), (Texts{"a", "[aab]"}));
  EXPECT_EQ(PartsOf("xa{,2}", "xaaa"), (Texts{"[xaa]", "a"}));
  EXPECT_EQ(PartsOf("(?:a|b{1,2}+)c", "bbbc"), (Texts{"[bbbc]"}));
  // $ is before every \n.
  EXPECT_EQ(PartsOf(" $", "a \nb "), (Texts{"a", "[ ]", "\nb", "[ ]"}));
  EXPECT_EQ(PartsOf("(?m)a.b", "a\nb"), (Texts{"[a\nb]"}));
  EXPECT_EQ(PartsOf("a.b", "a\nb"), (Texts{"a\nb"}));
}

TEST(PatternTest, SetsInsideSets) {
  EXPECT_EQ(PartsOf("[a-z&&[^aeiou]]+", "abcde"), (Texts{"a", "[bcd]", "e"}));
  EXPECT_EQ(PartsOf("[^a-z&&[^aeiou]]+", "abXe"), (Texts{"[a]", "b", "[Xe]"}));
  EXPECT_EQ(PartsOf("[a[bc]]+", "xabcx"), (Texts{"x", "[abc]", "x"}));
  EXPECT_EQ(PartsOf(R"([^\S\r\n]+)", "a \t\nb"), (Texts{"a", "[ \t]", "\nb"}));
  EXPECT_EQ(PartsOf("[]a]", "]a["), (Texts{"[]]", "[a]", "["}));
  EXPECT_EQ(PartsOf("[[:punct:]]", "a+!"), (Texts{"a", "[+]", "[!]"}));
  EXPECT_EQ(PartsOf(R"(\p{Punct})", "a+!"), (Texts{"a+", "[!]"}));
}

// What several scripts share is of no script.
TEST(PatternTest, Scripts) {
  EXPECT_EQ(PartsOf(R"(\p{Han}+)", "\u3001\u65e5\u3005\u31c0\U00031350"),
            (Texts{"\u3001", "[\u65e5\u3005]", "\u31c0", "[\U00031350]"}));
  EXPECT_EQ(PartsOf(R"([\p{Hiragana}a]+)", "a\u3042\u30fc"),
            (Texts{"[a\u3042]", "\u30fc"}));
}

TEST(PatternTest, KnowsUnicode16) {
  // A character of CJK extension H, and a digit of Unicode 16.
  EXPECT_EQ(PartsOf(R"(\p{L})", "\U00031350"), Texts{"[\U00031350]"});
  EXPECT_EQ(PartsOf(R"([^\p{N}])", "\U0001e5f1"), Texts{"\U0001e5f1"});
  EXPECT_EQ(PartsOf(R"(\p{Nd})", "\U0001e5f1"), Texts{"[\U0001e5f1]"});
}

TEST(PatternTest, EmptyMatches) {
  EXPECT_EQ(PartsOf("x*", "axb"), (Texts{"[]", "a", "[x]", "b", "[]"}));
  EXPECT_EQ(PartsOf("", "\u00e9e"), (Texts{"[]", "\u00e9", "[]", "e", "[]"}));
  EXPECT_EQ(PartsOf("x", ""), Texts{});
}

TEST(PatternTest, WhatPcre2LacksIsAnError) {
  const auto message = [](const std::string& pattern) {
    return TextPattern::Regex(pattern).status().message();
  };
  EXPECT_EQ(message(R"(a\y)"), "has \\y, which PCRE2 lacks");
  EXPECT_EQ(message("(?~abc)"), "has (?~, which PCRE2 lacks");
  EXPECT_EQ(message("[[:nothing:]]"), "has [:nothing:], which PCRE2 lacks");
  EXPECT_EQ(message("[a"), "has a set without ']'");
  EXPECT_EQ(message("a\\"), "ends with \\");
  EXPECT_EQ(message(std::string(100, '[') + "a" + std::string(100, ']')),
            "has sets inside each other too deeply");
  EXPECT_EQ(message(R"((?i:[\p{Lu}]))"),
            "has a set with a class of case where case is ignored");
  EXPECT_TRUE(TextPattern::Regex(R"((a(?i)b)(?i-i)[\p{Lu}](?i:\p{Lu}))").ok());
  EXPECT_NE(message("("), "");
  EXPECT_NE(message(")"), "");
  EXPECT_NE(message("*"), "");
  EXPECT_NE(message(R"(\p{Nonsense})"), "");
  // Ends that are cut off.
  for (const char* pattern :
       {"(?", "(?<", "(?<n", "(?#a", R"(\p{L)", R"(\x{61)", R"(\k<n)", "(?i",
        "[^", "[a&&", "[[:", "[\\", R"(\u)", R"(\x)", "{", "a{1,"}) {
    TextPattern::Regex(pattern).ok();
  }
}

// One that would try for longer than the universe is old gives up.
TEST(PatternTest, PatternsWithoutEnd) {
  const std::string text = std::string(64, 'a') + "b";
  EXPECT_EQ(PartsOf("(a+)+$", text), Texts{text});
}

TEST(NormalizerTest, UnicodeForms) {
  const auto form = [](bool composes, bool compatible, const char* text) {
    return Normalized({UnicodeForm{composes, compatible}}, text);
  };
  EXPECT_EQ(form(true, false, "cafe\u0301 \u212b \ufb01"),
            "caf\u00e9 \u00c5 \ufb01");
  EXPECT_EQ(form(false, false, "\u1e69"), "s\u0323\u0307");
  EXPECT_EQ(form(true, false, "s\u0307\u0323"), "\u1e69");
  EXPECT_EQ(form(true, true, "\ufb01\u00b2\uff21"), "fi2A");
  EXPECT_EQ(form(false, true, "\uac01"), "\u1100\u1161\u11a8");
  // Characters that the library's tables do not have.
  EXPECT_EQ(form(true, true, "\u32ff\u0301"), "\u32ff\u0301");
}

TEST(NormalizerTest, Lowercase) {
  const auto lower = [](const char* text) {
    return Normalized({LowercaseStep()}, text);
  };
  EXPECT_EQ(lower("ABC\u00c9\u03a3\u1e9e"), "abc\u00e9\u03c3\u00df");
  EXPECT_EQ(lower("\u0130"), "i\u0307");
  // Of Unicode 16.
  EXPECT_EQ(lower("\u1c89\ua7cb\U00010d51"), "\u1c8a\u0264\U00010d71");
}

// Ordered one mark at a time, this takes minutes.
TEST(NormalizerTest, ManyMarks) {
  std::string text = "x", sorted = "x";
  constexpr size_t kPairs = 200000;
  for (size_t i = 0; i < kPairs; ++i) text += "\u0301\u0323";
  for (size_t i = 0; i < kPairs; ++i) sorted += "\u0323";
  for (size_t i = 0; i < kPairs; ++i) sorted += "\u0301";
  EXPECT_TRUE(Normalized({UnicodeForm{false, false}}, text) == sorted);
}

TEST(UnicodeTest, InvalidBytes) {
  const auto valid = [](std::string_view bytes) {
    return WithoutInvalid(bytes);
  };
  const std::string none = "\ufffd";
  EXPECT_EQ(valid("a\u00e9\u65e5\U0001f600"), "a\u00e9\u65e5\U0001f600");
  EXPECT_EQ(valid("\xff"), none);
  // The longest start of a character is one U+FFFD.
  EXPECT_EQ(valid("\xe6\x97"), none);
  EXPECT_EQ(valid("\xf0\x9f\x98x"), none + "x");
  EXPECT_EQ(valid("\xc3\xc3\xa9"), none + "\u00e9");
  // Overlong forms, surrogates, and values above U+10FFFF: byte by byte.
  EXPECT_EQ(valid("\xc0\x80"), none + none);
  EXPECT_EQ(valid("\xe0\x80\x80"), none + none + none);
  EXPECT_EQ(valid("\xed\xa0\x80"), none + none + none);
  EXPECT_EQ(valid("\xf4\x90\x80\x80"), none + none + none + none);
}

}  // namespace
}  // namespace rankforge
