// `rankforge generate`: continues a prompt or a conversation, prints text as it
// comes.
#include "runtime/model/use/generate.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/files.h"
#include "cli/chat/chat_template.h"
#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/plugin_option.h"
#include "cli/support/session.h"
#include "cli/support/token_ids.h"
#include "runtime/model/use/generated_text.h"
namespace rankforge {
namespace {

struct GenerateArguments {
  CommonOptions common;
  SamplingOptions sampling;
  std::string model;
  // One of these is given, or standard input is the prompt.
  std::optional<std::string> prompt;
  std::string prompt_file;
  std::vector<int> prompt_ids;
  std::string messages;
  bool interactive = false;
  bool chat = false;
  std::string system;
  BosMode bos = BosMode::kAuto;
  std::vector<std::string> stops;
  size_t count = 0;   // 0: kDefaultCount, or kDefaultAnswer of a chat
  size_t lookup = 0;  // most tokens of a draft; 0: none
  double tau_scale = 1;

  bool chats() const { return chat || interactive || !messages.empty(); }
};

constexpr size_t kDefaultCount = 128;
constexpr size_t kDefaultAnswer = 512;
// Positions of a conversation, where the model has more.
constexpr size_t kMostConversation = size_t{1} << 15;

// A file, or standard input, without the newline that ends its last line.
Result<std::string> ReadPrompt(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(std::string text,
                             ReadTextFile(path, kMaxTextBytes));
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

// The prompt of --prompt, --prompt-file or standard input.
Result<std::string> PromptText(const GenerateArguments& arguments) {
  if (arguments.prompt) return *arguments.prompt;
  if (!arguments.prompt_file.empty()) return ReadPrompt(arguments.prompt_file);
  if (isatty(STDIN_FILENO) == 1) {
    return UsageError(
        "generate: no prompt; give --prompt, --prompt-file, --prompt-ids, "
        "--messages or --interactive, or pipe a text into it (see --help)");
  }
  return ReadPrompt(kStandardInput);
}

// The messages before the first answer; none with --interactive.
Result<Json> FirstMessages(const GenerateArguments& arguments) {
  Json messages = Json::array();
  if (!arguments.system.empty()) {
    messages.push_back(Message("system", arguments.system));
  }
  if (arguments.interactive) return messages;
  if (arguments.messages.empty()) {
    RANKFORGE_ASSIGN_OR_RETURN(const std::string text, PromptText(arguments));
    messages.push_back(Message("user", text));
    return messages;
  }
  RANKFORGE_ASSIGN_OR_RETURN(const Json given,
                             LoadMessages(arguments.messages));
  messages.insert(messages.end(), given.begin(), given.end());
  return messages;
}

// Tokens to generate after `prompt` positions, of which a context has
// `positions`; an error: none fits. One position stays free, so that a sampled
// token can be run.
Result<size_t> Room(const GenerateArguments& arguments, size_t prompt,
                    size_t positions) {
  if (prompt >= positions) {
    return Failed(fmt::format(
        "generate: {} prompt tokens leave no room in a context of {}; use a "
        "shorter prompt",
        prompt, positions));
  }
  const size_t wanted = arguments.count > 0 ? arguments.count
                        : arguments.chats() ? kDefaultAnswer
                                            : kDefaultCount;
  return std::min(wanted, positions - prompt);
}

// Generates after prompts in one cache.
class Writer {
 public:
  // `positions`: of the context; the cache may have room for fewer.
  Writer(const GenerateArguments& arguments, Model& model, KvCache cache,
         size_t positions, const Tokenizer* tokenizer)
      : arguments_(arguments),
        model_(model),
        positions_(positions),
        tokenizer_(tokenizer),
        cache_(std::move(cache)),
        sampler_(Sampling(arguments)) {}

  struct Answer {
    Generation generation;
    std::string text;
    std::string ended;  // by "eos", "stop", "length" or "context"
  };

  // Continues `prompt`, of which the cache may hold the first tokens.
  Result<Answer> Continue(std::span<const int> prompt, bool print) {
    if (prompt.empty()) {
      return Failed(
          "generate: the chat template makes no tokens of the messages");
    }
    // A prompt needs all layers: where the last one left out some, or might
    // have, this one runs from its first token.
    if (cache_.decision()) cache_.Clear();
    cache_.Truncate(KnownOf(prompt));
    held_.assign(prompt.begin(), prompt.end());
    RANKFORGE_ASSIGN_OR_RETURN(const size_t room,
                               Room(arguments_, prompt.size(), positions_));
    Answer answer;
    bool stopped = false;
    std::optional<GeneratedText> text;
    if (tokenizer_ != nullptr) {
      text.emplace(*tokenizer_, prompt, arguments_.stops,
                   print ? PrintNow : GeneratedText::Print());
    }
    RANKFORGE_ASSIGN_OR_RETURN(answer.generation,
                               rankforge::Continue(
                                   model_, cache_, held_, room, sampler_,
                                   [&](int id) {
                                     if (text) stopped = !text->Add(id);
                                     if (!text && print)
                                       PrintNow(fmt::format("{} ", id));
                                     return !stopped;
                                   },
                                   arguments_.lookup));
    if (text) {
      text->Finish();
      answer.text = text->text();
    }
    const std::vector<int>& ids = answer.generation.ids;
    held_.insert(held_.end(), ids.begin(), ids.end());
    answer.ended = answer.generation.ended      ? "eos"
                   : stopped                    ? "stop"
                   : held_.size() >= positions_ ? "context"
                                                : "length";
    return answer;
  }

 private:
  static SamplingOptions Sampling(const GenerateArguments& arguments) {
    SamplingOptions sampling = arguments.sampling;
    sampling.seed = arguments.common.seed;
    return sampling;
  }
  static void PrintNow(std::string_view text) {
    PrintText(text);
    std::fflush(stdout);
  }

  // How many tokens of `prompt` the cache holds. At least one has to be run.
  size_t KnownOf(std::span<const int> prompt) const {
    const size_t most =
        std::min({held_.size(), cache_.length(), prompt.size() - 1});
    size_t known = 0;
    while (known < most && held_[known] == prompt[known]) ++known;
    return known;
  }

  const GenerateArguments& arguments_;
  Model& model_;
  size_t positions_;
  const Tokenizer* tokenizer_;
  KvCache cache_;
  Sampler sampler_;
  std::vector<int> held_;  // what was run, and the last sampled token
};

double TokensPerPass(const DraftCounts& counts) {
  return counts.passes == 0 ? 0
                            : static_cast<double>(counts.decoded) /
                                  static_cast<double>(counts.passes);
}

// Where drafts failed, once for all of them.
void TellFailures(const DraftCounts& drafts) {
  if (drafts.failed == 0) return;
  PrintMessage(fmt::format(
      "--lookup: {} drafts failed, and the tokens ran without; the first: {}",
      drafts.failed, drafts.failure));
}

void PrintSpeed(const GenerateArguments& arguments, const ModelSession& session,
                const Generation& generation) {
  // No message: a result, which leaves stdout to the text.
  PrintToStderr(fmt::format(
      "{} tokens; loaded in {:.3f} s, prefill {:.1f} tokens/s, "
      "decode {:.1f} tokens/s\n",
      generation.ids.size(), session.load_seconds,
      generation.prefill_tokens_per_s, generation.decode_tokens_per_s));
  const DraftCounts& drafts = generation.drafts;
  if (arguments.lookup > 0 && drafts.passes > 0) {
    PrintToStderr(fmt::format(
        "drafted {} tokens, accepted {}; {} passes, {:.2f} tokens each\n",
        drafts.drafted, drafts.accepted, drafts.passes, TokensPerPass(drafts)));
  }
  if (!generation.layers) return;
  PrintToStderr(Described(*generation.layers, session.model->config().layers) +
                "\n");
}

// Turn by turn from standard input, until it ends.
Status Converse(const GenerateArguments& arguments, ModelSession& session,
                const Tokenizer& tokenizer, const ChatTemplate& chat,
                Json messages) {
  Model& model = *session.model;
  const size_t positions =
      std::min(model.config().max_positions, kMostConversation);
  RANKFORGE_ASSIGN_OR_RETURN(KvCache cache, model.NewCache(positions));
  Writer writer(arguments, model, std::move(cache), positions, &tokenizer);
  for (std::string line;;) {
    PrintToStderr("> ");
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) continue;
    messages.push_back(Message("user", line));
    RANKFORGE_ASSIGN_OR_RETURN(const std::string text, chat.Render(messages));
    const std::vector<int> ids = tokenizer.Encode(text);
    if (ids.size() >= positions) {
      messages.erase(messages.size() - 1);
      PrintMessage(fmt::format(
          "this message would take the conversation to {} tokens, and the "
          "context has {}; write a shorter one, or start again",
          ids.size(), positions));
      continue;
    }
    RANKFORGE_ASSIGN_OR_RETURN(const Writer::Answer answer,
                               writer.Continue(ids, /*print=*/true));
    Print("\n");
    RANKFORGE_RETURN_IF_ERROR(FlushOutput());
    messages.push_back(Message("assistant", answer.text));
    TellFailures(answer.generation.drafts);
    PrintSpeed(arguments, session, answer.generation);
  }
  PrintToStderr("\n");
  return {};
}

// What is to be continued, as ids.
Result<std::vector<int>> PromptIds(const GenerateArguments& arguments,
                                   const Tokenizer& tokenizer,
                                   const std::optional<ChatTemplate>& chat,
                                   const Json& messages) {
  std::vector<int> ids;
  if (chat) {
    // The template writes what a text begins with.
    RANKFORGE_ASSIGN_OR_RETURN(const std::string text, chat->Render(messages));
    ids = tokenizer.Encode(text);
  } else {
    RANKFORGE_ASSIGN_OR_RETURN(const std::string text, PromptText(arguments));
    RANKFORGE_ASSIGN_OR_RETURN(
        ids, EncodeText(arguments.model, tokenizer, text, arguments.bos));
  }
  if (ids.empty()) {
    return UsageError(
        fmt::format("{}: has no tokens; give at least one word",
                    arguments.prompt                 ? "--prompt"
                    : !arguments.prompt_file.empty() ? "--prompt-file"
                    : !arguments.messages.empty()    ? "--messages"
                                                     : "standard input"));
  }
  return ids;
}

Status Answer(const GenerateArguments& arguments, ModelSession& session,
              const Tokenizer* tokenizer, const std::vector<int>& prompt) {
  Model& model = *session.model;
  const size_t positions = model.config().max_positions;
  RANKFORGE_ASSIGN_OR_RETURN(const size_t room,
                             Room(arguments, prompt.size(), positions));
  RANKFORGE_ASSIGN_OR_RETURN(KvCache cache,
                             model.NewCache(prompt.size() + room));
  const bool stream = !arguments.common.json;
  Writer writer(arguments, model, std::move(cache), positions, tokenizer);
  if (stream && tokenizer != nullptr && !arguments.chats()) {
    PrintText(tokenizer->Decode(prompt));
  }
  RANKFORGE_ASSIGN_OR_RETURN(const Writer::Answer answer,
                             writer.Continue(prompt, stream));
  const Generation& generation = answer.generation;
  if (stream) {
    Print("\n");
    RANKFORGE_RETURN_IF_ERROR(FlushOutput());
  }
  TellFailures(generation.drafts);
  if (!stream) {
    Json document(
        {{"prompt_ids", prompt},
         {"ids", generation.ids},
         {"text", tokenizer != nullptr ? Json(answer.text) : Json(nullptr)},
         {"ended", answer.ended},
         {"load_seconds", Rounded(session.load_seconds, 4)},
         {"prefill_tokens_per_s", Rounded(generation.prefill_tokens_per_s, 4)},
         {"decode_tokens_per_s", Rounded(generation.decode_tokens_per_s, 4)}});
    if (arguments.lookup > 0) {
      document.update(
          {{"drafted", generation.drafts.drafted},
           {"accepted", generation.drafts.accepted},
           {"failed", generation.drafts.failed},
           {"passes", generation.drafts.passes},
           {"tokens_per_pass", Rounded(TokensPerPass(generation.drafts), 4)}});
    }
    if (generation.layers) document.update(ToJson(*generation.layers));
    PrintJson(document);
    return {};
  }
  if (answer.ended == "context") {
    PrintMessage(fmt::format("the context of {} positions is full", positions));
  }
  PrintSpeed(arguments, session, generation);
  return {};
}

// The tokenizer that the prompt needs. A prompt of ids needs none: what comes
// of them is printed as ids where the files of a tokenizer cannot be read.
Result<std::optional<Tokenizer>> PromptTokenizer(
    const GenerateArguments& arguments) {
  const bool has_ids = !arguments.prompt_ids.empty();
  if (!Tokenizer::IsIn(arguments.model)) {
    if (has_ids) return std::optional<Tokenizer>();
    // A folder or file that is no model lacks more than a tokenizer.
    RANKFORGE_RETURN_IF_ERROR(Checkpoint::Open(arguments.model).status());
    return Failed(
        arguments.model +
        ": has neither tokenizer.model nor tokenizer.json; give the prompt "
        "as --prompt-ids");
  }
  Result<Tokenizer> tokenizer = OpenTokenizer(arguments.model);
  if (tokenizer.ok()) {
    return std::optional<Tokenizer>(std::move(tokenizer).value());
  }
  if (!has_ids) return tokenizer.status();
  PrintMessage(tokenizer.status().message() + "; ids are printed");
  return std::optional<Tokenizer>();
}

Status RunGenerate(const GenerateArguments& arguments) {
  if (!arguments.prompt_ids.empty() && arguments.chat) {
    return UsageError("--prompt-ids excludes --chat (see --help)");
  }
  if (arguments.bos != BosMode::kAuto &&
      (!arguments.prompt_ids.empty() || arguments.chats())) {
    return UsageError(
        "--bos is for texts: ids are given whole, and a chat template writes "
        "its own (see --help)");
  }
  if (!arguments.system.empty() && !arguments.chats()) {
    return UsageError("--system requires --chat (see --help)");
  }
  if (arguments.interactive && arguments.common.json) {
    return UsageError("--interactive excludes --json (see --help)");
  }
  RANKFORGE_ASSIGN_OR_RETURN(const std::optional<Tokenizer> tokenizer,
                             PromptTokenizer(arguments));
  std::optional<ChatTemplate> chat;
  Json messages;
  if (arguments.chats()) {
    RANKFORGE_ASSIGN_OR_RETURN(chat, ChatTemplate::Load(arguments.model));
    RANKFORGE_ASSIGN_OR_RETURN(messages, FirstMessages(arguments));
  }
  std::vector<int> prompt = arguments.prompt_ids;
  if (prompt.empty() && !arguments.interactive) {
    RANKFORGE_ASSIGN_OR_RETURN(
        prompt, PromptIds(arguments, *tokenizer, chat, messages));
  }
  RANKFORGE_ASSIGN_OR_RETURN(
      const auto session,
      OpenModel(arguments.model, arguments.common, arguments.tau_scale));
  if (arguments.prompt_ids.empty() && !arguments.chats()) {
    CompareBos(session->adapter, arguments.common.adapter, arguments.bos);
  }
  if (arguments.interactive) {
    return Converse(arguments, *session, *tokenizer, *chat,
                    std::move(messages));
  }
  return Answer(arguments, *session, tokenizer ? &*tokenizer : nullptr, prompt);
}

void AddPrompt(CLI::App& command, GenerateArguments& arguments) {
  CLI::Option_group* source = command.add_option_group(
      "prompt", "What to continue; none of these: standard input");
  source->add_option("--prompt", arguments.prompt, "Text to continue");
  source
      ->add_option("--prompt-file", arguments.prompt_file,
                   "File with the text to continue; -: standard input")
      ->transform(TextInput());
  source->add_option_function<std::string>(
      "--prompt-ids",
      [&ids = arguments.prompt_ids](const std::string& text) {
        Result<std::vector<int>> parsed = ParseIds(text);
        if (!parsed.ok()) {
          throw CLI::ValidationError("--prompt-ids", parsed.status().message());
        }
        ids = std::move(parsed).value();
      },
      "Token ids to continue, 1,2,3: needs no tokenizer");
  source
      ->add_option("--messages", arguments.messages,
                   "JSON list of {\"role\", \"content\"} to answer; implies "
                   "--chat")
      ->transform(TextInput());
  source->add_flag("--interactive", arguments.interactive,
                   "A conversation, line by line from standard input; implies "
                   "--chat");
  source->require_option(0, 1);
  AddBos(command, arguments.bos);
  command.add_flag("--chat", arguments.chat,
                   "The prompt is a user's message: applies the checkpoint's "
                   "chat template (needs python3-jinja2)");
  command.add_option("--system", arguments.system,
                     "Message of the system that a chat begins with");
}

void AddSampling(CLI::App& command, SamplingOptions& sampling) {
  command
      .add_option("--temperature", sampling.temperature,
                  "Of sampling; 0: always the likeliest token")
      ->check(NumberFrom(0));
  command
      .add_option("--top-k", sampling.top_k,
                  "Sample from so many of the likeliest tokens; 0: all")
      ->check(WholeFrom(0));
  command
      .add_option("--top-p", sampling.top_p,
                  "Sample from the likeliest tokens whose probabilities "
                  "add up to this")
      ->check(NumberFrom(0, 1));
  command
      .add_option("--min-p", sampling.min_p,
                  "Sample from tokens with at least this share of the "
                  "likeliest one's probability")
      ->check(NumberFrom(0, 1));
  command
      .add_option("--repetition-penalty", sampling.repetition_penalty,
                  "Divides logits of tokens of the text so far (multiplies "
                  "negative ones)")
      ->check(NumberFrom(std::numeric_limits<double>::min()));
}

}  // namespace

void AddGenerate(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "generate", "Continue a prompt or a conversation, with tokens/s");
  auto arguments = std::make_shared<GenerateArguments>();
  AddModel(*command, arguments->model)->required();
  AddPrompt(*command, *arguments);
  command
      ->add_option("-n", arguments->count,
                   fmt::format("Tokens to generate, at most; not given: {}, or "
                               "{} of an answer",
                               kDefaultCount, kDefaultAnswer))
      ->check(WholeFrom(1));
  command
      ->add_option("--stop", arguments->stops,
                   "Text that ends the generated text; may be given several "
                   "times")
      ->check([](const std::string& text) {
        return text.empty() ? "must not be empty" : "";
      });
  command
      ->add_option("--lookup", arguments->lookup,
                   fmt::format("Draft up to so many tokens, at most {}, from "
                               "what followed the last ones before, and check "
                               "them in one pass: the same tokens, sooner "
                               "where a text comes again; 0: no drafts",
                               kMostDrafted))
      ->check(WholeFrom(0, kMostDrafted));
  AddSampling(*command, arguments->sampling);
  AddSeed(*command, arguments->common);
  AddTauScale(*command, arguments->tau_scale);
  AddAdapter(*command, arguments->common);
  AddLayerSkip(*command, arguments->common);
  AddTypes(*command, arguments->common);
  AddTableOption(*command, arguments->common);
  AddPackOption(*command, arguments->common);
  AddOptimized(*command, arguments->common);
  AddThreads(*command, arguments->common);
  AddJson(*command, arguments->common);
  AddPlugins(*command, action);
  SetAction(*command, action, RunGenerate, arguments);
}

}  // namespace rankforge
