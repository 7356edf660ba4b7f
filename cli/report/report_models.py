"""Plots and tables of what `eval --json` and `bench --json` say of models, for
report_page.py. The figures are those of the RaNA paper (arXiv 2503.18216): 1 and
4, 1c, 2 and 3."""

import re
import statistics

from matplotlib import pyplot, ticker

from report_style import (MARKERS, colour, label_line, legend_below, panels,
                          series, text_table)

# Layers are shown for the adapter of each method nearest to this budget, at
# which the paper makes its claim.
SHOWN_KEEP = 0.56


# What the results say ---------------------------------------------------------

def number(value, digits=2):
    """Without the zero in front: .56."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}")


def label(result):
    """rana .56, with whatever else tells it from others."""
    words = [result["method"]]
    if result["adapter"] is not None:
        words.append(number(result["keep"]))
    if result.get("tau_scale", 1) != 1:
        words.append(f"tau × {result['tau_scale']:g}")
    return " ".join(words)


def is_dense(result):
    return result["adapter"] is None


def weights_of(result):
    """The dtype, with what the products round their inputs to: results of other
    arithmetic are not of the same weights."""
    rounded = [name for name in result.get("activations", {}) if name != "f32"]
    return ", ".join([result["dtype"]] +
                     [f"{name} activations" for name in rounded])


def split_module(module):
    """("mlp.up_proj", 3) of "model.layers.3.mlp.up_proj"."""
    found = re.match(r"(?:[^.]*\.)*?(\d+)\.(.*)", module)
    return (found[2], int(found[1])) if found else (module, 0)


def by_kind(modules):
    """{kind: [(layer, value)]} of {module: value}, layers in order."""
    kinds = {}
    for module, value in modules.items():
        kind, layer = split_module(module)
        kinds.setdefault(kind, []).append((layer, value))
    return {kind: sorted(pairs, key=lambda pair: pair[0])
            for kind, pairs in kinds.items()}


class Model:
    """The results of one model."""

    def __init__(self, name, results):
        self.name = name
        self.evals = [r for r in results if r["kind"] == "eval"]
        self.benches = [r for r in results if r["kind"] == "bench"]
        self.dtypes = list(dict.fromkeys(r["dtype"] for r in results))
        self.methods = [method for method in dict.fromkeys(
            r["method"] for r in results if not is_dense(r))]

    def colour(self, method):
        if method not in self.methods:
            return colour("ink")
        return series(self.methods.index(method))

    def dense(self, dtype):
        """The evaluation of the dense model, or None."""
        for result in self.evals:
            if is_dense(result) and result["dtype"] == dtype:
                return result
        return None

    def milliseconds(self, result):
        """Per decoded token, at the first context of a bench; None: no bench
        has this model."""
        same = [bench for bench in self.benches
                if bench["dtype"] == result["dtype"]]
        if is_dense(result):
            times = [bench["dense_ms_per_token"] for bench in same]
            return statistics.median(times) if times else None
        if result["tau_scale"] != 1:
            return None
        for bench in same:
            if bench["adapter"] == result["adapter"]:
                return bench["decode_ms_per_token"]
        return None

    def shown(self, wanted):
        """For each method, of the evaluations that have `wanted`, the one
        nearest to SHOWN_KEEP."""
        chosen = {}
        for result in self.evals:
            if is_dense(result) or not wanted(result):
                continue
            best = chosen.get(result["method"])
            if best is None or (abs(result["keep"] - SHOWN_KEEP) <
                                abs(best["keep"] - SHOWN_KEEP)):
                chosen[result["method"]] = result
        return list(chosen.values())


def front(points):
    """The (x, y) with no other point both left and below, by x."""
    kept = []
    for x, y in sorted(points):
        if not kept or y < kept[-1][1]:
            kept.append((x, y))
    return kept


# Plots ------------------------------------------------------------------------

def grid(count, columns=3):
    """`count` panels, at most `columns` beside each other."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure, axes = pyplot.subplots(
        rows, columns, squeeze=False, figsize=(10.5, 0.6 + 2.7 * rows),
        constrained_layout=True)
    flat = list(axes.flat)
    for unused in flat[count:]:
        unused.set_visible(False)
    return figure, flat[:count]


