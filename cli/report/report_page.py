"""Draws the page of `rankforge report` with matplotlib.

report_page.py DATA.json FOLDER writes FOLDER/report.html, one page without any
resource from outside, and each plot once more as FOLDER/<name>.svg. DATA.json
comes from the program, which has checked it: "tables", "results" or "front". Exit code
3: no matplotlib."""

import json
import sys

from report_style import Page  # first: it sets matplotlib up
from report_front import add_front
from report_models import add_models
from report_tables import add_tables


def printable(value):
    """`value` with the strings in it free of what XML cannot hold."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "?" for c in value)
    if isinstance(value, list):
        return [printable(element) for element in value]
    if isinstance(value, dict):
        return {printable(key): printable(element)
                for key, element in value.items()}
    return value


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        data = printable(json.load(file))
    page = Page(sys.argv[2])
    if "tables" in data:
        title = add_tables(page, data["tables"])
    elif "front" in data:
        title = add_front(page, data["front"])
    else:
        title = add_models(page, data["results"])
    page.write(title)


if __name__ == "__main__":
    main()
