"""The README's findings are what the committed cells say: their numbers are computed again from the CSV files."""

from collections.abc import Iterable

import pandas as pd

from conftest import ROOT

RESULTS = ROOT / "outputs" / "results"
README = " ".join((ROOT / "README.md").read_text().split())


def cells(table: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / table / "cells.csv")


def says(sentence: str) -> None:
    assert sentence in README, f"README.md does not say: {sentence}"


def spread(numbers: Iterable[float], digits: int) -> str:
    rounded = [f"{number:.{digits}f}" for number in (min(numbers), max(numbers))]
    return " to ".join(dict.fromkeys(rounded))


def test_the_lead_on_other_draws() -> None:
    means = cells("table_1_data_seeds").pivot_table(index="row", columns="column", values="mean")
    lead = (means["multimodal"] - means["sum_ce"]).groupby(means.index.str[: len("noisy_modalities=0")])
    leads = {int(row[-1]): list(draws) for row, draws in lead}
    draws = {3: "three", 5: "five"}[means.index.str.partition("/").get_level_values(2).nunique()]
    says(
        f"by {spread(leads[1], 1)} points with one of three noisy and by {spread(leads[2], 1)} with two, "
        f"on {draws} fresh draws"
    )
    assert min(leads[0]) < 0 < max(leads[0]), "without noise there is no lead"


def test_how_near_table_1_comes_to_the_paper() -> None:
    whole = cells("table_1")
    near = (whole["distance"] <= 2) | (whole["difference"].abs() <= 2)
    notes = (RESULTS / "table_1" / "README.md").read_text()
    assert f"{near.sum()} of {len(whole)} cells are within 2 combined standard deviations or 2 points" in notes
    far = whole[~near]
    assert set(far["row"]) == {"noisy_modalities=0"} and set(far["column"]) == {"unimodal_m2", "sum_ce", "mulmix"}
    assert f"{spread(far['difference'], 1)} points above it" in notes


def test_the_fair_comparison() -> None:
    over_draws = cells("table_1_fair").query("column == 'draws' and state == 'complete'").set_index("row")["mean"]
    assert over_draws.idxmax() == "mulmix_product"
    says(
        f"it has {over_draws['sum_ce_logits']:.1f} %, "
        f"Mulmix as a product of experts {over_draws['mulmix_product']:.1f}, "
        f"MultiModal {over_draws['multimodal']:.1f} (no significant difference), "
        f"SUM + CE of probabilities {over_draws['sum_ce']:.1f}"
    )
    tested = pd.read_csv(RESULTS / "table_1_fair" / "significance.csv")
    tested.index = pd.Index(tested["first"].where(tested["second"] == "MultiModal", tested["second"]))
    significant = tested["p_holm"] < 0.05
    assert not significant[["SUM + CE (logits)", "Mulmix, product of experts"]].any()
    assert significant[["SUM + CE", "Mulmix"]].all()


def test_no_difference_is_real_on_tcga() -> None:
    best = []
    for dataset in ("tcga_brca", "tcga_kipan", "tcga_subtypes"):
        assert (pd.read_csv(RESULTS / f"table_5_{dataset}" / "significance.csv")["p_holm"] > 0.05).all()
        whole = cells(f"table_5_{dataset}").query("column == 'ACC' and state == 'complete'")
        best.append(whole.loc[whole["mean"].idxmax(), "row"])
    assert sum("logistic" in row for row in best) == 2, best
    says("logistic regression on both modalities has the best mean on two of three sets")


def test_what_the_read_out_brings_back() -> None:
    """More than 5 points below a network on the modality alone, seed by seed, before and after the read-out."""
    own = pd.read_csv(RESULTS / "table_1" / "modalities.csv")
    alone = own[own["method"].str.startswith("Unimodal")].set_index(["condition", "modality", "replicate_id"])["ACC"]

    def lost(method: str) -> tuple[int, int, int]:
        of = own[own["method"] == method].set_index(["condition", "modality", "replicate_id"])
        below = [of["ACC"][of["prediction"] == prediction] < alone - 0.05 for prediction in ("softmax", "read-out")]
        softmax, read_out = (below_alone.reindex(alone.index) for below_alone in below)
        return int(softmax.sum()), len(alone), int(read_out.sum())

    softmax, of, read_out = lost("MultiModal")
    other, _, other_read_out = lost("SoftTriple")
    says(
        f"{softmax} of {of} own predictions lie more than 5 points below a network on that modality alone, "
        f"{read_out} once a linear read-out of its scores is fitted; SoftTriple {other} and {other_read_out}"
    )


def test_table_7() -> None:
    differences = pd.read_csv(RESULTS / "table_7" / "significance.csv")
    real = differences[differences["p_holm"] < 0.05]
    whole = cells("table_7").query("metric == 'test/fused/ACC'")
    assert (whole["state"] == "complete").all()
    accuracy = whole.pivot_table(index="row", columns="column", values="mean")
    best = accuracy.idxmax()
    assert not best.str.startswith("multimodal/").any()
    below = accuracy.filter(regex="/", axis="index") < accuracy.loc["concat_logistic"] - 1
    of_multimodal = below.loc[["multimodal/linear", "multimodal/mlp_small"]].to_numpy().sum()
    says(
        f"{len(real)} of {len(differences)} differences are more than chance. MultiModal is best on none and "
        f"not told apart from the best on all six; {below.to_numpy().sum()} of {below.size} networks, "
        f"{of_multimodal} of these MultiModal's, are more than a point below logistic regression on all modalities"
    )
    assert (pd.read_csv(RESULTS / "table_7_multimodal" / "significance.csv")["p_holm"] > 0.05).all()
    says("K and the loss's variant [change nothing](outputs/results/table_7_multimodal/README.md) beyond chance")


def test_trust_in_a_modality_that_was_replaced() -> None:
    half = cells("table_7_trust_conflicting").query("column.str.endswith('/0.5')")
    auroc = half.pivot_table(index="row", columns="column", values="mean")
    views = auroc[["digits/0.5", "mnist_hog/0.5"]]
    certain, others = (of.to_numpy().ravel() for of in (views.loc[["tmc", "ecml"]], auroc.drop(columns=views.columns)))
    assert len(auroc.columns) == 6
    says(
        f"is {spread(views.loc['multimodal'], 0)} by MultiModal's shares, "
        f"{spread(views.loc['sum_ce_logits'], 0)} by plain SUM's, {spread(views.loc['fuml'], 0)} by FUML's weights, "
        f"{spread(certain, 0)} by TMC and ECML; on the others {spread(others, 0)} by all"
    )


def test_accuracy_with_conflict() -> None:
    half = cells("table_7_corrupted_conflicting").query("column.str.endswith('/0.5') and state == 'complete'")
    best = half.pivot_table(index="row", columns="column", values="mean").idxmax()
    says(f"FUML has the best accuracy on { {5: 'five', 6: 'all six'}[(best == 'fuml').sum()] }")
    pairs = pd.read_csv(RESULTS / "table_7_corrupted_conflicting" / "significance.csv").query("second == 'FUML'")
    of_multimodal = pairs[(pairs["first"] == "MultiModal") & pairs["column"].str.endswith("0.5")]
    assert len(of_multimodal) == 6 and (of_multimodal["p_holm"] > 0.05).all()