def spread_scale(axes, values):
    """A logarithmic y axis where the values need one."""
    if values and min(values) > 0 and max(values) > 4 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def plot_flops(model):
    """Perplexity against effective FLOPs, one panel per weight type (figure
    1)."""
    dtypes = [dtype for dtype in model.dtypes
              if any(r["dtype"] == dtype for r in model.evals)]
    if not any(not is_dense(r) for r in model.evals):
        return None
    figure, axes = panels(len(dtypes), 4.3)
    handles = {}
    for panel, dtype in zip(axes, dtypes):
        dense = model.dense(dtype)
        if dense:
            panel.axhline(dense["perplexity"], color=colour("ink"),
                          linewidth=1.2, linestyle=(0, (5, 3)))
        for index, method in enumerate(model.methods):
            points = sorted((r["linear_flops_ratio"], r["perplexity"])
                            for r in model.evals
                            if r["method"] == method and r["dtype"] == dtype
                            and not is_dense(r))
            if not points:
                continue
            if dense:
                points.append((1, dense["perplexity"]))
            handles[method] = panel.plot(
                *zip(*points), marker=MARKERS[index % len(MARKERS)],
                markersize=5, linewidth=1.6, color=model.colour(method))[0]
        if dense:
            label_line(panel, panel.get_xlim()[0], dense["perplexity"],
                       f"dense {dense['perplexity']:.3f}")
        panel.set_title(dtype)
        panel.set_xlabel("multiply-adds of the linear layers, of dense")
    spread_scale(axes[0], [r["perplexity"] for r in model.evals])
    axes[0].set_ylabel("perplexity")
    legend_below(figure, handles.values(), list(handles), 6)
    return figure


def plot_time(model):
    """Perplexity against decode time, with the front (figure 4)."""
    timed = [(model.milliseconds(r), r) for r in model.evals]
    timed = [(ms, r) for ms, r in timed if ms is not None]
    if not timed:
        return None
    figure, axes = panels(1, 4.6, 9.6)
    panel = axes[0]
    best = front([(ms, r["perplexity"]) for ms, r in timed])
    panel.plot(*zip(*best), color=colour("soft"), linewidth=1.2,
               linestyle=(0, (5, 3)), drawstyle="steps-post")
    handles = {}
    for ms, result in timed:
        name = result["method"] if not is_dense(result) else "dense"
        marker = MARKERS[model.dtypes.index(result["dtype"]) % len(MARKERS)]
        point = panel.plot(ms, result["perplexity"], marker=marker,
                           markersize=7, linestyle="", alpha=0.9,
                           color=model.colour(result["method"]))[0]
        handles[f"{name}, {result['dtype']}"] = point
        if not is_dense(result):
            panel.annotate(number(result["keep"]), (ms, result["perplexity"]),
                           xytext=(5, 3), textcoords="offset points",
                           fontsize=8, color=colour("soft"))
    panel.set_xlabel("milliseconds per decoded token (numbers: share of the "
                     "multiply-adds asked for; dashed: the front)")
    panel.set_ylabel("perplexity")
    spread_scale(panel, [r["perplexity"] for _, r in timed])
    legend_below(figure, handles.values(), list(handles), 4)
    return figure


def plot_context(model):
    """Decode time against the tokens in the KV cache (figure 1c)."""
    swept = [b for b in model.benches if len(b["by_context"]) > 1]
    if not swept:
        return None
    dtypes = list(dict.fromkeys(b["dtype"] for b in swept))
    figure, axes = panels(len(dtypes), 4.3)
    handles = {}
    for panel, dtype in zip(axes, dtypes):
        same = [b for b in swept if b["dtype"] == dtype]
        dense = {}
        for bench in same:
            for at in bench["by_context"]:
                dense.setdefault(at["context"], []).append(
                    at["dense_ms_per_token"])
        handles["dense"] = panel.plot(
            *zip(*sorted((context, statistics.median(times))
                         for context, times in dense.items())),
            marker="_", markersize=9, linewidth=1.6, color=colour("ink"))[0]
        for index, bench in enumerate(b for b in same if not is_dense(b)):
            handles[label(bench)] = panel.plot(
                *zip(*sorted((at["context"], at["decode_ms_per_token"])
                             for at in bench["by_context"])),
                marker=MARKERS[index % len(MARKERS)], markersize=5,
                linewidth=1.6, color=model.colour(bench["method"]))[0]
        panel.set_title(dtype)
        panel.set_xlabel("tokens in the KV cache")
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("milliseconds per token")
    legend_below(figure, handles.values(), list(handles), 5)
    return figure


