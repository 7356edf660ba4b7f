// Reads and writes the file of a dispatch table. docs/table.md describes it.
#include "runtime/table/table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/atomic_file.h"
#include "base/files.h"
#include "base/json_fields.h"
#include "kernels/registry.h"

namespace rankforge {
namespace {

using Json = nlohmann::json;

constexpr const char* kSchema = "rankforge-table/1";
constexpr const char* kNextStep = "run `rankforge tune` again";

// Bounds beyond which a number can only be damage. 2^31 rows or columns, 1024
// threads or tokens.
constexpr size_t kMaxExtent = size_t{1} << 31;
constexpr size_t kMaxThreads = 1024;
// The largest real table is under 1 MB; more is not a table.
constexpr size_t kMaxFileBytes = size_t{256} << 20;
constexpr size_t kMaxDepth = 16;

// Three decimals are below every noise and keep files short and diffs small.
double Rounded(double value) { return std::round(value * 1000) / 1000; }

std::string HashText(uint64_t hash) { return fmt::format("{:016x}", hash); }

// ---------------------------------------------------------------------------
// Reading

// "rows is 0, expected an integer from 1 to 5".
std::string TextOf(const FieldError& error) {
  if (error.empty()) return "";
  return fmt::format("{} is {}, {}", PathOf(error.where, error.field),
                     error.value, error.reason);
}

Result<std::string> ReadTable(const std::string& path) {
  std::error_code error;
  if (std::filesystem::exists(path, error)) {
    return ReadTextFile(path, kMaxFileBytes);
  }
  return Failed(fmt::format(
      "{}: no such table; run `rankforge tune --out {}` first", path, path));
}

// JSON in which no object has a key twice (the parser would silently keep the
// last) and nothing is nested deeper than a table can be.
Result<Json> ParseStrictly(const std::string& path, const std::string& text) {
  std::vector<std::set<std::string>> keys;  // of the objects now open
  std::string problem;
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (static_cast<size_t>(depth) > kMaxDepth) {
      if (problem.empty()) {
        problem = fmt::format("nested deeper than {} levels", kMaxDepth);
      }
      return false;
    }
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key &&
        !keys.back().insert(parsed.get<std::string>()).second &&
        problem.empty()) {
      problem = fmt::format("key {} occurs twice in one object", Shown(parsed));
    }
    return true;
  };
  Json document;
  try {
    document = Json::parse(text, check);
  } catch (const Json::parse_error& error) {
    problem = fmt::format("is no JSON from byte {} of {} on", error.byte,
                          text.size());
  } catch (const std::exception&) {
    problem = "holds a number out of range";
  }
  if (problem.empty()) return document;
  return Failed(fmt::format("{}: {}; {}", path, problem, kNextStep));
}

CpuInfo ReadCpu(JsonFields fingerprint) {
  CpuInfo cpu;
  JsonFields fields = fingerprint.Object("cpu");
  cpu.vendor = fields.Text("vendor");
  cpu.family = static_cast<int>(fields.Count("family", 0, INT32_MAX));
  cpu.model = static_cast<int>(fields.Count("model", 0, INT32_MAX));
  cpu.stepping = static_cast<int>(fields.Count("stepping", 0, INT32_MAX));
  if (fields.Has("microcode")) cpu.microcode = fields.Text("microcode");
  cpu.brand = fields.Text("brand");
  cpu.targets = fingerprint.Texts("targets");
  JsonFields caches = fingerprint.Object("caches");
  cpu.l1d_bytes = caches.Count("l1d_bytes");
  cpu.l2_bytes = caches.Count("l2_bytes");
  cpu.l3_bytes = caches.Count("l3_bytes");
  cpu.cores = fingerprint.Count("cores");
  cpu.hypervisor = fingerprint.Flag("hypervisor");
  return cpu;
}

TableBuild ReadBuild(JsonFields library, JsonFields build) {
  TableBuild result;
  result.library_version = library.Text("version");
  result.compiler = build.Text("compiler");
  result.flags = build.Text("flags");
  result.registry_hash = build.Hash("registry_hash");
  return result;
}

TableEnvironment ReadEnvironment(JsonFields fields) {
  TableEnvironment result;
  result.governor = fields.Text("governor");
  result.load_average = fields.Number("load");
  result.steal_share = fields.Number("steal");
  result.huge_pages = fields.Text("thp");
  result.confidence = fields.Text("confidence");
  result.confidence_reason = fields.Text("confidence_reason");
  // Tables of before do not say these.
  if (fields.Has("cpus")) {
    result.boost = fields.Text("boost");
    result.cpus = fields.Text("cpus");
    result.shared_cores = fields.Flag("shared_cores");
    result.cpu_share = fields.Number("cpu_share", 0, 1);
  }
  JsonFields bandwidths = fields.Object("read_gbps");
  for (const auto& item : bandwidths.json().items()) {
    size_t threads = 0;
    const std::string& key = item.key();
    std::from_chars(key.data(), key.data() + key.size(), threads);
    if (threads > 0) {
      result.read_gbps[threads] = bandwidths.Number(key.c_str());
    }
  }
  return result;
}

