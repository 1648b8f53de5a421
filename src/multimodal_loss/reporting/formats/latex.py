"""A table as LaTeX."""

import pandas as pd

from multimodal_loss.reporting.analysis.fill import FilledTable
from multimodal_loss.reporting.formats.text import DASH, MARKS, MINUS, PLUS_MINUS, grid

LETTERS = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # a bracket after \\ would be read as its option
    PLUS_MINUS: r"$\pm$",
    MINUS: "$-$",
    DASH: "--",
    "\N{SUPERSCRIPT TWO}": "$^2$",
    MARKS["best"]: r"$\bullet$",
    MARKS["tied"]: r"$\circ$",
}


def latex(table: FilledTable) -> str:
    """A `table` environment; its document needs \\usepackage{booktabs}."""
    layout, found = table.layout, grid(table)
    rows = []
    for row, places, rank in found.lines:
        for label in dict.fromkeys(label for place in places for label in place.said):
            texts = [escape(place.said.get(label, "")) for place in places]
            rows.append((escape(row.heading), label, *texts, *[rank * (label == "ours")] * bool(found.ranked)))
    heads = [(one.group, f"{one.title} ({one.note})" if one.note else one.title) for one in found.columns]
    heads += [("", "Mean rank")] * bool(found.ranked)
    titles = pd.MultiIndex.from_tuples([(escape(group), escape(title)) for group, title in heads])
    index = pd.MultiIndex.from_tuples([row[:2] for row in rows], names=[escape(found.corner), ""])
    grouped = any(column.group for column in found.columns)
    frame = pd.DataFrame([row[2:] for row in rows], index, titles if grouped else titles.droplevel(0))
    text = frame.style.to_latex(
        column_format="ll" + "r" * len(heads),
        position_float="centering",
        hrules=True,
        clines="skip-last;index",
        multirow_align="naive",
        multicol_align="c",
        caption=f"{escape(layout.title)}. {escape(table.description)}",
        label=f"tab:{layout.name.replace('_', '-')}",
    )
    below = "\\smallskip\\raggedright " + r" \\".join(map(escape, found.notes))
    text = text.replace("\\centering", "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}", 1)
    return "% needs \\usepackage{booktabs}\n" + text.replace("\\end{table}", f"\n{below}\n\\end{{table}}")


def escape(text: str) -> str:
    """Plain text for LaTeX; what it has no name for becomes a question mark."""
    return "".join(LETTERS.get(letter, letter if letter.isascii() else "?") for letter in text)
