// `rankforge env`: what this machine is and what it can read.
#include <fmt/ranges.h>

#include <memory>

#include "cli/support/commands.h"
#include "cli/support/options.h"
#include "cli/support/output.h"
#include "cli/support/progress.h"
#include "kernels/registry.h"
#include "runtime/table/cpu.h"
#include "tuner/measure/read_bandwidth.h"

namespace rankforge {
namespace {

std::vector<std::string> Backends() {
  std::vector<std::string> names;
  for (const KernelEntry& entry : Registry::Get().entries()) {
    if (std::ranges::count(names, entry.backend) == 0) {
      names.emplace_back(entry.backend);
    }
  }
  return names;
}

Status RunEnv(const CommonOptions& options) {
  const CpuInfo cpu = CpuInfo::Detect();
  const std::vector<std::string> backends = Backends();
  Json read_gbps = Json::object();
  Json read_loop = Json::object();
  {
    Progress progress("read bandwidth");
    for (size_t threads = 1; threads <= options.threads; ++threads) {
      progress.Update(threads - 1, options.threads,
                      fmt::format("{} threads", threads));
      const ReadBandwidth read = MeasureReadBandwidth(threads);
      read_gbps[std::to_string(threads)] = Rounded(read.gbps, 4);
      read_loop[std::to_string(threads)] = read.loop;
    }
    progress.Update(options.threads, options.threads, "");
  }

  if (options.json) {
    PrintJson({{"cpu",
                {{"brand", cpu.brand},
                 {"vendor", cpu.vendor},
                 {"family", cpu.family},
                 {"model", cpu.model},
                 {"stepping", cpu.stepping},
                 {"cores", cpu.cores},
                 {"threads", CommonOptions().threads},
                 {"l1d_bytes", cpu.l1d_bytes},
                 {"l2_bytes", cpu.l2_bytes},
                 {"l3_bytes", cpu.l3_bytes},
                 {"hypervisor", cpu.hypervisor}}},
               {"targets", cpu.targets},
               {"backends", backends},
               {"variants", Registry::Get().entries().size()},
               {"read_gbps", read_gbps},
               {"read_loop", read_loop}});
    return {};
  }
  Print("cpu       {} (family {}, model {}, stepping {}){}\n", cpu.brand,
        cpu.family, cpu.model, cpu.stepping,
        cpu.hypervisor ? ", virtual machine" : "");
  Print("cores     {} usable\n", cpu.cores);
  Print("threads   {} by default, the usable CPUs within any quota\n",
        CommonOptions().threads);
  Print("caches    L1d {} KiB, L2 {} KiB, L3 {} KiB\n", cpu.l1d_bytes >> 10,
        cpu.l2_bytes >> 10, cpu.l3_bytes >> 10);
  Print("targets   {}\n", fmt::join(cpu.targets, ", "));
  Print("backends  {}\n", fmt::join(backends, ", "));
  Print("variants  {} compiled\n", Registry::Get().entries().size());
  for (const auto& [threads, gbps] : read_gbps.items()) {
    Print("read      {:.1f} GB/s with {} thread{} ({})\n", gbps.get<double>(),
          threads, threads == "1" ? "" : "s",
          read_loop[threads].get<std::string>());
  }
  return {};
}

}  // namespace

void AddEnv(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand(
      "env", "CPU, caches, targets, backends, measured read bandwidth");
  auto options = std::make_shared<CommonOptions>();
  AddThreads(*command, *options);
  AddJson(*command, *options);
  SetAction(*command, action, RunEnv, options);
}

}  // namespace rankforge