TablePolicy ReadPolicy(JsonFields fields) {
  TablePolicy result;
  result.rigor = fields.Text("rigor");
  result.seed = fields.Count("seed");
  result.margin = fields.Number("margin", 0, 1);
  result.cold = fields.Flag("cold");
  return result;
}

Problem ReadProblem(JsonFields fields) {
  Problem problem;
  problem.operation = fields.OneOf("operation", kOperations);
  problem.rows = fields.Count("rows", 1, kMaxExtent);
  problem.cols = fields.Count("cols", 1, kMaxExtent);
  problem.type = fields.OneOf("type", kWeightTypes);
  problem.granularity = fields.Count("granularity", 1, kMaxGranularity);
  problem.batch = fields.Count("batch", 1, kMaxThreads);
  problem.threads = fields.Count("threads", 1, kMaxThreads);
  return problem;
}

Bucket ReadBucket(JsonFields fields) {
  Bucket bucket;
  bucket.max_density = fields.Number("max", 0, 1);
  bucket.variant = fields.Text("variant");
  bucket.spec_hash = fields.Hash("spec");
  JsonFields ns = fields.Object("ns");
  bucket.ns.median = ns.Number("median");
  bucket.ns.mad = ns.Number("mad");
  bucket.ns.min = ns.Number("min");
  bucket.ns.n = ns.Count("n");
  bucket.useful_gbps = fields.Number("useful_gbps");
  bucket.roofline = fields.Number("roofline");
  bucket.vs_default = fields.Number("vs_default");
  if (fields.Has("runner_up")) {
    JsonFields runner_up = fields.Object("runner_up");
    bucket.runner_up = runner_up.Text("variant");
    bucket.runner_up_ns = runner_up.Number("ns");
  }
  return bucket;
}

// One entry as it stands in the file; what it names is not yet resolved.
TableEntry ReadEntry(const Json& json, const std::string& name,
                     std::string* error) {
  FieldError wrong;
  JsonFields fields(json, name, &wrong);
  TableEntry entry;
  entry.problem = ReadProblem(fields.Object("problem"));
  entry.layers = fields.Texts("layers");
  if (fields.Has("masks")) entry.masks = fields.Text("masks");
  Decision& decision = entry.decision;
  decision.layout = fields.OneOf("layout", kLayouts);
  decision.threads = fields.Count("threads", 1, kMaxThreads);
  decision.default_variant = fields.Text("default");
  decision.crossover_to_dense = fields.Number("crossover_to_dense", 0, 1);
  size_t index = 0;
  for (const Json& bucket : fields.Array("by_density")) {
    const std::string bucket_name =
        fmt::format("{}[{}]", fields.PathOf("by_density"), index++);
    decision.by_density.push_back(
        ReadBucket(fields.Inner(bucket, bucket_name)));
  }
  *error = TextOf(wrong);
  if (!error->empty()) return entry;

  const std::vector<Bucket>& buckets = decision.by_density;
  const bool ascends = std::is_sorted(buckets.begin(), buckets.end(),
                                      [](const Bucket& a, const Bucket& b) {
                                        return a.max_density <= b.max_density;
                                      });
  if (buckets.empty() || !ascends || buckets.back().max_density != 1) {
    *error =
        fmt::format("{} does not ascend to max 1", fields.PathOf("by_density"));
  } else if (decision.threads > entry.problem.threads) {
    *error = fmt::format("{} is {}, more than problem.threads",
                         fields.PathOf("threads"), decision.threads);
  }
  return entry;
}

// Binds the names of an entry to this build. A bucket whose variant cannot run
// takes the default, so that the other buckets stay of use; the first reason is
// added to `notes`. False (and `error`) if this build has nothing to run here.
bool Resolve(TableEntry* entry, const std::string& where, std::string* error,
             std::vector<std::string>* notes) {
  const Problem& problem = entry->problem;
  Decision& decision = entry->decision;
  const KernelEntry* fallback =
      Registry::Get().Default(problem.operation, problem.type, decision.layout,
                              problem.granularity, problem.batch);
  if (fallback == nullptr) {
    *error = fmt::format("no kernel for {} on layout {}", problem.ToString(),
                         Name(decision.layout));
    return false;
  }
  const std::string fallback_name = fallback->FullName();
  decision.default_variant = fallback_name;
  size_t replaced = 0;
  std::string reason;
  for (Bucket& bucket : decision.by_density) {
    const std::string why = WhyUnfit(bucket, problem, decision.layout);
    if (why.empty()) continue;
    if (replaced++ == 0) reason = why;
    Bucket untimed;
    untimed.max_density = bucket.max_density;
    untimed.variant = fallback_name;
    untimed.spec_hash = fallback->spec_hash;
    bucket = untimed;
  }
  if (replaced > 0) {
    notes->push_back(
        fmt::format("{}: {} of {} densities take the default: {}; {}", where,
                    replaced, decision.by_density.size(), reason, kNextStep));
  }
  return true;
}

