"""The page of `rankforge optimize`, for report_page.py: the models that it
measured, which of them are on the front and which it chose."""

import html

from report_models import front, spread_scale
from report_style import (MARKERS, colour, legend_below, panels, series,
                          text_table)


def plot_points(points):
    """Divergence against time, with the front."""
    figure, axes = panels(1, 4.6, 9.6)
    panel = axes[0]
    best = front([(p["ms_per_token"], p["divergence"]) for p in points
                  if not p["dominated"]])
    panel.plot(*zip(*best), color=colour("soft"), linewidth=1.2,
               linestyle=(0, (5, 3)), drawstyle="steps-post")
    forms = list(dict.fromkeys(p["form"] for p in points))
    handles = {}
    for point in points:
        index = forms.index(point["form"])
        at = (point["ms_per_token"], point["divergence"])
        handles[point["form"]] = panel.plot(
            *at, marker=MARKERS[index % len(MARKERS)], markersize=7,
            linestyle="", alpha=0.9, color=series(index))[0]
        if point["chosen"]:
            handles["chosen"] = panel.plot(
                *at, marker="o", markersize=14, linestyle="",
                markerfacecolor="none", color=colour("ink"))[0]
    panel.set_xlabel("milliseconds per decoded token (dashed: the front)")
    panel.set_ylabel("divergence from dense, nats per token")
    spread_scale(panel, [p["divergence"] for p in points])
    legend_below(figure, handles.values(), list(handles), 4)
    return figure


def points_table(points):
    head = ["model", "divergence", "excess loss", "ms per token", "mean",
            "of dense", "MB per token", ""]
    rows = [[p["description"], f"{p['divergence']:.4f}",
             f"{p['excess_loss']:.4f} \u00b1 {p['excess_loss_error']:.4f}",
             f"{p['ms_per_token']:.3f}", f"{p['mean_ms_per_token']:.3f}",
             f"{p['time_ratio']:.3f}", f"{p['bytes_per_token'] / 1e6:.2f}",
             "chosen" if p["chosen"] else
             "dominated" if p["dominated"] else "front"]
            for p in points]
    return text_table(head, rows, range(1, 7))


def groups_table(data):
    head = ["products", "chosen", *data["types"]]
    rows = [[group["name"], group["type"],
             *(f"{value:.5f}" for value in group["divergences"])]
            for group in data["groups"]]
    return text_table(head, rows, range(2, len(head)))


def add_front(page, data):
    """Fills the page; returns its title."""
    page.add(f"<p><strong>{html.escape(data['answer'])}</strong></p>"
             f"<p>{html.escape(data['conditions'])}</p>")
    page.figure("front", "Divergence against time", 2,
                "Each point is a whole model, measured.",
                plot_points(data["points"]))
    page.add(points_table(data["points"]))
    page.details("Types by product, and the divergence when one of them alone "
                 "has a type", groups_table(data))
    return f"RankForge: {data['model']}, precision and sparsity"