def has_ranks(result):
    return any("contributions" in layer
               for layer in result.get("layers", {}).values())


def mean_of(lists):
    return [statistics.fmean(values) for values in zip(*lists)]


def plot_contributions(result):
    """How the contributions of ranks are spread, by kind of layer (figure 2)."""
    kinds = by_kind({module: layer["contributions"]
                     for module, layer in result["layers"].items()
                     if "contributions" in layer})
    figure, axes = grid(len(kinds))
    handles = {}
    for panel, (kind, layers) in zip(axes, sorted(kinds.items())):
        first = layers[0][1]
        width = first["bin_width"]
        means = {key: mean_of([c[key] for _, c in layers])
                 for key in ("ranks", "kept", "energy")}
        left = [first["lowest"] + width * i for i in range(len(means["ranks"]))]
        handles["ranks"] = panel.bar(
            left, means["ranks"], width=width * 0.92, align="edge",
            facecolor="none", edgecolor=colour("soft"), linewidth=1.2)
        handles["of them kept"] = panel.bar(
            left, means["kept"], width=width * 0.92, align="edge",
            color=series(0), alpha=0.85)
        handles["share of the energy"] = panel.plot(
            [x + width / 2 for x in left], means["energy"], color=series(1),
            marker="o", markersize=3.5, linewidth=1.4)[0]
        panel.set_title(kind)
        panel.set_xlabel("contribution / mean of its token, log10")
    legend_below(figure, handles.values(), list(handles), 3)
    return figure


def plot_kept(result):
    """How often each rank is kept, by its place among the ranks."""
    kinds = by_kind({module: layer["keep_frequency"]
                     for module, layer in result["layers"].items()
                     if "contributions" in layer})
    figure, axes = grid(len(kinds))
    for panel, (kind, layers) in zip(axes, sorted(kinds.items())):
        for index, (_, frequency) in enumerate(layers):
            place = [(i + 0.5) / len(frequency) for i in range(len(frequency))]
            panel.plot(place, frequency, color=series(0), linewidth=1.1,
                       alpha=0.25 + 0.75 * (index + 1) / len(layers))
        panel.set_title(kind)
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1.02)
        panel.set_xlabel("rank / d, by singular value")
    axes[0].set_ylabel("share of tokens that keep it")
    return figure


def plot_by_layer(model, results, values, y_label, top=None, band=None):
    """`values(result)`, {module: value}, against the layer: one panel per
    kind, one line per method; `band(result)`, {module: (low, high)}, is
    shaded."""
    kinds = sorted({kind for result in results
                    for kind in by_kind(values(result))})
    if not kinds:
        return None
    figure, axes = grid(len(kinds))
    handles = {}
    for result in results:
        index = model.methods.index(result["method"])
        bands = by_kind(band(result)) if band else {}
        for kind, pairs in by_kind(values(result)).items():
            panel = axes[kinds.index(kind)]
            handles[label(result)] = panel.plot(
                *zip(*pairs), marker=MARKERS[index % len(MARKERS)],
                markersize=4.5, linewidth=1.5,
                color=model.colour(result["method"]))[0]
            if kind in bands:
                layers, ends = zip(*bands[kind])
                panel.fill_between(layers, *zip(*ends), alpha=0.15,
                                   color=model.colour(result["method"]),
                                   linewidth=0)
    for panel, kind in zip(axes, kinds):
        panel.set_title(kind)
        panel.set_xlabel("layer")
        panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        panel.set_ylim(0, top)
    axes[0].set_ylabel(y_label)
    legend_below(figure, handles.values(), list(handles), 5)
    return figure