// ---------------------------------------------------------------------------
// Writing

Json ToJson(const CpuInfo& cpu) {
  Json identity = {{"vendor", cpu.vendor},
                   {"family", cpu.family},
                   {"model", cpu.model},
                   {"stepping", cpu.stepping},
                   {"brand", cpu.brand}};
  if (!cpu.microcode.empty()) identity["microcode"] = cpu.microcode;
  return {{"cpu", identity},
          {"targets", cpu.targets},
          {"caches",
           {{"l1d_bytes", cpu.l1d_bytes},
            {"l2_bytes", cpu.l2_bytes},
            {"l3_bytes", cpu.l3_bytes}}},
          {"cores", cpu.cores},
          {"hypervisor", cpu.hypervisor}};
}

Json ToJson(const TableEnvironment& environment) {
  Json read_gbps = Json::object();
  for (const auto& [threads, gbps] : environment.read_gbps) {
    read_gbps[std::to_string(threads)] = Rounded(gbps);
  }
  Json json = {{"governor", environment.governor},
               {"load", Rounded(environment.load_average)},
               {"steal", Rounded(environment.steal_share)},
               {"read_gbps", read_gbps},
               {"thp", environment.huge_pages},
               {"confidence", environment.confidence},
               {"confidence_reason", environment.confidence_reason}};
  if (!environment.cpus.empty()) {
    json["boost"] = environment.boost;
    json["cpus"] = environment.cpus;
    json["shared_cores"] = environment.shared_cores;
    json["cpu_share"] = Rounded(environment.cpu_share);
  }
  return json;
}

Json ToJson(const Bucket& bucket) {
  Json json = {{"max", bucket.max_density},
               {"variant", bucket.variant},
               {"spec", HashText(bucket.spec_hash)},
               {"ns",
                {{"median", Rounded(bucket.ns.median)},
                 {"mad", Rounded(bucket.ns.mad)},
                 {"min", Rounded(bucket.ns.min)},
                 {"n", bucket.ns.n}}},
               {"useful_gbps", Rounded(bucket.useful_gbps)},
               {"roofline", Rounded(bucket.roofline)},
               {"vs_default", Rounded(bucket.vs_default)}};
  if (!bucket.runner_up.empty()) {
    json["runner_up"] = {{"variant", bucket.runner_up},
                         {"ns", Rounded(bucket.runner_up_ns)}};
  }
  return json;
}

Json ToJson(const TableEntry& entry) {
  const Problem& problem = entry.problem;
  const Decision& decision = entry.decision;
  Json buckets = Json::array();
  for (const Bucket& bucket : decision.by_density) {
    buckets.push_back(ToJson(bucket));
  }
  Json json = {{"problem",
                {{"operation", Name(problem.operation)},
                 {"rows", problem.rows},
                 {"cols", problem.cols},
                 {"type", Name(problem.type)},
                 {"granularity", problem.granularity},
                 {"batch", problem.batch},
                 {"threads", problem.threads}}},
               {"layers", entry.layers},
               {"layout", Name(decision.layout)},
               {"threads", decision.threads},
               {"default", decision.default_variant},
               {"by_density", buckets},
               {"crossover_to_dense", decision.crossover_to_dense}};
  if (!entry.masks.empty()) json["masks"] = entry.masks;
  return json;
}

std::string Dropped(const std::string& name, const std::string& error) {
  return fmt::format("{}: entry dropped: {}; {}", name, error, kNextStep);
}

// A table without entries, as one tuned here would be.
DispatchTable ThisCpuAndBuild() {
  DispatchTable table;
  table.cpu = CpuInfo::Detect();
  return table;
}

}  // namespace

TableBuild TableBuild::Current() {
  TableBuild build;
  build.library_version = RANKFORGE_VERSION;
#if defined(__clang__)
  build.compiler = "clang " __clang_version__;
#else
  build.compiler = "gcc " __VERSION__;
#endif
  build.flags = RANKFORGE_BUILD_FLAGS;
  build.registry_hash = Registry::Get().hash();
  return build;
}

