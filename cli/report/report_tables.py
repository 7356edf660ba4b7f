"""Plots and tables of dispatch tables, for report_page.py."""

import re

from matplotlib import ticker

from report_style import (MARKERS, colour, label_line, label_rows, legend_below,
                          panels, rows_figure, series, text_table)


# What the plots show of a table ---------------------------------------------

def shape(entry):
    return f"{entry['rows']} × {entry['cols']}"


def title(entry):
    extra = "" if entry["granularity"] == 1 else f" g{entry['granularity']}"
    if entry["activations"] != "f32":
        extra += f", {entry['activations']} activations"
    operation = entry["operation"].replace("_", " ")
    return f"{shape(entry)} {operation} {entry['type']}{extra}"


def threads_of(count):
    return "1 thread" if count == 1 else f"{count} threads"


def measured(entry):
    return [bucket for bucket in entry["by_density"] if bucket["n"] > 0]


def kernel(entry, variant):
    """The variant without what its problem says already."""
    parts = variant.split("/", 2)
    backend, name = parts[0], parts[-1]
    name = name.removeprefix(f"{entry['operation']}_{entry['type']}_")
    words = [word for word in name.split("_")
             if not re.fullmatch(r"g\d+|\d+x\d+|none", word)]
    if re.search(r"_\d+x\d+$", name):
        words.append("this shape")
    if backend != "hwy":
        words.append(backend)
    return words[0] if words else "?", " ".join(words[1:])


def thread_counts(entries):
    return sorted({entry["threads"] for entry in entries})


def without_mask(entry):
    return {name: value for name, value in entry["problem"].items()
            if name not in ("operation", "granularity")}


def dense_ns(entry, entries):
    """Time of the dense product of this shape, else of this product where it
    keeps all; None: neither was measured."""
    for other in entries:
        same = without_mask(other) == without_mask(entry)
        if other["operation"] == "dense" and same and measured(other):
            return measured(other)[-1]["ns"]
    last = measured(entry)[-1:]
    return last[0]["ns"] if last and last[0]["density"] > 0.95 else None


def speed_ups(entry, entries):
    """[(density, dense time / time)]"""
    dense = dense_ns(entry, entries)
    if dense is None:
        return []
    return [(bucket["density"], dense / bucket["ns"])
            for bucket in measured(entry)]


def break_even(points):
    """The density at which a masked product takes as long as the dense one;
    None: below that of all points, or above."""
    for (low, fast), (high, slow) in zip(points, points[1:]):
        if fast >= 1 > slow:
            return low + (high - low) * (fast - 1) / (fast - slow)
    return None


def masked(entries):
    return [entry for entry in entries if entry["operation"] != "dense"]


# Plots ------------------------------------------------------------------------

def plot_winners(entries):
    """Which variant runs, over shape and density."""
    kinds = sorted({kernel(entry, bucket["variant"])[0] for entry in entries
                    for bucket in entry["by_density"]},
                   key=lambda kind: (len(kind), kind))
    figure, axes = rows_figure(len(entries), 10.5)
    shown = {}
    for y, entry in enumerate(entries):
        low = 0
        for bucket in entry["by_density"]:
            kind, rest = kernel(entry, bucket["variant"])
            bar = axes.barh(y, bucket["max"] - low, left=low, height=0.74,
                            color=series(kinds.index(kind)),
                            edgecolor=colour("paper"), linewidth=1.5)
            shown[kind] = bar
            # A hundred characters fill the axis at this size.
            room = int((bucket["max"] - low) * 100)
            text = f"{kind} {rest}".strip()
            if len(text) > room:
                text = kind if len(kind) <= room else ""
            axes.text((low + bucket["max"]) / 2, y, text, ha="center",
                      va="center", fontsize=8, color=colour("paper"))
            low = bucket["max"]
    label_rows(axes, [f"{title(entry)}, {threads_of(entry['threads'])} · "
                      f"{entry['layout']}" for entry in entries])
    axes.set_xlim(0, 1)
    axes.set_xlabel("density: share of columns or rows that are kept")
    legend_below(figure, [shown[kind] for kind in kinds], kinds,
                 min(8, len(kinds)))
    return figure


