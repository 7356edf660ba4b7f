#include "runtime/model/text/pattern_syntax.h"

#include <fmt/format.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "runtime/model/text/unicode.h"
#include "runtime/model/text/unicode_additions.h"

namespace rankforge {

namespace {

constexpr size_t kMaxDepth = 32;  // of sets inside sets

// What stands for a class of characters inside a set of PCRE2.
struct NamedClass {
  std::string_view name;  // lower case, without spaces, '-' and '_'
  std::string_view set;
};

// White_Space. PCRE2's own \s also has U+180E.
constexpr std::string_view kSpace =
    R"(\t-\r\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029})"
    R"(\x{202f}\x{205f}\x{3000})";
// What \w is inside a set: Alphabetic, marks, decimal digits, connectors.
// Alphabetic are letters, Nl, and some symbols.
constexpr std::string_view kWordInSet =
    R"(\p{L}\p{Nl}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149})"
    R"(\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}\p{M}\p{Nd}\p{Pc})";
// What \w has besides outside of sets: superscripts and fractions of Latin-1.
constexpr std::string_view kWordBesides = R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";

// From 10.40 on, the name of a script alone also has characters that several
// scripts share.
constexpr std::string_view kScriptPrefix =
    PCRE2_MAJOR > 10 || PCRE2_MINOR >= 40 ? "sc:" : "";
// Han of Unicode 15 and 15.1.
constexpr std::string_view kLaterHan =
    R"(\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";

// Properties by their names, \p{Letter}.
constexpr NamedClass kProperties[] = {
    {"letter", "\\p{L}"},
    {"uppercaseletter", "\\p{Lu}"},
    {"lowercaseletter", "\\p{Ll}"},
    {"titlecaseletter", "\\p{Lt}"},
    {"modifierletter", "\\p{Lm}"},
    {"otherletter", "\\p{Lo}"},
    {"mark", "\\p{M}"},
    {"combiningmark", "\\p{M}"},
    {"nonspacingmark", "\\p{Mn}"},
    {"spacingmark", "\\p{Mc}"},
    {"enclosingmark", "\\p{Me}"},
    {"number", "\\p{N}"},
    {"decimalnumber", "\\p{Nd}"},
    {"digit", "\\p{Nd}"},
    {"letternumber", "\\p{Nl}"},
    {"othernumber", "\\p{No}"},
    {"punctuation", "\\p{P}"},
    {"punct", "\\p{P}"},
    {"connectorpunctuation", "\\p{Pc}"},
    {"dashpunctuation", "\\p{Pd}"},
    {"openpunctuation", "\\p{Ps}"},
    {"closepunctuation", "\\p{Pe}"},
    {"initialpunctuation", "\\p{Pi}"},
    {"finalpunctuation", "\\p{Pf}"},
    {"otherpunctuation", "\\p{Po}"},
    {"symbol", "\\p{S}"},
    {"mathsymbol", "\\p{Sm}"},
    {"currencysymbol", "\\p{Sc}"},
    {"modifiersymbol", "\\p{Sk}"},
    {"othersymbol", "\\p{So}"},
    {"separator", "\\p{Z}"},
    {"other", "\\p{C}"},
    {"control", "\\p{Cc}"},
    {"format", "\\p{Cf}"},
    {"space", kSpace},
    {"whitespace", kSpace},
    {"word", kWordInSet},
    {"alpha", "\\p{Alphabetic}\\p{L}"},
    {"alnum", "\\p{Alphabetic}\\p{L}\\p{Nd}"},
    {"any", "\\p{Any}"},
    {"emoji", "\\p{Emoji}"},
    {"extendedpictographic", "\\p{Extended_Pictographic}"},
    {"upper", "\\p{Uppercase}"},
    {"lower", "\\p{Lowercase}"},
    {"blank", R"(\t\p{Zs})"},
    {"cntrl", "\\p{Cc}"},
    {"xdigit", "0-9A-Fa-f"},
    {"ascii", R"(\x{0}-\x{7f})"},
};

// [[:punct:]], where it differs from \p{Punct}.
constexpr NamedClass kPosixNames[] = {{"punct", "\\p{P}\\p{S}"}};

std::string Normalized(std::string_view name) {
  std::string normal;
  for (const char c : name) {
    if (c == ' ' || c == '_' || c == '-') continue;
    normal += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return normal;
}

// `set`, and for its general categories the characters that PCRE2's tables may
// lack.
std::string WithAdditions(std::string_view set) {
  std::string whole(set);
  for (size_t at = set.find("\\p{"); at != set.npos;
       at = set.find("\\p{", at + 1)) {
    const size_t begin = at + 3;
    const std::string_view name = set.substr(begin, set.find('}', at) - begin);
    if (name.size() > 2) continue;  // not a general category
    for (const CategoryRange& range : UnicodeAdditions()) {
      if (!range.category.starts_with(name)) continue;
      whole += fmt::format("\\x{{{:x}}}-\\x{{{:x}}}",
                           static_cast<uint32_t>(range.first),
                           static_cast<uint32_t>(range.last));
    }
  }
  return whole;
}

// A class of characters inside a set, or all others.
struct Members {
  std::string set;
  bool negated = false;
};

// Classes of case. Inside a set, Oniguruma adds the other case to them where
// case is ignored; PCRE2 does not.
bool DependsOnCase(std::string_view set) {
  return std::ranges::any_of(
      std::array<std::string_view, 5>{"\\p{Lu}", "\\p{Ll}", "\\p{Lt}",
                                      "\\p{Uppercase}", "\\p{Lowercase}"},
      [&](std::string_view name) { return set.find(name) != set.npos; });
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : rest_(pattern) {}

  Result<std::string> Translate() {
    while (!rest_.empty() && problem_.empty()) Step();
    if (!problem_.empty()) return Failed(problem_);
    return out_;
  }

 private:
  void Step() {
    const char c = rest_.front();
    switch (c) {
      case '\\':
        return Escape();
      case '[':
        rest_.remove_prefix(1);
        return Atom(Set(0));
      case '(':
        return OpenGroup();
      case ')':
        rest_.remove_prefix(1);
        out_ += ')';
        if (!groups_.empty()) {
          atom_ = groups_.back().begin;
          ignores_case_ = groups_.back().ignored_case;
          groups_.pop_back();
        }
        return;
      case '{':
        return Interval();
      case '*':
      case '+':
      case '?':
      case '|':
      case '^':
      case '$':
        out_ += c;
        rest_.remove_prefix(1);
        return;
      default:
        return Atom(std::string(TakeBytes(CharacterSize(rest_))));
    }
  }

  // Adds what a quantifier may follow.
  void Atom(const std::string& text) {
    atom_ = out_.size();
    out_ += text;
  }

  std::string_view TakeBytes(size_t count) {
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(taken.size());
    return taken;
  }

  void Fail(const std::string& problem) {
    if (problem_.empty()) problem_ = problem;
  }

  // "(", and for "(?m" the letter that PCRE2 has for it: in Oniguruma, m means
  // that a point matches \n.
  void OpenGroup() {
    groups_.push_back({out_.size(), ignores_case_});
    out_ += TakeBytes(1);
    if (!rest_.starts_with('?')) return;
    out_ += TakeBytes(1);
    size_t flags = 0;
    while (flags < rest_.size() && std::strchr("imx-", rest_[flags]) != nullptr)
      ++flags;
    if (flags == 0) {
      if (rest_.starts_with('~')) Fail("has (?~, which PCRE2 lacks");
      if (rest_.starts_with('#')) {  // a comment
        out_ += TakeBytes(rest_.find(')'));
      } else if (rest_.starts_with('<') || rest_.starts_with('P')) {
        // A name, or a look behind.
        const bool looks = rest_.starts_with("<=") || rest_.starts_with("<!");
        out_ += TakeBytes(looks ? 2 : rest_.find('>') + 1);
      } else {
        out_ += TakeBytes(1);
      }
      return;
    }
    bool on = true;
    for (const char flag : TakeBytes(flags)) {
      out_ += flag == 'm' ? 's' : flag;
      if (flag == '-') on = false;
      if (flag == 'i') ignores_case_ = on;
    }
    if (rest_.starts_with(')')) {  // for the rest of the group around it
      groups_.back().ignored_case = ignores_case_;
      return;
    }
    out_ += TakeBytes(1);  // ':'
  }

  // {2}, {2,}, {,3}, {2,3}. In Oniguruma a + after one repeats it, and a ?
  // after {2} makes it optional.
  void Interval() {
    const size_t end = rest_.find('}');
    const std::string_view inside =
        end == rest_.npos ? "" : rest_.substr(1, end - 1);
    const bool counts =
        !inside.empty() && inside != "," &&
        std::ranges::all_of(
            inside,
            [](unsigned char c) { return std::isdigit(c) != 0 || c == ','; }) &&
        std::ranges::count(inside, ',') <= 1;
    if (!counts) {
      rest_.remove_prefix(1);
      return Atom("\\{");
    }
    rest_.remove_prefix(end + 1);
    out_ += inside.starts_with(',') ? fmt::format("{{0{}}}", inside)
                                    : fmt::format("{{{}}}", inside);
    const bool fixed = inside.find(',') == inside.npos;
    if (rest_.starts_with('+') || (fixed && rest_.starts_with('?'))) {
      out_.insert(atom_, "(?:");
      out_ += ')';
      out_ += TakeBytes(1);
    }
  }

  // The escape at the start of `rest_`, outside sets.
  void Escape() {
    const char c = rest_.size() < 2 ? '\0' : rest_[1];
    if (const std::optional<Members> members = EscapedClass()) {
      const bool is_word = c == 'w' || c == 'W';
      return Atom(fmt::format("[{}{}{}]", members->negated ? "^" : "",
                              members->set, is_word ? kWordBesides : ""));
    }
    switch (c) {
      case 'b':
      case 'B':
        rest_.remove_prefix(2);
        return Atom(Boundary(c == 'B'));
      case 'O':
        rest_.remove_prefix(2);
        return Atom("(?s:.)");
      case 'R':
      case 'X':
      case 'A':
      case 'z':
      case 'Z':
      case 'G':
      case 'K':
      case 'N':
        return Atom(std::string(TakeBytes(2)));
      case 'k':
      case 'g': {
        const size_t end = rest_.find('>');
        return Atom(std::string(TakeBytes(end == rest_.npos ? end : end + 1)));
      }
      default:
        if (c >= '1' && c <= '9') return Atom(std::string(TakeBytes(2)));
        return Atom(EscapedCharacter());
    }
  }

  static std::string Boundary(bool negated) {
    const std::string word =
        fmt::format("[{}{}]", WithAdditions(kWordInSet), kWordBesides);
    const auto either = [&](const char* first, const char* second) {
      return fmt::format("(?:(?<{0}{2})(?{1}{2})|(?<{1}{2})(?{0}{2}))", first,
                         second, word);
    };
    if (!negated) return either("=", "!");
    return fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word);
  }

  // Takes an escape that stands for a class, \s, if there is one.
  std::optional<Members> EscapedClass() {
    const char c = rest_.size() < 2 ? '\0' : rest_[1];
    const auto named = [&](std::string_view set, char negated) {
      rest_.remove_prefix(2);
      return Members{WithAdditions(set), c == negated};
    };
    switch (c) {
      case 's':
      case 'S':
        return named(kSpace, 'S');
      case 'w':
      case 'W':
        return named(kWordInSet, 'W');
      case 'd':
      case 'D':
        return named("\\p{Nd}", 'D');
      case 'h':
      case 'H':
        return named("0-9A-Fa-f", 'H');
      case 'p':
      case 'P':
        return rest_.substr(2).starts_with('{') ? Property()
                                                : std::optional<Members>();
      default:
        return std::nullopt;
    }
  }

  // \p{L}, \p{^L}, \P{L}.
  std::optional<Members> Property() {
    bool negated = rest_[1] == 'P';
    const size_t end = rest_.find('}');
    if (end == rest_.npos) {
      Fail("has \\p without '}'");
      return Members{};
    }
    std::string_view name = rest_.substr(3, end - 3);
    rest_.remove_prefix(end + 1);
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    const std::string normal = Normalized(name);
    for (const NamedClass& known : kProperties) {
      if (known.name == normal) {
        return Members{WithAdditions(known.set), negated};
      }
    }
    // A category, or a script: PCRE2 knows the name or does not.
    if (name.size() <= 2) {
      return Members{WithAdditions(fmt::format("\\p{{{}}}", name)), negated};
    }
    return Members{fmt::format("\\p{{{}{}}}{}", kScriptPrefix, name,
                               normal == "han" ? kLaterHan : ""),
                   negated};
  }

  // Takes an escape that stands for one character.
  std::string EscapedCharacter() {
    if (rest_.size() < 2) {
      Fail("ends with \\");
      return "";
    }
    const char c = rest_[1];
    const auto digits = [&](size_t most) {
      size_t count = 0;
      while (count < most && 2 + count < rest_.size() &&
             std::isxdigit(static_cast<unsigned char>(rest_[2 + count])) != 0)
        ++count;
      const std::string_view text = rest_.substr(2, count);
      rest_.remove_prefix(2 + count);
      return fmt::format("\\x{{{}}}", text.empty() ? "0" : text);
    };
    switch (c) {
      case 'v':
        rest_.remove_prefix(2);
        return "\\x{b}";
      case 'n':
      case 't':
      case 'r':
      case 'f':
      case 'a':
      case 'e':
        return std::string(TakeBytes(2));
      case 'u':
        return digits(4);
      case 'x':
      case 'o':
        if (rest_.substr(2).starts_with('{')) {
          const size_t end = rest_.find('}');
          return std::string(TakeBytes(end == rest_.npos ? end : end + 1));
        }
        if (c == 'x') return digits(2);
        break;
      case 'y':
      case 'Y':
      case 'c':
      case 'C':
      case 'M':
        Fail(fmt::format("has \\{}, which PCRE2 lacks", c));
        break;
      case '0':
        return std::string(TakeBytes(2));
      default:
        break;
    }
    rest_.remove_prefix(1);
    const std::string_view character = TakeBytes(CharacterSize(rest_));
    // An escaped letter that means nothing is the letter itself.
    const bool plain =
        character.size() > 1 ||
        std::isalnum(static_cast<unsigned char>(character[0])) != 0;
    return plain ? std::string(character) : fmt::format("\\{}", character);
  }

  // A set, after its '['. The result matches one character.
  std::string Set(size_t depth) {
    if (depth == kMaxDepth) {
      Fail("has sets inside each other too deeply");
      return "";
    }
    bool negated = false;
    if (rest_.starts_with('^')) {
      negated = true;
      rest_.remove_prefix(1);
    }
    std::vector<std::string> intersected;
    std::string items;                // of the union that is being read
    std::vector<std::string> others;  // sets that it has besides these
    const auto finish = [&] {
      std::string one = items.empty() ? "" : fmt::format("[{}]", items);
      for (const std::string& other : others) {
        one += (one.empty() ? "" : "|") + other;
      }
      if (one.empty()) one = "(?!)";
      intersected.push_back(others.empty() ? one : fmt::format("(?:{})", one));
      // A set without others is negated in itself.
      simple_ = others.empty() && !items.empty() ? items : "";
      items.clear();
      others.clear();
    };
    bool first = true;
    while (true) {
      if (rest_.empty()) {
        Fail("has a set without ']'");
        return "";
      }
      if (rest_.front() == ']' && !first) break;
      first = false;
      if (rest_.starts_with("&&")) {
        rest_.remove_prefix(2);
        finish();
      } else {
        SetItem(depth, items, others);
      }
      if (!problem_.empty()) return "";
    }
    rest_.remove_prefix(1);
    finish();
    if (negated && intersected.size() == 1 && !simple_.empty()) {
      return fmt::format("[^{}]", simple_);
    }
    std::string both;
    for (size_t i = 0; i + 1 < intersected.size(); ++i) {
      both += fmt::format("(?={})", intersected[i]);
    }
    both += intersected.back();
    if (negated) return fmt::format("(?:(?!{})(?s:.))", both);
    return intersected.size() == 1 ? both : fmt::format("(?:{})", both);
  }

  // One item of a set: a character, a class, or a set inside it.
  void SetItem(size_t depth, std::string& items,
               std::vector<std::string>& others) {
    if (rest_.starts_with("[:")) {
      if (const size_t end = rest_.find(":]"); end != rest_.npos) {
        std::string_view name = rest_.substr(2, end - 2);
        rest_.remove_prefix(end + 2);
        return Add(PosixClass(name), items, others);
      }
    }
    if (rest_.front() == '[') {
      rest_.remove_prefix(1);
      others.push_back(Set(depth + 1));
      return;
    }
    if (rest_.front() == '\\') {
      if (const std::optional<Members> members = EscapedClass()) {
        return Add(*members, items, others);
      }
      if (rest_.substr(1).starts_with('b')) {  // backspace
        rest_.remove_prefix(2);
        items += "\\x{8}";
        return;
      }
      items += EscapedCharacter();
      return;
    }
    if (rest_.front() == ']' || rest_.front() == '^') items += '\\';
    items += TakeBytes(CharacterSize(rest_));
  }

  void Add(const Members& members, std::string& items,
           std::vector<std::string>& others) {
    if (ignores_case_ && DependsOnCase(members.set)) {
      Fail("has a set with a class of case where case is ignored");
    }
    if (members.negated) {
      others.push_back(fmt::format("[^{}]", members.set));
      return;
    }
    items += members.set;
    if (rest_.starts_with('-')) {  // a class begins no range
      rest_.remove_prefix(1);
      items += "\\-";
    }
  }

  Members PosixClass(std::string_view name) {
    Members members;
    if (name.starts_with('^')) {
      members.negated = true;
      name.remove_prefix(1);
    }
    for (const NamedClass& known : kPosixNames) {
      if (known.name == name) {
        members.set = WithAdditions(known.set);
        return members;
      }
    }
    for (const NamedClass& known : kProperties) {
      if (known.name == name) {
        members.set = WithAdditions(known.set);
        return members;
      }
    }
    Fail(fmt::format("has [:{}:], which PCRE2 lacks", name));
    return members;
  }

  std::string_view rest_;
  std::string out_;
  std::string problem_;
  std::string simple_;  // the items of the last union, if it is no more
  size_t atom_ = 0;     // where in `out_` the last atom begins
  // Where the open groups begin, and whether case was ignored before them.
  struct Group {
    size_t begin = 0;
    bool ignored_case = false;
  };
  std::vector<Group> groups_;
  bool ignores_case_ = false;
};

}  // namespace

Result<std::string> ToPcre2(std::string_view pattern) {
  return Translator(pattern).Translate();
}

}  // namespace rankforge
