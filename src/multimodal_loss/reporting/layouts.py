"""Which cells each table has, before anything has been run.

A cell names the run that fills it (by the overrides one would type after `python -m multimodal_loss.train`), the metric
it shows and the paper's number for it. To add a table: write a function that returns a `Layout`, name it in `LAYOUTS`.
"""

from collections.abc import Iterable

from multimodal_loss.reporting import layouts_opportunity, layouts_tcga
from multimodal_loss.reporting.layout import (
    METHOD_TITLES,
    PAPER_METHODS,
    Cell,
    Column,
    Condition,
    Layout,
    Overrides,
    Row,
    Shown,
)

# The iteration cap of the tuning runs; conf/experiment/appendix_b.yaml states the same number.
APPENDIX_B_MAX_EPOCHS = 100_000

NOISE_TITLES = {0: "No noisy modality", 1: "One noisy modality", 2: "Two noisy modalities"}


def _fusion(method: str, modality: str | None = None) -> Overrides:
    """Overrides that choose a method; the unimodal baseline also needs its one modality."""
    return (f"fusion={method}", *([f"dataset.modalities=[{modality}]"] if modality else []))


def _synthetic_methods(fusions: Iterable[str]) -> list[tuple[Column, str, Overrides]]:
    """Three unimodal columns, then one column per fusion: (column, method, overrides)."""
    unimodal = [
        (Column(f"unimodal_{m}", m, group="Unimodal"), "unimodal", _fusion("unimodal", m)) for m in ("m1", "m2", "m3")
    ]
    fused = [(Column(method, METHOD_TITLES[method]), method, _fusion(method)) for method in fusions]
    return unimodal + fused


def _condition(key: str, title: str, common: Overrides, methods: list[tuple[Column, str, Overrides]]) -> Condition:
    shown = (
        Shown(method, column.full_title, METHOD_TITLES[method], (*common, *overrides))
        for column, method, overrides in methods
    )
    return Condition(key, title, tuple(shown))


def table_1() -> Layout:
    rows = tuple(Row(f"noisy_modalities={n}", title) for n, title in NOISE_TITLES.items())
    methods = _synthetic_methods(PAPER_METHODS[1:])
    cells = [
        Cell(
            f"noisy_modalities={n}",
            column.key,
            (f"dataset.noisy_modalities={n}", *overrides),
            paper=("1", f"noise_modalities={n}", f"{column.key}/ACC"),
        )
        for n in NOISE_TITLES
        for column, _, overrides in methods
    ]
    conditions = [
        _condition(f"noisy_modalities_{n}", title, (f"dataset.noisy_modalities={n}",), methods)
        for n, title in NOISE_TITLES.items()
    ]
    return Layout(
        name="table_1",
        title="Table 1: accuracy on the synthetic data",
        description="Test accuracy in percent on three synthetic modalities, of which none, one or two are noisy.",
        command="make reproduce-table-1",
        rows=rows,
        columns=tuple(column for column, _, _ in methods),
        cells=tuple(cells),
        conditions=tuple(conditions),
        corner="Data",
    )


def appendix_b() -> Layout:
    rates = ("5e-3", "5e-4", "5e-5", "5e-6")
    common = ("dataset.noisy_modalities=1", f"trainer.max_epochs={APPENDIX_B_MAX_EPOCHS}")
    cells = [
        Cell(
            method,
            f"lr={rate}",
            (*common, *_fusion(method, "m1" if method == "unimodal" else None), f"trainer.lr={rate}"),
            metric="validation/fused/ACC",
            paper=("B1", method, f"lr={rate}"),
        )
        for method in PAPER_METHODS
        for rate in rates
    ]
    titles = METHOD_TITLES | {"unimodal": "Unimodal m1"}
    return Layout(
        name="appendix_b",
        title="Appendix B: learning rates on the synthetic data",
        description=(
            "Validation accuracy in percent with one noisy modality, for four learning rates. "
            f"Training stops at {APPENDIX_B_MAX_EPOCHS:,} epochs at the latest; a cell says how many replicates that "
            "cut short."
        ),
        command="make reproduce-appendix-b",
        rows=tuple(Row(method, titles[method]) for method in PAPER_METHODS),
        columns=tuple(Column(f"lr={rate}", rate, group="lr") for rate in rates),
        cells=tuple(cells),
        corner="Method",
    )