def plot_bandwidth(entries, read_gbps):
    """Useful GB/s of the chosen variants against what can be read."""
    counts = thread_counts(entries)
    figure, axes = panels(len(counts), 4.3)
    names = list(dict.fromkeys(title(entry) for entry in masked(entries)))
    handles = {}
    highest = 0
    for panel, threads in zip(axes, counts):
        limit = read_gbps.get(str(threads))
        if limit:
            panel.axhline(limit, color=colour("ink"), linewidth=1.2,
                          linestyle=(0, (5, 3)))
            label_line(panel, 0.02, limit, f"read bandwidth {limit:.1f}")
            highest = max(highest, limit)
        for entry in entries:
            points = [(bucket["density"], bucket["useful_gbps"])
                      for bucket in measured(entry)]
            if entry["threads"] != threads or not points:
                continue
            highest = max([highest] + [gbps for _, gbps in points])
            if entry["operation"] == "dense":
                handles["dense"] = panel.plot(
                    *zip(*points), marker="_", markersize=11, linestyle="",
                    markeredgewidth=1.6, color=colour("soft"))[0]
                continue
            index = names.index(title(entry))
            handles[title(entry)] = panel.plot(
                *zip(*points), marker=MARKERS[index % len(MARKERS)],
                markersize=5, linewidth=1.6, color=series(index))[0]
        panel.set_title(threads_of(threads))
        panel.set_xlim(0, 1.04)
        panel.set_xlabel("density")
    axes[0].set_ylim(0, highest * 1.12)
    axes[0].set_ylabel("useful GB/s (bytes of kept weights)")
    order = [name for name in names + ["dense"] if name in handles]
    legend_below(figure, [handles[name] for name in order], order, 3)
    return figure


def plot_speed_up(entries):
    """How many times as quick as the dense product, with break-even."""
    chosen = [(entry, speed_ups(entry, entries)) for entry in masked(entries)]
    chosen = [(entry, points) for entry, points in chosen if len(points) > 1]
    if not chosen:
        return None
    counts = sorted({entry["threads"] for entry, _ in chosen})
    figure, axes = panels(len(counts), 4.3)
    names = list(dict.fromkeys(title(entry) for entry, _ in chosen))
    handles = {}
    lowest = min(density for _, points in chosen for density, _ in points)
    densities = [lowest * (1 / lowest) ** (i / 40) for i in range(41)]
    for panel, threads in zip(axes, counts):
        panel.axhline(1, color=colour("ink"), linewidth=1.2)
        label_line(panel, lowest, 1, "break-even with dense")
        handles["dense bytes / kept bytes"] = panel.plot(
            densities, [1 / density for density in densities],
            color=colour("soft"), linewidth=1.2, linestyle=(0, (5, 3)))[0]
        for entry, points in chosen:
            if entry["threads"] != threads:
                continue
            index = names.index(title(entry))
            handles[title(entry)] = panel.plot(
                *zip(*points), marker=MARKERS[index % len(MARKERS)],
                markersize=5, linewidth=1.6, color=series(index))[0]
        panel.set_title(threads_of(threads))
        for axis, scale in ((panel.xaxis, panel.set_xscale),
                            (panel.yaxis, panel.set_yscale)):
            scale("log", base=2)
            axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        panel.set_xlabel("density")
    axes[0].set_ylabel("dense time / masked time")
    order = [name for name in names + ["dense bytes / kept bytes"]
             if name in handles]
    legend_below(figure, [handles[name] for name in order], order, 3)
    return figure


def plot_default(entries):
    """Time of the default over time of the choice."""
    figure, axes = rows_figure(len(entries))
    axes.axvline(1, color=colour("ink"), linewidth=1.2)
    for y, entry in enumerate(entries):
        for bucket in measured(entry):
            is_default = bucket["variant"] == entry["default"]
            axes.plot(bucket["vs_default"], y, marker="o",
                      markersize=4 + 5 * bucket["density"],
                      color=series(0), alpha=0.85,
                      markerfacecolor="none" if is_default else series(0))
    label_rows(axes, [f"{title(entry)}, {threads_of(entry['threads'])}"
                      for entry in entries])
    axes.set_xlabel("default time / time of the choice (hollow: the default "
                    "stays; size: density)")
    return figure


def key(entry):
    return tuple(sorted(entry["problem"].items()))


def plot_comparison(tables):
    """Times of the other tables over those of the first."""
    first = {key(entry): entry for entry in tables[0]["entries"]}
    shared = [problem for problem in first if any(
        problem == key(entry) for table in tables[1:]
        for entry in table["entries"])]
    if not shared:
        return None
    figure, axes = rows_figure(len(shared))
    axes.axvline(1, color=colour("ink"), linewidth=1.2)
    handles = []
    for index, table in enumerate(tables[1:]):
        points = []
        for entry in table["entries"]:
            if key(entry) not in shared:
                continue
            for bucket in measured(entry):
                same = [other for other in measured(first[key(entry)])
                        if abs(other["density"] - bucket["density"]) < 0.005]
                points += [(other["ns"] / bucket["ns"],
                            shared.index(key(entry))) for other in same]
        if points:
            handles.append((axes.plot(
                *zip(*points), linestyle="", markersize=6, alpha=0.85,
                marker=MARKERS[index % len(MARKERS)],
                color=series(index))[0], table["name"]))
    label_rows(axes, [f"{title(first[problem])}, "
                      f"{threads_of(first[problem]['threads'])}"
                      for problem in shared])
    axes.set_xlabel(f"time in {tables[0]['name']} / time in the other table")
    legend_below(figure, *(zip(*handles) if handles else ([], [])), 2)
    return figure


