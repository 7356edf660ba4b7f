// The text of tokens as they come, up to a text that ends it.
#ifndef RANKFORGE_RUNTIME_MODEL_USE_GENERATED_TEXT_H_
#define RANKFORGE_RUNTIME_MODEL_USE_GENERATED_TEXT_H_

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/format/tokenizer.h"

namespace rankforge {

class GeneratedText {
 public:
  using Print = std::function<void(std::string_view)>;

  // The text continues that of `context`. It ends before the first of `stops`
  // (none of them empty) in it. `print` (may be empty) gets what is certain: a
  // token may end inside a character, and a stop text may have begun.
  GeneratedText(const Tokenizer& tokenizer, std::span<const int> context,
                std::vector<std::string> stops, Print print);

  // False: a stop text was reached.
  bool Add(int id);
  // Prints what was held back. An incomplete character becomes U+FFFD.
  void Finish();
  const std::string& text() const { return text_; }
  // Whether part of the text waits for what comes next.
  bool holds() const {
    return !stopped_ && (printed_ < text_.size() || stream_.holds());
  }

 private:
  void PrintUpTo(size_t size);
  // Length of the longest end of the text that a stop text begins with.
  size_t HeldBack() const;

  void Append(std::string_view text);

  DecodingStream stream_;
  std::vector<std::string> stops_;
  Print print_;
  std::string text_;
  size_t printed_ = 0;
  bool stopped_ = false;
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_USE_GENERATED_TEXT_H_
