// `rankforge table merge` writes several tables of one CPU as one.
#include "runtime/table/table_merge.h"

#include <memory>

#include "cli/support/options.h"
#include "cli/support/session.h"
#include "cli/table/table_commands.h"

namespace rankforge {
namespace {

struct MergeArguments {
  CommonOptions common;
  std::vector<std::string> tables;
  std::string out;
};

Status RunMerge(const MergeArguments& arguments) {
  RANKFORGE_RETURN_IF_ERROR(CheckOutput(arguments.out, {}));
  std::vector<NamedTable> tables;
  size_t read = 0;
  for (const std::string& path : arguments.tables) {
    RANKFORGE_ASSIGN_OR_RETURN(DispatchTable table,
                               DispatchTable::LoadUnbound(path));
    PrintNotes(table.notes());
    read += table.entries.size();
    tables.push_back({path, std::move(table)});
  }
  RANKFORGE_ASSIGN_OR_RETURN(const DispatchTable merged, MergeTables(tables));
  RANKFORGE_RETURN_IF_ERROR(merged.Save(arguments.out));
  if (arguments.common.json) {
    PrintJson({{"table", arguments.out},
               {"tables", arguments.tables},
               {"entries", merged.entries.size()},
               {"same_problem", read - merged.entries.size()}});
    return {};
  }
  Print("{}: {} entries of {} tables; {} were there for the same problem\n",
        arguments.out, merged.entries.size(), tables.size(),
        read - merged.entries.size());
  return {};
}

}  // namespace

void AddTableMerge(CLI::App& table, Action& action) {
  CLI::App* merge = table.add_subcommand(
      "merge", "Write the entries of several tables of one CPU as one table");
  auto arguments = std::make_shared<MergeArguments>();
  merge->add_option("TABLES", arguments->tables, "Dispatch tables")
      ->required()
      ->check(CLI::ExistingFile);
  merge->add_option("--out", arguments->out, "Table to write")->required();
  AddJson(*merge, arguments->common);
  SetAction(*merge, action, RunMerge, arguments);
}

}  // namespace rankforge
