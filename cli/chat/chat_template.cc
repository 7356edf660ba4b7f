#include "cli/chat/chat_template.h"

#include <algorithm>
#include <optional>

#include "base/child_process.h"
#include "base/files.h"
#include "cli/support/session.h"
#include "runtime/model/format/gguf.h"
#include "runtime/model/format/gguf_model.h"

namespace rankforge {
namespace {

constexpr size_t kMaxConfigBytes = size_t{64} << 20;
// Exit codes of render_chat.py.
constexpr int kNoJinja = 3;
constexpr int kTemplateFailed = 4;
// The one on PATH may belong to an environment without jinja2; then Debian's.
constexpr const char* kPythons[] = {"python3", "/usr/bin/python3"};

// Its name and its text.
constexpr std::pair<std::string_view, std::string_view> kRenderer[] = {
#include "render_chat.inc"
};

// The value of a special token: a string, or an object with its content.
Json TokenText(const Json& token) {
  if (token.is_string()) return token;
  if (token.is_object() && token.contains("content")) return token["content"];
  return nullptr;
}

Json SpecialTokens(const Json& config) {
  Json tokens = Json::object();
  for (const auto& [name, value] : config.items()) {
    if (!name.ends_with("_token")) continue;
    const Json text = TokenText(value);
    if (text.is_string()) tokens[name] = text;
  }
  return tokens;
}

// A template, or the one named "default" of a list.
Json DefaultTemplate(const Json& field) {
  if (field.is_string()) return field;
  if (!field.is_array()) return nullptr;
  for (const Json& entry : field) {
    if (entry.is_object() && entry.value("name", Json()) == "default") {
      return entry.value("template", Json());
    }
  }
  return nullptr;
}

}  // namespace

// What the metadata of a GGUF file says: the template, and the special tokens
// that it may name.
Result<ChatTemplate> ChatTemplate::LoadGguf(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  RANKFORGE_ASSIGN_OR_RETURN(const auto text,
                             file.Text("tokenizer.chat_template"));
  if (!text) {
    return Failed(path +
                  ": has no metadata 'tokenizer.chat_template'; use --prompt "
                  "without --chat, or a chat model");
  }
  RANKFORGE_ASSIGN_OR_RETURN(const auto vocabulary,
                             file.Texts("tokenizer.ggml.tokens"));
  Json tokens = Json::object();
  for (const std::string name : {"bos", "eos"}) {
    RANKFORGE_ASSIGN_OR_RETURN(
        const auto id,
        file.Count(fmt::format("tokenizer.ggml.{}_token_id", name)));
    if (id && vocabulary && *id < vocabulary->size()) {
      tokens[name + "_token"] = std::string((*vocabulary)[*id]);
    }
  }
  return ChatTemplate(path, *text, std::move(tokens));
}

Result<ChatTemplate> ChatTemplate::Load(const std::string& model) {
  if (const std::optional<std::string> path = GgufPathOf(model)) {
    return LoadGguf(*path);
  }
  const std::string file = model + "/chat_template.jinja";
  const std::string config_path = model + "/tokenizer_config.json";
  Json config = Json::object();
  if (FileExists(config_path)) {
    RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                               ReadTextFile(config_path, kMaxConfigBytes));
    RANKFORGE_ASSIGN_OR_RETURN(config, ParseInput(config_path, text));
    if (!config.is_object()) {
      return Failed(config_path + ": not a JSON object; download it again");
    }
  }
  Json tokens = SpecialTokens(config);
  if (FileExists(file)) {
    RANKFORGE_ASSIGN_OR_RETURN(std::string text,
                               ReadTextFile(file, kMaxConfigBytes));
    return ChatTemplate(model, std::move(text), std::move(tokens));
  }
  const Json text = DefaultTemplate(config.value("chat_template", Json()));
  if (!text.is_string()) {
    return Failed(
        model +
        ": has no chat template (chat_template.jinja, or 'chat_template' in "
        "tokenizer_config.json); use --prompt without --chat, or a chat model");
  }
  return ChatTemplate(model, text.get<std::string>(), std::move(tokens));
}

Result<std::string> ChatTemplate::Render(const Json& messages) const {
  Json values = tokens_;
  values["messages"] = messages;
  values["add_generation_prompt"] = true;
  const std::string request =
      Json{{"template", text_}, {"values", std::move(values)}}.dump(
          -1, ' ', false, Json::error_handler_t::replace);
  for (const char* python : kPythons) {
    // -I: no module comes from the current folder, which may be the model's.
    const Result<ChildResult> child =
        RunChild({python, "-I", "-c", std::string(kRenderer[0].second)},
                 {.input = request});
    if (!child.ok() || child->exit_code == 127) continue;
    switch (child->exit_code) {
      case 0:
        return child->output;
      case kNoJinja:
        continue;
      case kTemplateFailed:
        return Failed(
            fmt::format("{}: chat template: {:.300}", model_, child->output));
      default:
        return Failed(fmt::format(
            "{}: chat template: {} ended with {}: it takes too long or too "
            "much memory; use another template",
            model_, python, child->exit_code));
    }
  }
  return EnvironmentError(
      "--chat: no Python with jinja2; apt-get install python3-jinja2");
}

Result<Json> LoadMessages(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text,
                             ReadTextFile(path, kMaxTextBytes));
  RANKFORGE_ASSIGN_OR_RETURN(const Json document, ParseInput(path, text));
  const Json messages =
      document.is_object() ? document.value("messages", Json()) : document;
  const auto is_message = [](const Json& message) {
    return message.is_object() && message.value("role", Json()).is_string() &&
           message.value("content", Json()).is_string();
  };
  constexpr const char* kForm =
      R"(write [{"role": "user", "content": "..."}], with strings alone)";
  if (!messages.is_array() || messages.empty()) {
    return Failed(fmt::format("{}: no list of messages; {}", path, kForm));
  }
  const auto wrong = std::ranges::find_if_not(messages, is_message);
  if (wrong != messages.end()) {
    return Failed(fmt::format("{}: message {} is {:.60}; {}", path,
                              wrong - messages.begin(), wrong->dump(), kForm));
  }
  return messages;
}

Json Message(const std::string& role, const std::string& content) {
  return {{"role", role}, {"content", content}};
}

}  // namespace rankforge
