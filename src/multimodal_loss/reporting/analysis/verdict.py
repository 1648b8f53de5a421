"""What a table says, in one sentence that is made from its numbers."""

from collections.abc import Sequence

from multimodal_loss.reporting.analysis import significance
from multimodal_loss.reporting.analysis.best import direction, marks
from multimodal_loss.reporting.analysis.fill import FilledCell, FilledTable, as_read
from multimodal_loss.reporting.analysis.significance import Comparison
from multimodal_loss.reporting.layouts.base import Column

MOST_NAMED = 4  # columns; more are counted
MOST_RANGES = 2


def sentences(table: FilledTable, compared: Sequence[Comparison]) -> list[str]:
    """The sentence, which differences are significant, and what else the layout says of its cells, each a paragraph."""
    layout = table.layout
    tests = significance.sentence(compared, layout.focus, layout.draws)
    said = (sentence(table), tests, *(of(table) for of in layout.verdicts))
    return [line for one in said for line in one.splitlines()]


def sentence(table: FilledTable) -> str:
    """How the method that the table is about does in each column; where there is none such, the range of each column.
    Empty without values.
    """
    if not table.has_values:
        return ""
    differences = [
        (one.cell.column, one.mean) for one in table.cells.values() if one.cell.minus and one.mean is not None
    ]
    if differences:
        keys, leads = zip(*differences, strict=True)
        ahead, low, high = sum(lead > 0 for lead in leads), min(leads), max(leads)
        named = ", ".join(column.full_title for column in table.layout.columns if column.key in keys)
        start = f"{named} is above 0 in {ahead} of {len(leads)} rows"
        return f"{start}, from {low:+.1f} to {high:+.1f} points.".replace("-", "\N{MINUS SIGN}")
    table = as_read(table)
    return _of_focus(table) or _ranges(table)


def alt_of_table(table: FilledTable) -> str:
    """A picture of the table's cells in words: the means of each drawn column, in the order of the rows."""
    table, parts = as_read(table), []
    for column in (one for one in table.layout.columns if one.drawn):
        cells = [(row.heading, table[row, column]) for row in table.layout.rows]
        means = [f"{title} {_number(cell.mean, column)}" for title, cell in cells if cell and cell.mean is not None]
        parts += [f"{column.full_title}: {', '.join(means)}."] if means else []
    return " ".join(parts)


def _of_focus(table: FilledTable) -> str:
    """Empty where no row of the focus stands beside another one."""
    layout, found = table.layout, marks(table)
    ours = [row for row in layout.rows if layout.focus and layout.focus in row.full_title]
    places: dict[str, list[Column]] = {"best": [], "tied": [], "": []}
    for column in (one for one in layout.columns if one.drawn):
        said = [found.get((row.key, column.key), "") for row in ours if _complete(table[row, column])]
        if said and any(place[1] == column.key for place in found):
            places[next(one for one in ("best", "tied", "") if one in said)].append(column)
    counted = sum(map(len, places.values()))
    if not counted or len(ours) == len(layout.rows):
        return ""
    of = f"{len(places['best']) or 'none'} of {counted} column{'s' * (counted > 1)}"
    parts = [f"has the best mean in {of}{_named(places['best'], counted)}"]
    if tied := places["tied"]:
        parts.append(f"is not told apart from the best in {len(tied)}{_named(tied, counted)}")
    if behind := places[""]:
        gaps = [gap for column in behind if (gap := _gap(table, column))]
        parts.append(f"is behind the best in {len(behind)}: {'; '.join(gaps[:MOST_NAMED])}")
    return f"{layout.focus} {', '.join(parts[:-1])}{' and ' if parts[1:] else ''}{parts[-1]}."


def _gap(table: FilledTable, column: Column) -> str:
    """The best row of a column and the best of the focus, with their means."""
    cells = [(row, cell) for row in table.layout.rows if (cell := table[row, column]) and _complete(cell)]
    ranked = sorted(cells, key=lambda one: -direction(one[1]) * (one[1].mean or 0.0))
    best, ours = ranked[0], next(one for one in ranked if table.layout.focus in one[0].full_title)
    numbers = [_number(one.mean or 0.0, column) for _, one in (best, ours)]
    return f"in {column.full_title} {best[0].heading} {numbers[0]}, {ours[0].heading} {numbers[1]}"


def _ranges(table: FilledTable) -> str:
    """From which row's to which row's mean each of the first columns goes, of complete cells."""
    parts = []
    for column in [one for one in table.layout.columns if one.drawn][:MOST_RANGES]:
        cells = [(table[row, column], row) for row in table.layout.rows]
        means = [(cell.mean, row) for cell, row in cells if cell and cell.mean is not None and _complete(cell)]
        if means:
            low, high = min(means, key=lambda one: one[0]), max(means, key=lambda one: one[0])
            ends = [f"{_number(mean, column)} ({row.heading})" for mean, row in (low, high)]
            parts.append(f"{column.full_title} " + (f"from {' to '.join(ends)}" if len(means) > 1 else ends[0]))
    return f"{'; '.join(parts)}." if parts else ""


def _number(value: float, column: Column) -> str:
    return f"{value:.{column.decimals}f}".replace("-", "\N{MINUS SIGN}")


def _complete(cell: FilledCell | None) -> bool:
    return cell is not None and cell.state == "complete" and cell.mean is not None


def _named(columns: Sequence[Column], counted: int) -> str:
    """The columns in brackets; nothing where these are none, all of several, or too many."""
    if not columns or len(columns) == counted > 1 or len(columns) > MOST_NAMED:
        return ""
    return f" ({', '.join(column.full_title for column in columns)})"
