#!/usr/bin/env python3
"""Draws the break-even surface that rank_bench writes with --csv.

    scripts/plot_break_even.py RANKS.csv --out break_even.svg

One panel per shape shows how many times as fast as the dense product the fused
rank adapter is, by rank and kept share. A line marks where both take the same
time. Needs matplotlib (python3-matplotlib)."""

import argparse
import csv
import sys
from collections import defaultdict

COLUMNS = ("type", "rows", "cols", "threads", "rank", "kept",
           "dense_over_fused")


def read_surfaces(path):
    """{(type, rows, cols, threads): {(rank, kept): speed-up}}"""
    surfaces = defaultdict(dict)
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"no column {missing[0]}; rank_bench --csv "
                             "writes it")
        for line, row in enumerate(reader, start=2):
            try:
                shape = (row["type"], int(row["rows"]), int(row["cols"]),
                         int(row["threads"]))
                point = (int(row["rank"]), float(row["kept"]))
                surfaces[shape][point] = float(row["dense_over_fused"])
            except (TypeError, ValueError) as error:
                raise ValueError(f"line {line}: {error}") from None
    if not surfaces:
        raise ValueError("no lines below the header")
    return surfaces


def draw(surfaces, out):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(surfaces), squeeze=False,
                                     figsize=(5 * len(surfaces), 4),
                                     constrained_layout=True)
    for panel, (shape, points) in zip(panels[0], sorted(surfaces.items())):
        ranks = sorted({rank for rank, _ in points})
        kept = sorted({share for _, share in points})
        grid = [[points.get((rank, share), float("nan")) for rank in ranks]
                for share in kept]
        image = panel.pcolormesh(range(len(ranks)), kept, grid,
                                 cmap="RdBu", vmin=0, vmax=2,
                                 shading="nearest")
        if len(ranks) > 1 and len(kept) > 1:
            panel.contour(range(len(ranks)), kept, grid, levels=[1],
                          colors="black")
        for i, rank in enumerate(ranks):
            for share in kept:
                if (rank, share) in points:
                    gain = points[rank, share]
                    panel.text(i, share, f"{gain:.2f}", ha="center",
                               va="center", fontsize=8,
                               color="white" if abs(gain - 1) > 0.6
                               else "black")
        kind, rows, cols, threads = shape
        panel.set_title(f"{rows} x {cols} {kind}, {threads} threads")
        panel.set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
        panel.set_xlabel("rank d")
        panel.set_ylabel("kept share of the ranks")
    figure.colorbar(image, ax=panels[0].tolist(), label="dense / adapter time")
    figure.savefig(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", help="what rank_bench --csv wrote")
    parser.add_argument("--out", default="break_even.svg",
                        help="image to write (default: %(default)s)")
    options = parser.parse_args()
    try:
        draw(read_surfaces(options.csv), options.out)
    except (OSError, ValueError) as error:
        print(f"{options.csv}: {error}", file=sys.stderr)
        return 1
    except ImportError:
        print("matplotlib is missing: apt-get install python3-matplotlib",
              file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