def table_1_data_seeds() -> Layout:
    """An extra beyond the paper: does MultiModal's lead hold when the synthetic data are drawn anew?"""
    seeds = (100, 101, 102)
    methods = ("sum_ce", "nn_ce", "multimodal")
    rows, cells = [], []
    for n, noise in NOISE_TITLES.items():
        for seed in seeds:
            row = Row(f"noisy_modalities={n}/data_seed={seed}", f"data seed {seed}", group=noise)
            common = (f"dataset.noisy_modalities={n}", f"dataset.data_seed={seed}")
            rows.append(row)
            cells += [Cell(row.key, method, (*common, *_fusion(method))) for method in methods]
            multimodal, sum_ce = (*common, *_fusion("multimodal")), (*common, *_fusion("sum_ce"))
            cells.append(Cell(row.key, "lead", multimodal, minus=sum_ce))
    return Layout(
        name="table_1_data_seeds",
        title="Beyond the paper: Table 1 on other draws of the data",
        description=(
            "Test accuracy in percent when the synthetic data are drawn from other data seeds, fixed beforehand. "
            "The last column is the difference of MultiModal and SUM + CE in points, seed by seed."
        ),
        command="make extra-data-seeds",
        rows=tuple(rows),
        columns=(
            *(Column(method, METHOD_TITLES[method]) for method in methods),
            Column("lead", "MultiModal \N{MINUS SIGN} SUM", signed=True),
        ),
        cells=tuple(cells),
        corner="Data",
    )


def table_1_readings() -> Layout:
    """An extra: Table 1 under other readings of what the paper leaves open, where a default lies far from it."""
    soft_triple, fast = "fusion=soft_triple", "fusion.proxy_lr_multiplier=100"
    readings = {
        Column("mulmix/scores", "softmax outputs added", "Mulmix"): ("fusion=mulmix", "fusion.combine_in=scores"),
        Column("mulmix/beta_0.2", "beta 0.2", "Mulmix"): ("fusion=mulmix", "fusion.beta=0.2"),
        Column("mulmix/beta_1", "beta 1", "Mulmix"): ("fusion=mulmix", "fusion.beta=1.0"),
        **{
            Column(f"unimodal_{m}/logits", f"{m}, CE of logits", "Unimodal"): (
                "fusion=unimodal",
                f"dataset.modalities=[{m}]",
                "fusion.input=logits",
            )
            for m in ("m1", "m2", "m3")
        },
        Column("soft_triple/tau", "tau 0.2", "SoftTriple"): (
            soft_triple,
            "fusion.tau=0.2",
            "fusion.proxy_lr_multiplier=1.0",
        ),
        Column("soft_triple/fast", "proxies at 100 lr", "SoftTriple"): (soft_triple, fast),
        Column("soft_triple/both", "both", "SoftTriple"): (soft_triple, "fusion.tau=0.2", fast),
        Column("proxy_anchor/fast", "proxies at 100 lr", "ProxyAnchor"): ("fusion=proxy_anchor", fast),
    }
    cells = [
        Cell(
            f"noisy_modalities={n}",
            column.key,
            (f"dataset.noisy_modalities={n}", *overrides),
            paper=("1", f"noise_modalities={n}", f"{column.key.split('/')[0]}/ACC"),
        )
        for n in NOISE_TITLES
        for column, overrides in readings.items()
    ]
    return Layout(
        name="table_1_readings",
        title="Table 1 under other readings",
        description=(
            "Test accuracy in percent. The paper does not say how Mulmix forms a mixture from unimodal outputs: Table 1"
            " adds their log-probabilities, here the softmax outputs themselves are added, as in SUM + CE; nor which "
            "beta it takes (Table 1: 0.5). It does not say whether a softmax precedes the cross-entropy of a unimodal "
            "network (in Table 1 yes, here no), nor whether SoftTriple and ProxyAnchor take their originals' "
            "regulariser (tau 0.2) and faster proxies (100 times the rate; in Table 1 neither)."
        ),
        command="make extra-readings",
        rows=tuple(Row(f"noisy_modalities={n}", title) for n, title in NOISE_TITLES.items()),
        columns=tuple(readings),
        cells=tuple(cells),
        corner="Data",
    )


def quick() -> Layout:
    common = ("experiment=quick",)
    methods = _synthetic_methods(
        method for method in METHOD_TITLES if method in ("weighted_sum_ce", *PAPER_METHODS[1:])
    )
    row = Row("noisy_modalities=2", NOISE_TITLES[2])
    return Layout(
        name="quick",
        title="QUICK PROFILE: reduced data, not Table 1",
        description=(
            "A short run of the whole chain: fewer samples and features, 2 seeds. "
            "Its numbers show that the installation works and say nothing about the paper."
        ),
        command="make quick",
        rows=(row,),
        columns=tuple(column for column, _, _ in methods),
        cells=tuple(Cell(row.key, column.key, (*common, *overrides), expected=2) for column, _, overrides in methods),
        conditions=(_condition("quick", "Quick profile, two noisy modalities", common, methods),),
        profile="quick",
        corner="Data",
        notice="QUICK PROFILE: reduced data and 2 seeds",
    )


LAYOUTS = {
    layout.name: layout
    for layout in (
        *(table_1(), table_1_data_seeds(), table_1_readings(), appendix_b()),
        *layouts_opportunity.layouts(),
        *layouts_tcga.layouts(),
        quick(),
        layouts_opportunity.quick_table_3(),
    )
}
