#include "tuner/journal.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

namespace rankforge {
namespace {

using Json = nlohmann::json;

std::string Line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string HeaderLine(const JournalHeader& header) {
  return Line({{"schema", "rankforge-journal/1"},
               {"cpu",
                {{"vendor", header.cpu.vendor},
                 {"family", header.cpu.family},
                 {"model", header.cpu.model}}},
               {"registry_hash", fmt::format("{:016x}", header.registry_hash)},
               {"cold", header.cold},
               {"rigor", header.rigor}});
}

Json ToJson(const char* event, const std::string& workload,
            const TrialRecord& trial) {
  return {{"event", event},           {"workload", workload},
          {"variant", trial.variant}, {"layout", trial.layout},
          {"threads", trial.threads}, {"density", trial.density}};
}

}  // namespace

Result<Journal> Journal::Open(const std::string& path,
                              const JournalHeader& header, bool resume) {
  Journal journal;
  if (path.empty()) return journal;
  const std::string header_line = HeaderLine(header);
  const bool continues = resume && std::filesystem::exists(path);
  if (continues) {
    RANKFORGE_RETURN_IF_ERROR(journal.ReadBack(path, header_line));
  }
  journal.file_.open(path, continues ? std::ios::app : std::ios::trunc);
  // A killed run may have left half a line; the next one must start afresh.
  journal.file_ << (continues ? "\n" : header_line + "\n") << std::flush;
  if (!journal.file_) {
    return Failed(fmt::format(
        "{}: journal cannot be written; choose a writable path", path));
  }
  return journal;
}

Status Journal::ReadBack(const std::string& path,
                         const std::string& header_line) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line) || line != header_line) {
    return Failed(fmt::format(
        "{}: journal of another CPU, build or setting ({:.120}); remove it or "
        "leave out --resume",
        path, line));
  }
  while (std::getline(file, line)) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    // Cut off by a kill: what was not finished was not logged.
    if (!json.is_object()) continue;
    try {
      const std::string event = json.at("event");
      const std::string workload = json.at("workload");
      if (event == "finished") finished_.insert(workload);
      if (event == "discard") trials_.erase(workload);
      if (event != "trial") continue;
      TrialRecord trial;
      trial.variant = json.at("variant");
      trial.layout = json.at("layout");
      trial.threads = json.at("threads");
      trial.density = json.at("density");
      trial.sample.ns = json.at("ns");
      if (std::isfinite(trial.sample.ns) && trial.sample.ns > 0) {
        trials_[workload].push_back(trial);
      }
    } catch (const Json::exception&) {
      return Failed(fmt::format(
          "{}: not a line of a journal: {:.120}; remove it or leave out "
          "--resume",
          path, line));
    }
  }
  return {};
}

const std::vector<TrialRecord>& Journal::Trials(
    const std::string& workload) const {
  static const std::vector<TrialRecord> kNone;
  const auto found = trials_.find(workload);
  return found == trials_.end() ? kNone : found->second;
}

bool Journal::IsFinished(const std::string& workload) const {
  return finished_.count(workload) > 0;
}

void Journal::WriteTrial(const std::string& workload,
                         const TrialRecord& trial) {
  if (!file_.is_open()) return;
  Json json = ToJson("trial", workload, trial);
  json["ns"] = trial.sample.ns;
  file_ << Line(json) << std::endl;
}

void Journal::WriteDrop(const std::string& workload, const TrialRecord& trial,
                        size_t rounds, double ratio) {
  if (!file_.is_open()) return;
  Json json = ToJson("drop", workload, trial);
  json["rounds"] = rounds;
  json["times_best"] = ratio;
  file_ << Line(json) << std::endl;
}

void Journal::WriteRejection(const std::string& workload,
                             const std::string& variant,
                             const std::string& layout,
                             const std::string& reason) {
  if (!file_.is_open()) return;
  file_ << Line({{"event", "rejected"},
                 {"workload", workload},
                 {"variant", variant},
                 {"layout", layout},
                 {"reason", reason}})
        << std::endl;
}

void Journal::WriteDiscard(const std::string& workload) {
  if (!file_.is_open()) return;
  file_ << Line({{"event", "discard"}, {"workload", workload}}) << std::endl;
}

void Journal::WriteFinished(const std::string& workload) {
  if (!file_.is_open()) return;
  file_ << Line({{"event", "finished"}, {"workload", workload}}) << std::endl;
}

}  // namespace rankforge