# Page -------------------------------------------------------------------------

def environment_table(tables):
    def read(table):
        return ", ".join(f"{gbps:.1f} GB/s with {threads_of(int(threads))}"
                         for threads, gbps in table["read_gbps"].items())

    def caches(table):
        return ", ".join(f"{name} {size >> 10} KiB"
                         for name, size in table["caches"].items() if size)

    facts = [
        ("CPU", lambda t: t["cpu"]),
        ("targets", lambda t: ", ".join(t["targets"])),
        ("caches", caches),
        ("cores", lambda t: str(t["cores"]) +
         (", virtual machine" if t["hypervisor"] else "")),
        ("read bandwidth", read),
        ("weights", lambda t: "from memory" if t["cold"] else "in cache"),
        ("rigor", lambda t: t["rigor"]),
        ("confidence", lambda t: t["confidence"] + (
            f": {t['confidence_reason']}" if t["confidence_reason"] else "")),
        ("built with", lambda t: f"{t['compiler']} {t['flags']}"),
    ]
    return text_table([""] + [table["name"] for table in tables],
                      [[name] + [fact(table) for table in tables]
                       for name, fact in facts])


def entries_table(entries):
    head = ["problem", "variant", "density", "µs", "GB/s", "of read",
            "against default", "against dense", "second"]
    rows = []
    for entry in entries:
        against_dense = dict(speed_ups(entry, entries))
        for bucket in measured(entry):
            second = ""
            if bucket["runner_up"]:
                slower = 100 * (bucket["runner_up_ns"] / bucket["ns"] - 1)
                name = " ".join(kernel(entry, bucket["runner_up"])).strip()
                second = f"{name}, {slower:+.1f} %"
            gain = against_dense.get(bucket["density"])
            rows.append([
                f"{title(entry)}, {threads_of(entry['threads'])}",
                f"{entry['layout']}: {bucket['variant']}",
                f"{bucket['density']:.2f}", f"{bucket['ns'] / 1e3:.1f}",
                f"{bucket['useful_gbps']:.1f}", f"{bucket['roofline']:.2f}",
                f"{bucket['vs_default']:.2f}",
                f"{gain:.2f}" if gain else "", second])
    return text_table(head, rows, range(2, 8))


def break_even_text(entries):
    found = []
    for entry in masked(entries):
        density = break_even(speed_ups(entry, entries))
        if density is not None:
            found.append(f"{title(entry)}, {threads_of(entry['threads'])}: "
                         f"{density:.2f}")
    if not found:
        return "No line crosses break-even between measured densities."
    return "Break-even at density " + "; ".join(found) + "."


def figures_of(table):
    """[(name, heading, caption, figure)]"""
    entries = table["entries"]
    return [
        ("winners", "Winners over shape and density",
         "Which variant runs at which density, and the layout of each layer.",
         plot_winners(entries)),
        ("bandwidth", "Useful bandwidth against the roofline",
         "Bytes of kept weights over the time of a call. At the dashed line a "
         "product reads as quickly as plain loops do.",
         plot_bandwidth(entries, table["read_gbps"])),
        ("speed_up", "Speed-up against density",
         "Against the dense product of the same shape where the table has it, "
         "else against the same product with all kept. " +
         break_even_text(entries), plot_speed_up(entries)),
        ("default", "Time against the default",
         "What tuning gains over the variants that run without a table.",
         plot_default(entries)),
    ]


def add_tables(page, tables):
    """Fills the page; returns its title."""
    page.add(environment_table(tables))
    if len(tables) > 1:
        page.figure("comparison", "The tables side by side", 2,
                    "Problems that are in both, at equal densities.",
                    plot_comparison(tables))
    for index, table in enumerate(tables):
        suffix = "" if len(tables) == 1 else f"-{index + 1}"
        level = 2
        if len(tables) > 1:
            page.heading(2, table["name"])
            level = 3
        for name, heading, caption, figure in figures_of(table):
            page.figure(name + suffix, heading, level, caption, figure)
        page.details(f"All {len(table['entries'])} entries of {table['name']}",
                     entries_table(table["entries"]))
    cpus = " and ".join(dict.fromkeys(table["cpu"] for table in tables))
    return f"RankForge on {cpus}"
