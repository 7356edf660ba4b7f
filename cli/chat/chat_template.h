// A checkpoint's chat template: from messages to the text that the model
// continues.
#ifndef RANKFORGE_CLI_CHAT_CHAT_TEMPLATE_H_
#define RANKFORGE_CLI_CHAT_CHAT_TEMPLATE_H_

#include <string>
#include <utility>

#include "base/status.h"
#include "cli/support/output.h"

namespace rankforge {

class ChatTemplate {
 public:
  // Reads `model`/chat_template.jinja or the field chat_template of
  // `model`/tokenizer_config.json, whose special tokens templates may name; or
  // the metadata of a GGUF file.
  static Result<ChatTemplate> Load(const std::string& model);

  // `messages`: a list of {"role", "content"}. The text ends where the answer
  // of the assistant begins. Debian's python3-jinja2 renders it, in its
  // sandbox.
  Result<std::string> Render(const Json& messages) const;

 private:
  static Result<ChatTemplate> LoadGguf(const std::string& path);
  ChatTemplate(std::string model, std::string text, Json tokens)
      : model_(std::move(model)),
        text_(std::move(text)),
        tokens_(std::move(tokens)) {}

  std::string model_;
  std::string text_;
  Json tokens_;  // by name: "bos_token", ...
};

// The messages of a JSON file: a list of objects with the strings "role" and
// "content", or an object that has such a list as "messages".
Result<Json> LoadMessages(const std::string& path);

// {"role": role, "content": content}
Json Message(const std::string& role, const std::string& content);

}  // namespace rankforge

#endif  // RANKFORGE_CLI_CHAT_CHAT_TEMPLATE_H_
