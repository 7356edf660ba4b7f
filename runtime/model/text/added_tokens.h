// Tokens that are found in a text as they are written ("<|im_start|>"), before
// the model sees it.
#ifndef RANKFORGE_RUNTIME_MODEL_TEXT_ADDED_TOKENS_H_
#define RANKFORGE_RUNTIME_MODEL_TEXT_ADDED_TOKENS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rankforge {

struct AddedToken {
  std::string content;
  int id = 0;
  bool special = false;      // stands for no text
  bool normalized = false;   // is found in the normalised text
  bool single_word = false;  // is no part of a longer word
  bool takes_left = false;   // with the White_Space before it
  bool takes_right = false;  // with the White_Space after it
};

// A part of a text: an added token, or what lies between two.
struct AddedPart {
  size_t begin = 0;
  size_t end = 0;
  int id = -1;  // of the token; -1: none
};

// Finds tokens in a text: from the left, the longest of those that begin at one
// place.
class AddedTokenFinder {
 public:
  // `content` is what the text has for the token: its content, or that after
  // normalisation. The first token of a content counts.
  void Add(const AddedToken& token, std::string_view content);

  // All of `text`, without empty parts between tokens.
  std::vector<AddedPart> Parts(std::string_view text) const;
  // The ids of `text`: those of the tokens in it, and for what lies between two
  // what between(text, begins, ids) appends. `begins`: the text begins there.
  template <class Between>
  std::vector<int> Encode(std::string_view text, Between between) const {
    std::vector<int> ids;
    for (const AddedPart& part : Parts(text)) {
      if (part.id >= 0) {
        ids.push_back(part.id);
      } else {
        between(text.substr(part.begin, part.end - part.begin), part.begin == 0,
                ids);
      }
    }
    return ids;
  }

 private:
  // A trie by bytes. Nodes have few children: a list each.
  struct Node {
    int token = -1;  // that ends here, an index into `tokens_`
    std::vector<std::pair<char, uint32_t>> next;
  };
  const Node* Next(const Node& node, char byte) const;
  // The longest token at the start of `text`, and how long it is. Null: none.
  const AddedToken* LongestAt(std::string_view text, size_t& size) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_ = std::vector<Node>(1);
};

}  // namespace rankforge

#endif  // RANKFORGE_RUNTIME_MODEL_TEXT_ADDED_TOKENS_H_