def errors_of(result):
    return {module: layer["error"]
            for module, layer in result["layers"].items()}


def quantiles_of(result):
    return {module: (quantiles["0.05"], quantiles["0.95"])
            for module, quantiles in result["density_quantiles"].items()
            if "0.05" in quantiles and "0.95" in quantiles}


# Page -------------------------------------------------------------------------

def results_table(model):
    head = ["", "weights", "FLOPs", "perplexity", "excess log-loss",
            "MB per token", "ms per token", "times dense"]
    rows = []
    for result in sorted(model.evals, key=lambda r: (
            model.dtypes.index(r["dtype"]), not is_dense(r),
            -r["linear_flops_ratio"])):
        dense = model.dense(result["dtype"])
        ms = model.milliseconds(result)
        dense_ms = model.milliseconds(dense) if dense else None
        rows.append([
            label(result), result["dtype"],
            number(result["linear_flops_ratio"], 3),
            f"{result['perplexity']:.3f}",
            number(result["loss"] - dense["loss"], 4) if dense else "",
            f"{result['bytes_per_token'] / 1e6:.2f}",
            f"{ms:.3f}" if ms is not None else "",
            f"{dense_ms / ms:.2f}" if ms and dense_ms else ""])
    return text_table(head, rows, range(2, 8))


def figures_of(model):
    """[(name, heading, caption, figure)]"""
    with_layers = model.shown(lambda r: "layers" in r)
    adapted = model.shown(lambda r: r["density"])
    figures = [
        ("flops", "Perplexity against FLOPs",
         "Multiply-adds of the linear layers inside the blocks, masked ones by "
         "what they kept in this evaluation.", plot_flops(model)),
        ("time", "Perplexity against decode time",
         "Median times of `bench`, which decodes with the dense and the adapted "
         "model in turn.", plot_time(model)),
        ("context", "Decode time against context",
         "Attention is not adapted: its share grows with the context.",
         plot_context(model)),
    ]
    for result in with_layers:
        if has_ranks(result):
            suffix = "" if len(with_layers) == 1 else (
                f"-{model.methods.index(result['method']) + 1}")
            figures += [
                (f"contributions{suffix}",
                 f"Contributions of ranks: {label(result)}",
                 "The square of what a rank adds to the output, relative to the "
                 "mean of its token, over ranks and tokens; means over the "
                 "layers.", plot_contributions(result)),
                (f"kept{suffix}", f"Which ranks are kept: {label(result)}",
                 "A line a layer, the deeper the darker.", plot_kept(result))]
    if with_layers:
        figures.append(
            ("errors", "Error by layer",
             "Squared error of the output relative to the dense layer's, on the "
             "inputs that the adapted model feeds both.",
             plot_by_layer(model, with_layers, errors_of, "relative error")))
    if adapted:
        figures.append(
            ("densities", "Density by layer",
             "Share of inputs or ranks that are kept: mean, and from 5 % to 95 % "
             "of the tokens.",
             plot_by_layer(model, adapted, lambda r: r["density"], "density",
                           1.02, quantiles_of)))
    return figures


def add_models(page, results):
    """Fills the page; returns its title."""
    results = [result | {"dtype": weights_of(result)} for result in results]
    names = list(dict.fromkeys(result["model"] for result in results))
    models = [Model(name, [r for r in results if r["model"] == name])
              for name in names]
    for index, model in enumerate(models):
        suffix = "" if len(models) == 1 else f"-m{index + 1}"
        level = 2
        if len(models) > 1:
            page.heading(2, model.name)
            level = 3
        if any(bench["synthetic"] for bench in model.benches):
            page.add("<p>Synthetic weights and masks: good for time, "
                     "meaningless for quality.</p>")
        if model.evals:
            page.add(results_table(model))
        for name, heading, caption, figure in figures_of(model):
            page.figure(name + suffix, heading, level, caption, figure)
    return "RankForge: " + ", ".join(names)
