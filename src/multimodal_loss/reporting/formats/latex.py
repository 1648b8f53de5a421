"""A table as LaTeX."""

import pandas as pd

from multimodal_loss.reporting.analysis.fill import FilledTable
from multimodal_loss.reporting.formats.text import DASH, MINUS, PLUS_MINUS, Footnotes, conventions, lines

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
}


def latex(table: FilledTable) -> str:
    """A `table` environment; its document needs \\usepackage{booktabs}."""
    layout, footnotes = table.layout, Footnotes()
    rows = [
        (escape(row.heading), label, *map(escape, texts))
        for row in layout.rows
        for label, texts in lines(table, row, layout.columns, footnotes)
    ]
    titles = pd.MultiIndex.from_tuples([(escape(column.group), escape(column.title)) for column in layout.columns])
    index = pd.MultiIndex.from_tuples([row[:2] for row in rows], names=[escape(layout.corner), ""])
    grouped = any(column.group for column in layout.columns)
    frame = pd.DataFrame([row[2:] for row in rows], index, titles if grouped else titles.droplevel(0))
    text = frame.style.to_latex(
        column_format="ll" + "r" * len(layout.columns),
        position_float="centering",
        hrules=True,
        clines="skip-last;index",
        multirow_align="naive",
        multicol_align="c",
        caption=f"{escape(layout.title)}. {escape(table.description)}",
        label=f"tab:{layout.name.replace('_', '-')}",
    )
    notes = [conventions(table), *(f"[{i}] {note}" for i, note in footnotes)]
    below = "\\smallskip\\raggedright " + r" \\".join(map(escape, notes))
    text = text.replace("\\centering", "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}", 1)
    return "% needs \\usepackage{booktabs}\n" + text.replace("\\end{table}", f"\n{below}\n\\end{{table}}")


def escape(text: str) -> str:
    """Plain text for LaTeX; what it has no name for becomes a question mark."""
    return "".join(LETTERS.get(letter, letter if letter.isascii() else "?") for letter in text)