std::vector<CpuDifference> Differences(const DispatchTable& a,
                                       const DispatchTable& b) {
  std::vector<CpuDifference> differences = Differences(a.cpu, b.cpu);
  const auto compare = [&](const char* field, const std::string& value_a,
                           const std::string& value_b) {
    if (value_a == value_b) return;
    differences.push_back({Match::kExact, field, value_a, value_b});
  };
  compare("compiler", a.build.compiler, b.build.compiler);
  compare("flags", a.build.flags, b.build.flags);
  compare("registry_hash", HashText(a.build.registry_hash),
          HashText(b.build.registry_hash));
  return differences;
}

Result<DispatchTable> DispatchTable::Read(const std::string& name,
                                          const std::string& text) {
  RANKFORGE_ASSIGN_OR_RETURN(const Json document, ParseStrictly(name, text));
  DispatchTable table;

  FieldError wrong;
  JsonFields fields(document, "", &wrong);
  const std::string schema = fields.Text("schema");
  if (fields.ok() && schema != kSchema) {
    fields.Fail("schema", Shown(schema),
                fmt::format("this build reads \"{}\"", kSchema));
  }
  table.cpu = ReadCpu(fields.Object("fingerprint"));
  const Json& entries = fields.Array("entries");
  if (!fields.ok()) {
    return Failed(fmt::format("{}: {}; {}", name, TextOf(wrong), kNextStep));
  }

  // For information only: damage here costs a note.
  table.build = ReadBuild(fields.Object("library"), fields.Object("build"));
  table.environment = ReadEnvironment(fields.Object("environment"));
  table.policy = ReadPolicy(fields.Object("policy"));
  if (!fields.ok()) {
    table.notes_.push_back(
        fmt::format("{}: {}; it is only shown", name, TextOf(wrong)));
  }

  std::set<Problem> seen;
  for (size_t i = 0; i < entries.size(); ++i) {
    const std::string where = fmt::format("entries[{}]", i);
    std::string error;
    TableEntry entry = ReadEntry(entries[i], where, &error);
    if (error.empty() && !seen.insert(entry.problem).second) {
      error = fmt::format("{}.problem is there twice", where);
    }
    if (error.empty()) {
      table.entries.push_back(std::move(entry));
    } else {
      table.notes_.push_back(Dropped(name, error));
    }
  }
  table.differences_ = Differences(table, ThisCpuAndBuild());
  return table;
}

void DispatchTable::Bind(const std::string& name, Match needed) {
  usable_ = match() >= needed;
  if (!usable_) {
    // Nothing of this table will run, so nothing else about it matters.
    notes_ = {
        fmt::format("{}: measured on another CPU ({}); it is not used, run "
                    "`rankforge tune` here",
                    name, Listed(differences_, needed))};
    return;
  }
  std::string error;
  std::erase_if(entries, [&](TableEntry& entry) {
    if (Resolve(&entry, fmt::format("{}: {}", name, entry.problem.ToString()),
                &error, &notes_)) {
      return false;
    }
    notes_.push_back(Dropped(name, error));
    return true;
  });
}

Result<DispatchTable> DispatchTable::Parse(const std::string& name,
                                           const std::string& text,
                                           Match needed) {
  RANKFORGE_ASSIGN_OR_RETURN(DispatchTable table, Read(name, text));
  table.Bind(name, needed);
  return table;
}

Result<DispatchTable> DispatchTable::Load(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text, ReadTable(path));
  return Parse(path, text, Match::kCompatible);
}

Result<DispatchTable> DispatchTable::LoadUnbound(const std::string& path) {
  RANKFORGE_ASSIGN_OR_RETURN(const std::string text, ReadTable(path));
  RANKFORGE_ASSIGN_OR_RETURN(DispatchTable table, Read(path, text));
  table.usable_ = false;
  return table;
}

Status DispatchTable::Save(const std::string& path) const {
  // By problem, so that tuning the same model in another order gives the same
  // file.
  std::vector<TableEntry> sorted = entries;
  std::sort(sorted.begin(), sorted.end(),
            [](const TableEntry& a, const TableEntry& b) {
              return a.problem < b.problem;
            });
  Json rows = Json::array();
  for (const TableEntry& entry : sorted) rows.push_back(ToJson(entry));
  const Json document = {
      {"schema", kSchema},
      {"library", {{"name", "rankforge"}, {"version", build.library_version}}},
      {"build",
       {{"compiler", build.compiler},
        {"flags", build.flags},
        {"registry_hash", HashText(build.registry_hash)}}},
      {"fingerprint", ToJson(cpu)},
      {"environment", ToJson(environment)},
      {"policy",
       {{"rigor", policy.rigor},
        {"seed", policy.seed},
        {"margin", policy.margin},
        {"cold", policy.cold}}},
      {"entries", rows}};
  return WriteFileAtomically(
      path,
      document.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace rankforge
