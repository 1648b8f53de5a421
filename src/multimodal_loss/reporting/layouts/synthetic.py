"""Table 1, its variations and Appendix B: three synthetic modalities, of which none, one or two are noisy."""

from collections.abc import Sequence
from dataclasses import replace

from multimodal_loss.reporting.analysis.fill import FilledTable
from multimodal_loss.reporting.figures.runs import RUN_PICTURES
from multimodal_loss.reporting.figures.tables import overview
from multimodal_loss.reporting.layouts.base import METHOD, Cell, Column, Condition, Layout, Row, Shown
from multimodal_loss.reporting.layouts.conf import dataset_facts, experiment, in_group, method_title, swept

DATASET = "synthetic"
NOISE_TITLES = {"0": "No noisy modality", "1": "One noisy modality", "2": "Two noisy modalities"}
ALONE = {f"unimodal_{i}": f"m{i}" for i in (1, 2, 3)}  # method to the modality that it trains
SOFTMAX = "_probabilities"  # ends the names of the unimodal methods that take a softmax first
READINGS = {  # method to the key of its column, which begins with the paper's
    "mulmix_product": "mulmix/product",
    "mulmix_beta_low": "mulmix/beta_0.2",
    "mulmix_beta_high": "mulmix/beta_1",
    "soft_triple_tau": "soft_triple/tau",
    "soft_triple_fast": "soft_triple/fast",
    "soft_triple_tau_fast": "soft_triple/both",
    "proxy_anchor_fast": "proxy_anchor/fast",
}


def layouts() -> list[Layout]:
    return [table_1(), table_1_data_seeds(), table_1_fair(), table_1_readings(), appendix_b(), quick()]


def table_1() -> Layout:
    return _by_noise(
        "table_1",
        "Table 1: accuracy on the synthetic data",
        "Test accuracy in percent on three synthetic modalities, of which none, one or two are noisy.",
        "make reproduce-table-1",
    )


def table_1_readings() -> Layout:
    """An extra: Table 1 under other readings of what the paper leaves open."""
    table = _by_noise(
        "table_1_readings",
        "Table 1 under other readings",
        "Test accuracy in percent. The paper does not say how Mulmix forms a mixture from unimodal outputs: Table 1 "
        "adds their softmax outputs, as SUM + CE does; a product of experts adds their log-probabilities; nor which "
        "beta it takes (Table 1: 0.5). It does not say whether a softmax precedes the cross-entropy of a unimodal "
        "network (in Table 1 no, here yes), nor whether SoftTriple and ProxyAnchor take their originals' "
        "regulariser (tau 0.2) and faster proxies (100 times the rate; in Table 1 neither).",
        "make extra-readings",
    )
    return replace(table, conditions=(), rivals=False)


def table_1_data_seeds() -> Layout:
    """An extra beyond the paper: does MultiModal's lead hold when the synthetic data are drawn anew?"""
    name = "table_1_data_seeds"
    methods = _methods(name)
    rows, cells = [], []
    for n in swept(name, "dataset.noisy_modalities"):
        for seed in swept(name, "dataset.data_seed"):
            row = Row(f"noisy_modalities={n}/data_seed={seed}", f"data seed {seed}", group=NOISE_TITLES[n])
            common = (f"experiment={name}", f"dataset.noisy_modalities={n}", f"dataset.data_seed={seed}")
            rows.append(row)
            cells += [Cell(row.key, column.key, (*common, f"method={m}")) for m, column in methods.items()]
            cells.append(Cell(row.key, "lead", (*common, "method=multimodal"), minus=(*common, "method=sum_ce")))
    return Layout(
        name=name,
        title="Beyond the paper: Table 1 on other draws of the data",
        description=(
            "Test accuracy in percent when the synthetic data are drawn from other data seeds, fixed beforehand. "
            "The last column is the difference of MultiModal and SUM + CE in points, seed by seed."
        ),
        command="make extra-data-seeds",
        rows=tuple(rows),
        columns=(*methods.values(), Column("lead", "MultiModal \N{MINUS SIGN} SUM", signed=True)),
        cells=tuple(cells),
        corner="Data",
        dataset=DATASET,
    )


