// `rankforge describe`: what the parser knows, as manual pages and completions.
#include <filesystem>
#include <memory>

#include "base/atomic_file.h"
#include "cli/describe/completions.h"
#include "cli/describe/man_page.h"
#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"

namespace rankforge {
namespace {

namespace fs = std::filesystem;

struct DescribeArguments {
  CommonOptions common;
  const CLI::App* program;
  std::string out;
};

struct File {
  std::string path;  // below --out, where systems look for it below share/
  std::string text;
};

std::vector<File> FilesOf(const CommandDescription& program) {
  std::vector<File> files = {
      {"bash-completion/completions/rankforge", BashCompletion(program)},
      {"zsh/site-functions/_rankforge", ZshCompletion(program)},
  };
  for (const CommandDescription* command : AllOf(program)) {
    files.push_back({"man/man1/" + PageName(*command) + ".1",
                     ManPage(*command, RANKFORGE_VERSION)});
  }
  return files;
}

Status RunDescribe(const DescribeArguments& arguments) {
  Json written = Json::array();
  for (const File& file : FilesOf(Describe(*arguments.program))) {
    const fs::path path = fs::path(arguments.out) / file.path;
    std::error_code error;
    fs::create_directories(path.parent_path(), error);
    if (error) {
      return Failed(path.parent_path().string() + ": " + error.message() +
                    "; --out names a folder that can be written");
    }
    RANKFORGE_RETURN_IF_ERROR(WriteFileAtomically(path.string(), file.text));
    written.push_back(path.string());
  }
  if (arguments.common.json) {
    PrintJson({{"files", written}});
    return {};
  }
  Print("{}: {} files\n", arguments.out, written.size());
  return {};
}

}  // namespace

void AddDescribe(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "describe",
      "Write manual pages, and completions of bash and zsh, of these commands");
  auto arguments = std::make_shared<DescribeArguments>();
  arguments->program = &program;
  command
      ->add_option("--out", arguments->out,
                   "Folder to write; bash and man read ~/.local/share")
      ->required();
  AddJson(*command, arguments->common);
  SetAction(*command, action, RunDescribe, arguments);
}

}  // namespace rankforge
