#include "tuner/search/journal.h"

#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

namespace rankforge {
namespace {

using Json = nlohmann::json;

std::string Line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string HeaderLine(const JournalHeader& header) {
  return Line({{"schema", "rankforge-journal/2"},
               {"cpu",
                {{"vendor", header.cpu.vendor},
                 {"family", header.cpu.family},
                 {"model", header.cpu.model}}},
               {"cold", header.cold}});
}

Json Event(const char* event, const std::string& workload) {
  return {{"event", event}, {"workload", workload}};
}

// What identifies a candidate.
Json Event(const char* event, const std::string& workload,
           const TrialRecord& trial) {
  Json json = Event(event, workload);
  json["variant"] = trial.variant;
  json["spec"] = fmt::format("{:016x}", trial.spec_hash);
  json["layout"] = trial.layout;
  json["threads"] = trial.threads;
  return json;
}

TrialRecord CandidateOf(const Json& json) {
  TrialRecord trial;
  trial.variant = json.at("variant");
  const std::string spec = json.at("spec");
  std::from_chars(spec.data(), spec.data() + spec.size(), trial.spec_hash, 16);
  trial.layout = json.at("layout");
  trial.threads = json.at("threads");
  return trial;
}

bool SameCandidate(const TrialRecord& a, const TrialRecord& b) {
  return a.variant == b.variant && a.spec_hash == b.spec_hash &&
         a.layout == b.layout && a.threads == b.threads;
}

// Up to 11 days; more is damage. Written so that NaN is none.
bool IsTime(double ns) { return ns > 0 && ns <= 1e15; }

// More is never written (MeasureAnchors).
bool IsDrift(double factor) { return factor > 0.8 && factor < 1.25; }

// A journal up to some line.
struct Replay {
  std::map<std::string, std::vector<TrialRecord>> trials;
  std::map<std::string, std::string> finished;
};

void OnTrial(const Json& json, const std::string& workload, Replay& replay) {
  TrialRecord trial = CandidateOf(json);
  trial.density = json.at("density");
  trial.sample.ns = json.at("ns");
  if (IsTime(trial.sample.ns)) replay.trials[workload].push_back(trial);
}

void OnDiscard(const Json&, const std::string& workload, Replay& replay) {
  replay.trials.erase(workload);
}

void OnAnchor(const Json& json, const std::string& workload, Replay& replay) {
  const TrialRecord anchor = CandidateOf(json);
  std::erase_if(replay.trials[workload], [&](const TrialRecord& trial) {
    return SameCandidate(trial, anchor);
  });
}

void OnDrift(const Json& json, const std::string& workload, Replay& replay) {
  const double factor = json.at("factor");
  if (!IsDrift(factor)) return;
  for (TrialRecord& trial : replay.trials[workload]) {
    trial.sample.ns *= factor;
  }
}

void OnFinished(const Json& json, const std::string& workload, Replay& replay) {
  replay.finished[workload] = json.at("search");
}

// What each event does to what is known; others are for people to read.
constexpr std::pair<const char*,
                    void (*)(const Json&, const std::string&, Replay&)>
    kEvents[] = {{"trial", OnTrial},
                 {"discard", OnDiscard},
                 {"anchor", OnAnchor},
                 {"drift", OnDrift},
                 {"finished", OnFinished}};

}  // namespace

Result<Journal> Journal::Open(const std::string& path,
                              const JournalHeader& header, bool resume) {
  Journal journal;
  if (path.empty()) return journal;
  const std::string header_line = HeaderLine(header);
  // Empty: the run before was killed before it wrote anything.
  std::error_code error;
  const bool continues =
      resume && std::filesystem::file_size(path, error) > 0 && !error;
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
        "{}: journal of another CPU, version or setting ({:.160}; expected "
        "{}); remove it or leave out --resume",
        path, line, header_line));
  }
  Replay replay;
  while (std::getline(file, line)) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    // Cut off by a kill: what was not finished was not logged.
    if (!json.is_object()) continue;
    try {
      const std::string event = json.at("event");
      for (const auto& [name, apply] : kEvents) {
        if (event == name) apply(json, json.at("workload"), replay);
      }
    } catch (const Json::exception&) {
      return Failed(fmt::format(
          "{}: not a line of a journal: {:.120}; remove it or leave out "
          "--resume",
          path, line));
    }
  }
  trials_ = std::move(replay.trials);
  finished_ = std::move(replay.finished);
  return {};
}

const std::vector<TrialRecord>& Journal::Trials(
    const std::string& workload) const {
  static const std::vector<TrialRecord> kNone;
  const auto found = trials_.find(workload);
  return found == trials_.end() ? kNone : found->second;
}

bool Journal::IsFinished(const std::string& workload,
                         const std::string& search) const {
  const auto found = finished_.find(workload);
  return found != finished_.end() && found->second == search;
}

void Journal::WriteLine(const std::string& line) {
  if (file_.is_open()) file_ << line << std::endl;
}

void Journal::WriteSession(const TableBuild& build,
                           const TableEnvironment& environment) {
  WriteLine(
      Line({{"event", "session"},
            {"version", build.library_version},
            {"compiler", build.compiler},
            {"flags", build.flags},
            {"registry_hash", fmt::format("{:016x}", build.registry_hash)},
            {"governor", environment.governor},
            {"load", environment.load_average},
            {"thp", environment.huge_pages},
            {"boost", environment.boost},
            {"cpus", environment.cpus},
            {"shared_cores", environment.shared_cores},
            {"cpu_share", environment.cpu_share}}));
}

void Journal::WriteTrial(const std::string& workload,
                         const TrialRecord& trial) {
  Json json = Event("trial", workload, trial);
  json["density"] = trial.density;
  json["ns"] = trial.sample.ns;
  WriteLine(Line(json));
}

void Journal::WriteDrop(const std::string& workload, const TrialRecord& trial,
                        size_t rounds, double ratio) {
  Json json = Event("drop", workload, trial);
  json["density"] = trial.density;
  json["rounds"] = rounds;
  json["times_best"] = ratio;
  WriteLine(Line(json));
}

void Journal::WriteRefusal(const std::string& workload,
                           const TrialRecord& trial) {
  Json json = Event("refused", workload, trial);
  json["density"] = trial.density;
  WriteLine(Line(json));
}

void Journal::WriteRejection(const std::string& workload,
                             const std::string& variant,
                             const std::string& layout,
                             const std::string& reason) {
  Json json = Event("rejected", workload);
  json["variant"] = variant;
  json["layout"] = layout;
  json["reason"] = reason;
  WriteLine(Line(json));
}

void Journal::WriteDiscard(const std::string& workload) {
  WriteLine(Line(Event("discard", workload)));
}

void Journal::WriteAnchor(const std::string& workload,
                          const TrialRecord& candidate) {
  WriteLine(Line(Event("anchor", workload, candidate)));
}

void Journal::WriteDrift(const std::string& workload, double factor) {
  Json json = Event("drift", workload);
  json["factor"] = factor;
  WriteLine(Line(json));
}

void Journal::WriteFinished(const std::string& workload,
                            const std::string& search) {
  Json json = Event("finished", workload);
  json["search"] = search;
  WriteLine(Line(json));
}

}  // namespace rankforge
