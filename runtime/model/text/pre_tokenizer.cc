#include "runtime/model/text/pre_tokenizer.h"

#include <algorithm>
#include <span>

#include "runtime/model/text/byte_alphabet.h"
#include "runtime/model/text/unicode.h"

namespace rankforge {

namespace {

// The part that a match becomes the end of: the last one, unless that is a
// match, too.
std::vector<TextPart> MergedWithPrevious(std::span<const TextPart> parts) {
  std::vector<TextPart> merged;
  bool after_match = false;
  for (const TextPart& part : parts) {
    if (part.matches && !after_match && !merged.empty()) {
      merged.back().end = part.end;
    } else {
      merged.push_back({part.begin, part.end, false});
    }
    after_match = part.matches;
  }
  return merged;
}

std::vector<TextPart> MergedWithNext(std::span<const TextPart> parts) {
  std::vector<TextPart> merged;  // from the last to the first
  bool before_match = false;
  for (size_t i = parts.size(); i-- > 0;) {
    const TextPart& part = parts[i];
    if (part.matches && !before_match && !merged.empty()) {
      merged.back().begin = part.begin;
    } else {
      merged.push_back({part.begin, part.end, false});
    }
    before_match = part.matches;
  }
  std::ranges::reverse(merged);
  return merged;
}

std::vector<TextPart> Contiguous(std::span<const TextPart> parts) {
  std::vector<TextPart> merged;
  for (const TextPart& part : parts) {
    if (!merged.empty() && merged.back().matches == part.matches) {
      merged.back().end = part.end;
    } else {
      merged.push_back(part);
    }
  }
  return merged;
}

// The pieces of a text that `behavior` makes of its parts.
std::vector<TextPart> Pieces(std::vector<TextPart> parts,
                             SplitBehavior behavior) {
  switch (behavior) {
    case SplitBehavior::kRemoved:
      std::erase_if(parts, [](const TextPart& part) { return part.matches; });
      return parts;
    case SplitBehavior::kIsolated:
      return parts;
    case SplitBehavior::kMergedWithPrevious:
      return MergedWithPrevious(parts);
    case SplitBehavior::kMergedWithNext:
      return MergedWithNext(parts);
    case SplitBehavior::kContiguous:
      return Contiguous(parts);
  }
  return parts;
}

// Walks through the steps, piece by piece: a text of megabytes never lies in
// memory once per step.
class PieceWalk {
 public:
  PieceWalk(std::span<const PreTokenizerStep> steps,
            const std::function<void(std::string_view)>& use)
      : steps_(steps), use_(use) {}

  void Run(size_t step, std::string_view text, bool first) const {
    if (text.empty()) return;
    if (step == steps_.size()) return use_(text);
    std::visit([&](const auto& s) { Apply(s, step + 1, text, first); },
               steps_[step]);
  }

 private:
  void Cut(std::span<const TextPart> pieces, size_t next, std::string_view text,
           bool first) const {
    for (const TextPart& piece : pieces) {
      Run(next, text.substr(piece.begin, piece.end - piece.begin),
          first && piece.begin == 0);
    }
  }

  void Apply(const SplitStep& split, size_t next, std::string_view text,
             bool first) const {
    std::vector<TextPart> parts = split.pattern.Parts(text);
    if (split.invert) {
      for (TextPart& part : parts) part.matches = !part.matches;
    }
    Cut(Pieces(std::move(parts), split.behavior), next, text, first);
  }

  void Apply(const ByteLevelStep& bytes, size_t next, std::string_view text,
             bool first) const {
    std::string spaced;
    if (bytes.adds_space && !text.starts_with(' ')) {
      spaced = ' ';
      spaced += text;
      text = spaced;
    }
    std::vector<TextPart> parts = {{0, text.size(), false}};
    if (bytes.pattern) parts = bytes.pattern->Parts(text);
    std::string characters;
    for (const TextPart& part : parts) {
      characters.clear();
      ByteAlphabet::Get().Append(text.substr(part.begin, part.end - part.begin),
                                 characters);
      Run(next, characters, first && part.begin == 0);
    }
  }

  void Apply(const MetaspaceStep& meta, size_t next, std::string_view text,
             bool first) const {
    std::string spaced =
        Replaced(text, TextPattern::Literal(" "), meta.replacement);
    const bool prepends = meta.prepends == PrependScheme::kAlways ||
                          (meta.prepends == PrependScheme::kFirst && first);
    if (prepends && !spaced.starts_with(meta.replacement)) {
      spaced.insert(0, meta.replacement);
    }
    if (!meta.splits) return Run(next, spaced, first);
    Cut(MergedWithNext(TextPattern::Literal(meta.replacement).Parts(spaced)),
        next, spaced, first);
  }

  void Apply(const FixedLengthStep& fixed, size_t next, std::string_view text,
             bool first) const {
    while (!text.empty()) {
      std::string_view rest = text;
      for (size_t i = 0; i < fixed.length && !rest.empty(); ++i) {
        TakeCharacter(rest);
      }
      Run(next, text.substr(0, text.size() - rest.size()), first);
      text = rest;
      first = false;
    }
  }

  std::span<const PreTokenizerStep> steps_;
  const std::function<void(std::string_view)>& use_;
};

}  // namespace

std::string_view Name(SplitBehavior behavior) {
  switch (behavior) {
    case SplitBehavior::kRemoved:
      return "Removed";
    case SplitBehavior::kIsolated:
      return "Isolated";
    case SplitBehavior::kMergedWithPrevious:
      return "MergedWithPrevious";
    case SplitBehavior::kMergedWithNext:
      return "MergedWithNext";
    case SplitBehavior::kContiguous:
      return "Contiguous";
  }
  return "";
}

std::string_view Name(PrependScheme scheme) {
  switch (scheme) {
    case PrependScheme::kAlways:
      return "always";
    case PrependScheme::kFirst:
      return "first";
    case PrependScheme::kNever:
      return "never";
  }
  return "";
}

void ForEachPiece(const std::vector<PreTokenizerStep>& steps,
                  std::string_view text, bool first,
                  const std::function<void(std::string_view)>& use) {
  PieceWalk(steps, use).Run(0, text, first);
}

}  // namespace rankforge