def table_1_fair() -> Layout:
    """An extra beyond the paper: fresh draws, SUM and Mulmix with both inputs, each method's own learning rate."""
    name, mean = "table_1_fair", "draws"
    draws, rates, methods = (swept(name, key) for key in ("dataset.data_seed", "optimizer.lr", "method"))
    rows = tuple(Row(method, method_title(method)) for method in methods)
    settings = experiment(name)
    cells = []
    for row in rows:
        for draw in draws:
            common = (f"experiment={name}", f"dataset.data_seed={draw}", f"method={row.key}")
            cells.append(Cell(row.key, draw, among=tuple((*common, f"optimizer.lr={rate}") for rate in rates)))
        cells.append(Cell(row.key, mean, over=tuple((int(draw), draw) for draw in draws)))
    return Layout(
        name=name,
        title="Beyond the paper: a fair comparison on fresh draws of the data",
        description=(
            f"Test accuracy in percent with two noisy modalities, on {len(draws)} draws of the data that were fixed "
            f"beforehand; {len(settings.seeds)} seeds each. For every method and draw the learning rate of "
            f"{', '.join(rates)} with the best mean validation accuracy. The last column is over draws, of each the "
            f"mean over seeds. SUM, Mulmix and MultiModal stand with both inputs, probabilities and logits "
            f"(MultiModal's is logit attention, an option of ours), the others with their own; ProxyAnchor with the "
            f"fast proxies of its own code; SoftTriple is left out. Training stops at {settings.trainer.max_epochs:,} "
            f"epochs at the latest; a cell says how many replicates that cut short."
        ),
        command="make reproduce-table-1-fair",
        rows=rows,
        columns=(*(Column(draw, f"data seed {draw}") for draw in draws), Column(mean, "over draws")),
        cells=tuple(cells),
        corner="Method",
        dataset=DATASET,
        compared=mean,
        against=("multimodal",),
        focus=method_title("multimodal"),
    )


def appendix_b() -> Layout:
    rates, cap = swept("appendix_b", "optimizer.lr"), experiment("appendix_b").trainer.max_epochs
    # The paper's row is called unimodal; the first modality is trained for it.
    rows = {m: Row("unimodal" if m in ALONE else m, _column(m).full_title) for m in swept("appendix_b", "method")}
    return Layout(
        name="appendix_b",
        title="Appendix B: learning rates",
        description=(
            f"Validation accuracy in percent with one noisy modality, for {len(rates)} learning rates. Training stops "
            f"at {cap:,} epochs at the latest; a cell says how many replicates that cut short. "
            f"{_data_seed('appendix_b', '1').capitalize()}."
        ),
        command="make reproduce-appendix-b",
        rows=tuple(rows.values()),
        columns=tuple(Column(f"lr={rate}", rate, group="lr") for rate in rates),
        cells=tuple(
            Cell(
                row.key,
                f"lr={rate}",
                ("experiment=appendix_b", f"method={method}", f"optimizer.lr={rate}"),
                metric="validation/fused/ACC",
                paper=("B1", row.key, f"lr={rate}"),
            )
            for method, row in rows.items()
            for rate in rates
        ),
        corner="Method",
        rivals=False,
        dataset=DATASET,
        verdicts=(best_rates,),
        pictures=(overview,),
    )


