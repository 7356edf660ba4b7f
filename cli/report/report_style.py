"""How the pages of `rankforge report` look: colours, figures, tables, the page.

Colours are written as placeholders and replaced by CSS variables, so that one
set of plots serves light and dark, in the page and as files. Without matplotlib
the program ends with exit code 3."""

import html
import io
import os
import re
import sys

try:
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
except ImportError:
    sys.exit(3)

# CSS variable: placeholder in the plots, value on light, value on dark.
COLOURS = {
    "paper": ("#0000a0", "#ffffff", "#16181d"),
    "ink": ("#0000a1", "#1d2129", "#e6e8ec"),
    "soft": ("#0000a2", "#5d6570", "#a2abb8"),
    "line": ("#0000a3", "#d8dce2", "#363c47"),
    "series0": ("#0000c0", "#2563c9", "#6ea8ff"),
    "series1": ("#0000c1", "#c2570c", "#ff9f59"),
    "series2": ("#0000c2", "#15803d", "#5fd38a"),
    "series3": ("#0000c3", "#a21caf", "#e58af0"),
    "series4": ("#0000c4", "#8a6d00", "#e3c341"),
    "series5": ("#0000c5", "#0e7c86", "#4fd1dc"),
    "series6": ("#0000c6", "#b4233c", "#ff8095"),
    "series7": ("#0000c7", "#5b5f97", "#a9aef0"),
}
SERIES = [name for name in COLOURS if name.startswith("series")]
MARKERS = "osD^vPX*"


def colour(name):
    return COLOURS[name][0]


def series(index):
    return colour(SERIES[index % len(SERIES)])


def variables(column):
    return "".join(f"--{name}:{values[column]};"
                   for name, values in COLOURS.items())


STYLE = (f":root{{color-scheme:light dark;{variables(1)}}}"
         f"@media(prefers-color-scheme:dark){{:root{{{variables(2)}}}}}")

matplotlib.rcParams.update({
    "svg.hashsalt": "rankforge",
    "text.parse_math": False,  # names are names
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": colour("ink"),
    "axes.labelcolor": colour("ink"),
    "axes.edgecolor": colour("soft"),
    "xtick.color": colour("soft"),
    "ytick.color": colour("soft"),
    "xtick.labelcolor": colour("ink"),
    "ytick.labelcolor": colour("ink"),
    "grid.color": colour("line"),
})


# Figures ----------------------------------------------------------------------

def panels(count, height, width=5.2):
    figure, axes = pyplot.subplots(1, count, squeeze=False, sharey=True,
                                   figsize=(max(7.2, width * count), height),
                                   constrained_layout=True)
    return figure, axes[0]


def rows_figure(count, width=9.6):
    return pyplot.subplots(figsize=(width, 1.2 + 0.34 * count),
                           constrained_layout=True)


def legend_below(figure, handles, labels, columns):
    """Below the figure, which the tight bounding box of the file includes."""
    if handles:
        figure.legend(handles, labels, loc="upper center",
                      bbox_to_anchor=(0.5, 0), ncol=columns, fontsize=9)


def label_line(axes, x, y, text):
    axes.annotate(text, (x, y), xytext=(0, 3), textcoords="offset points",
                  fontsize=9)


def label_rows(axes, labels):
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def to_svg(figure, name, label):
    """The figure as SVG text with CSS variables, and ids of its own."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", pad_inches=0.15,
                   metadata={"Date": None, "Creator": None, "Format": None,
                             "Type": None})
    pyplot.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    for variable, values in COLOURS.items():
        svg = svg.replace(values[0], f"var(--{variable})")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    svg = svg.replace('href="#', f'href="#{name}-')
    return svg.replace(
        "<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)


def standalone(svg):
    """The plot as a file, with its colours and its background."""
    end = svg.index(">") + 1
    return (svg[:end] + f"<style>{STYLE}</style>"
            '<rect width="100%" height="100%" style="fill: var(--paper)"/>' +
            svg[end:])


def row(cells, tag="td", numbers=()):
    return "<tr>" + "".join(
        f'<{tag}{" class=number" if i in numbers else ""}>'
        f"{html.escape(str(cell))}</{tag}>"
        for i, cell in enumerate(cells)) + "</tr>"


def text_table(head, rows, numbers=()):
    """An HTML table; the columns `numbers` are set as numbers."""
    return ('<div class="scroll"><table>' + row(head, "th", numbers) +
            "".join(row(cells, "td", numbers) for cells in rows) +
            "</table></div>")


# Page -------------------------------------------------------------------------

PAGE_STYLE = STYLE + """
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
main{max-width:72rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1,h2,h3{line-height:1.2;margin:2.2rem 0 .6rem}h1{margin-top:0}
p,figcaption{max-width:46rem}figcaption{color:var(--soft);margin-top:.3rem}
figure{margin:1rem 0 2rem;overflow-x:auto}
figure svg{max-width:100%;height:auto;min-width:36rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem;
font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.25rem .9rem .25rem 0;vertical-align:top;
border-bottom:1px solid var(--line)}
td.number,th.number{text-align:right}details td{white-space:nowrap}
summary{cursor:pointer;margin:.6rem 0}
code{font-size:.95em}
"""


class Page:
    """A page that grows from top to bottom, and its plots as files of their own
    in `folder`."""

    def __init__(self, folder):
        self.folder = folder
        self.body = ""

    def heading(self, level, text):
        self.body += f"<h{level}>{html.escape(text)}</h{level}>"

    def add(self, markup):
        self.body += markup

    def details(self, summary, markup):
        self.body += (f"<details><summary>{html.escape(summary)}</summary>"
                      f"{markup}</details>")

    def figure(self, name, heading, level, caption, figure):
        """Does nothing if `figure` is None."""
        if figure is None:
            return
        svg = to_svg(figure, name, f"{heading}. {caption}")
        self.write_file(f"{name}.svg", standalone(svg))
        self.heading(level, heading)
        self.body += (f"<figure>{svg}<figcaption>{html.escape(caption)}"
                      "</figcaption></figure>")

    def write(self, title):
        title = html.escape(title)
        self.write_file("report.html", f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{PAGE_STYLE}</style></head>
<body><main><h1>{title}</h1>
{self.body}
</main></body></html>
""")

    def write_file(self, name, text):
        with open(os.path.join(self.folder, name), "w",
                  encoding="utf-8") as file:
            file.write(text)