def best_rates(table: FilledTable) -> str:
    """For how many methods the learning rate with the best mean is the paper's, of the rates that are complete here and
    have a number in the paper, and what it is for the others; which is better at a rate without one. Empty before a
    method has two such.
    """
    agreeing, other, beyond = 0, [], []
    for row in table.layout.rows:
        cells = {column.title: table[row, column] for column in table.layout.columns}
        complete = {rate: cell for rate, cell in cells.items() if cell and cell.state == "complete"}
        ours = {rate: cell.mean for rate, cell in complete.items() if cell.mean is not None}
        paper = {rate: cell.target for rate, cell in complete.items() if cell.target is not None}
        if len(paper) < 2:
            continue
        best, stated = max(paper, key=ours.__getitem__), max(paper, key=paper.__getitem__)
        beyond += [f"{row.full_title} at {rate}" for rate, mean in ours.items() if mean > ours[best]]
        agreeing += best == stated
        other += [f"{row.full_title} {best}, in the paper {stated}"] if best != stated else []
    compared, rest = agreeing + len(other), f" ({'; '.join(other)})" if other else ""
    methods = f"{compared} method{'s' * (compared > 1)}"
    said = (
        f"Of the rates that are complete and in the paper, the best is the paper's for {agreeing} of {methods}{rest}."
    )
    said += f" Better is {', '.join(beyond)}, for which the paper has no number." if beyond else ""
    return said if compared else ""


def quick() -> Layout:
    table = _by_noise(
        "quick",
        "QUICK PROFILE: reduced data, not Table 1",
        "A short run of the whole chain: fewer samples and features, 2 seeds. "
        "Its numbers show that the installation works and say nothing about the paper.",
        "make quick",
        noise=[str(experiment("quick").dataset.noisy_modalities)],
    )
    cells = tuple(replace(cell, paper=None) for cell in table.cells)
    condition = replace(table.conditions[0], key="quick", title="Quick profile, two noisy modalities")
    notice = "QUICK PROFILE: reduced data and 2 seeds"
    return replace(table, cells=cells, conditions=(condition,), profile="quick", notice=notice, pictures=())


def _by_noise(name: str, title: str, description: str, command: str, noise: Sequence[str] = ()) -> Layout:
    """A row for each number of noisy modalities, a column for each method."""
    noise, methods = noise or swept(name, "dataset.noisy_modalities"), _methods(name)
    runs = {
        (n, method): (f"experiment={name}", f"dataset.noisy_modalities={n}", f"method={method}")
        for n in noise
        for method in methods
    }
    return Layout(
        name,
        title,
        description,
        command,
        rows=tuple(Row(f"noisy_modalities={n}", NOISE_TITLES[n], note=_data_seed(name, n)) for n in noise),
        columns=tuple(methods.values()),
        cells=tuple(
            Cell(f"noisy_modalities={n}", column.key, runs[n, method], paper=("1", f"noise_modalities={n}", paper))
            for n in noise
            for method, column in methods.items()
            for paper in (f"{column.key.split('/')[0]}/ACC",)
        ),
        conditions=tuple(
            Condition(
                f"noisy_modalities_{n}",
                NOISE_TITLES[n],
                tuple(Shown(m, column.full_title, runs[n, m], column.group) for m, column in methods.items()),
                RUN_PICTURES,
            )
            for n in noise
        ),
        corner="Data",
        across=METHOD,
        dataset=DATASET,
        pictures=(overview,),
    )


def _data_seed(name: str, noise: str) -> str:
    """Which draw of the data an experiment uses; the paper does not state its own."""
    seeds = dataset_facts(DATASET).default_data_seeds
    return f"data seed {experiment(name).get('dataset', {}).get('data_seed', seeds[noise])}"


def _methods(name: str) -> dict[str, Column]:
    """The methods of an experiment, each with its column."""
    return {method: _column(method) for method in swept(name, "method")}


def _column(method: str) -> Column:
    modality, is_reading = ALONE.get(method.removesuffix(SOFTMAX)), method.endswith(SOFTMAX)
    if modality:
        title = f"{modality}, CE of probabilities" if is_reading else modality
        return Column(f"unimodal_{modality}" + "/probabilities" * is_reading, title, group="Unimodal")
    return Column(READINGS.get(method, method), *in_group(method_title(method)))
