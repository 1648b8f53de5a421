"""What the proxies of a loss learn, as pictures of one replicate (Appendix C of the paper).

Proxies and samples live in one space, that of the concatenated outputs of all modalities, compared by their cosine:
everything here is scaled to length 1 first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multimodal_loss.reporting.figures.base import (
    BLUE,
    INK,
    MODALITY_COLOURS,
    QUIET,
    VERMILION,
    Picture,
    grid,
    label_all,
    shared_legend,
    styled,
)
from multimodal_loss.reporting.figures.embedding import Embedding, embed
from multimodal_loss.reporting.layouts.base import Condition, Shown
from multimodal_loss.results.collect import Outputs, Run, read_outputs

Floats = NDArray[np.float64]

MOST_POINTS = 1500  # samples in a picture; UMAP takes a second per few hundred
MOST_POINTS_PER_VARIANT = 500  # in the picture with a panel per variant
MOST_SUBGROUPS = 4


@dataclass(frozen=True)
class Cloud:
    """Proxies, training and test samples of one picture with their classes, in the plane.

    `used` marks the proxies that are the closest of their class to at least one training sample of it.
    """

    embedding: Embedding
    kind: NDArray[np.str_]  # (N,) train, test or proxy
    label: NDArray[np.int64]
    used: NDArray[np.bool_]

    def of(self, kind: str) -> NDArray[np.bool_]:
        return np.asarray(self.kind == kind)


def pictures(condition: Condition, found: Sequence[tuple[Shown, Run]], png: str) -> Iterator[Picture]:
    """The loss as the paper has it (the first shown) in detail, then every variant in a panel of its own; of each run
    its first replicate.

    Runs that lack the stored outputs (read_outputs) are left out. `png` begins the committed files' names.
    """
    stored = [(shown, run, outputs) for shown, run in found if (outputs := read_outputs(run, _first(run))) is not None]
    for shown, run, outputs in stored:
        if shown == condition.shown[0]:
            yield from _in_detail(condition.key, run, outputs, png)
    if len(stored) > 1:
        clouds = {
            _with_counts(shown, run): cloud(outputs, None, MOST_POINTS_PER_VARIANT) for shown, run, outputs in stored
        }
        method = next(iter(clouds.values())).embedding.method
        yield Picture(
            f"variants_{condition.key}",
            f"Outputs and proxies of each variant: {method}",
            f"As above for all classes, each panel made on its own from at most {MOST_POINTS_PER_VARIANT:,} samples of "
            "the first fold. The numbers are proxies per class that are used and distinct, mean over classes.",
            cloud_panels(clouds, stored[0][1].class_names(len(stored[0][2].proxies))),
            png=f"{png}_variants",
        )


def cloud(outputs: Outputs, only: int | None, most: int) -> Cloud:
    """Proxies (without those that are zero) and at most `most` samples, of one class or of all, in the plane."""
    classes, per_class = outputs.proxies.shape[:2]
    rows = {
        "train": unit_rows(outputs.train_modalities),
        "test": unit_rows(outputs.modalities),
        "proxy": unit_rows(outputs.proxies.reshape(classes * per_class, *outputs.proxies.shape[2:])),
    }
    labels = {"train": outputs.train_target, "test": outputs.target, "proxy": np.repeat(np.arange(classes), per_class)}
    kept = {kind: np.flatnonzero((label == only) | (only is None)) for kind, label in labels.items()}
    kept["proxy"] = kept["proxy"][(rows["proxy"] != 0).any(axis=1)[kept["proxy"]]]
    share = min(1.0, most / (len(kept["train"]) + len(kept["test"])))
    generator = np.random.default_rng(0)
    for kind in ("train", "test"):
        kept[kind] = np.sort(generator.choice(kept[kind], int(np.ceil(share * len(kept[kind]))), replace=False))
    used = is_used(outputs).ravel()
    return Cloud(
        embed(np.concatenate([rows[kind][kept[kind]] for kind in rows])),
        np.concatenate([np.full(len(kept[kind]), kind) for kind in rows]),
        np.concatenate([labels[kind][kept[kind]] for kind in rows]),
        used[kept["proxy"]],
    )


def unit_rows(values: NDArray[np.floating]) -> Floats:
    """(N, M, C) as concatenated rows (N, M * C) of length 1; a row of zeros stays."""
    flat = np.asarray(values, dtype=np.float64).reshape(len(values), values.shape[1] * values.shape[2])
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12))


def nearest_proxy(outputs: Outputs, modalities: NDArray[np.floating], target: NDArray[np.integer]) -> NDArray[np.int64]:
    """For each sample (N, M, C) which of its own class's K proxies has the largest cosine."""
    classes, per_class = outputs.proxies.shape[:2]
    proxies = unit_rows(outputs.proxies.reshape(classes * per_class, *outputs.proxies.shape[2:]))
    own = proxies.reshape(classes, per_class, -1)[target]
    return np.asarray(np.einsum("nkd,nd->nk", own, unit_rows(modalities)).argmax(axis=1))


def is_used(outputs: Outputs) -> NDArray[np.bool_]:
    """(C, K): the closest proxy of its class to at least one training sample of it."""
    used = np.zeros(outputs.proxies.shape[:2], dtype=bool)
    used[outputs.train_target, nearest_proxy(outputs, outputs.train_modalities, outputs.train_target)] = True
    return used


def _in_detail(key: str, run: Run, outputs: Outputs, png: str) -> Iterator[Picture]:
    names = run.class_names(len(outputs.proxies))
    chosen = int(np.bincount(outputs.target, minlength=len(names)).argmax())
    clouds = {
        "all classes": cloud(outputs, None, MOST_POINTS),
        f"class {names[chosen]}": cloud(outputs, chosen, MOST_POINTS),
    }
    methods = ", ".join(dict.fromkeys(one.embedding.method for one in clouds.values()))
    yield Picture(
        f"umap_{key}",
        f"Concatenated outputs and proxies: {methods}",
        f"First fold, at most {MOST_POINTS:,} samples. Pale dots are training samples, strong dots test samples, stars "
        "proxies; a hollow star is the closest of its class to no training sample of it. The single class is the one "
        f"with the most test samples. {methods} of outputs scaled to length 1: only who is near whom has a meaning.",
        cloud_panels(clouds, names),
        png=f"{png}_outputs",
    )
    titles = run.modality_names(outputs.proxies.shape[2])
    yield Picture(
        f"subgroups_{key}",
        f"Subgroups of class {names[chosen]}",
        f"The proxies of class {names[chosen]} that are the closest of its class to most of its test samples, and the "
        "mean class probabilities of those samples, first fold. A proxy is scaled so that its entries sum to as much "
        "as the probabilities of all modalities do.",
        subgroup_figure(outputs, chosen, titles, names),
        png=f"{png}_subgroups",
    )


@styled
def cloud_panels(clouds: Mapping[str, Cloud], class_names: Sequence[str]) -> Figure:
    """A panel per cloud. With several classes each has a colour and its name where its samples lie."""
    figure, axes = grid(clouds, columns=3 if len(clouds) > 2 else 2, width=4.0, height=3.8)
    for ax, drawn in zip(axes, clouds.values(), strict=True):
        ax.set(xticks=[], yticks=[])
        _scatter(ax, drawn, class_names)
    return figure


@styled
def subgroup_figure(outputs: Outputs, chosen: int, modality_names: Sequence[str], class_names: Sequence[str]) -> Figure:
    """A line per proxy of class `chosen`: its own entries, and the mean probabilities of the test samples nearest to
    it, a bar per class and modality.
    """
    samples = outputs.modalities[outputs.target == chosen]
    nearest = nearest_proxy(outputs, samples, np.full(len(samples), chosen))
    counts = np.bincount(nearest, minlength=outputs.proxies.shape[1])
    order = [int(k) for k in np.argsort(-counts, kind="stable")[:MOST_SUBGROUPS] if counts[k] > 0]
    figure = Figure(figsize=(8.4, 1.7 * max(len(order), 1) + 0.9), layout="constrained")
    axes = figure.subplots(max(len(order), 1), 2, sharex=True, sharey=True, squeeze=False)
    for (left, right), k in zip(axes, order, strict=False):
        proxy = outputs.proxies[chosen, k]
        left.set_title(f"proxy {k + 1}")
        _class_bars(left, proxy * len(proxy) / max(float(proxy.sum()), 1e-12), modality_names)
        right.set_title(f"mean of its {counts[k]} test samples of {len(samples)}")
        _class_bars(right, samples[nearest == k].mean(axis=0), modality_names)
    for ax in axes[-1]:
        ax.set_xticks(range(len(class_names)), class_names, rotation=90 if len(class_names) > 6 else 0, fontsize=7)
    shared_legend(figure, axes[0][:1], columns=len(modality_names))
    label_all(figure, y="class probability")
    return figure


def _scatter(ax: Axes, drawn: Cloud, class_names: Sequence[str]) -> None:
    x, y = drawn.embedding.points.T
    several = len(np.unique(drawn.label)) > 1
    palette = [to_hex(rgba) for rgba in matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, len(class_names)))]
    of_kind = {"train": QUIET, "test": BLUE, "proxy": VERMILION}

    def colours(kind: str, inside: NDArray[np.bool_]) -> list[str]:
        return [palette[c] if several else of_kind[kind] for c in drawn.label[inside]]

    for kind, size, opacity in (("train", 6, 0.25), ("test", 8, 0.9)):
        inside = drawn.of(kind)
        # As pixels within the drawing: a thousand circles would be a megabyte.
        ax.scatter(x[inside], y[inside], s=size, c=colours(kind, inside), alpha=opacity, lw=0, rasterized=True)
    for hollow in (True, False):
        inside = drawn.of("proxy")
        inside[inside] = drawn.used != hollow
        own = colours("proxy", inside)
        faces, edges = ("none", own) if hollow else (own, [INK] * len(own))
        ax.scatter(x[inside], y[inside], s=60, marker="*", facecolors=faces, edgecolors=edges, lw=0.7, rasterized=True)
    for c in np.unique(drawn.label[drawn.of("test")]) if several else ():
        inside = drawn.of("test") & (drawn.label == c)
        place = float(np.median(x[inside])), float(np.median(y[inside]))
        ax.annotate(class_names[c], place, (0, 5), textcoords="offset points", fontsize=6, ha="center")


def _class_bars(ax: Axes, values: NDArray[np.floating], modality_names: Sequence[str]) -> None:
    width = 0.85 / len(values)
    for m, (row, name) in enumerate(zip(values, modality_names, strict=True)):
        places = np.arange(len(row)) + (m - (len(values) - 1) / 2) * width
        ax.bar(places, row, width, color=MODALITY_COLOURS[m % len(MODALITY_COLOURS)], label=name)
    ax.grid(axis="x", visible=False)


def _with_counts(shown: Shown, run: Run) -> str:
    counts = {kind: run.values(f"proxies/{kind}").get(_first(run)) for kind in ("used", "distinct")}
    known = [f"{count:.1f} {kind}" for kind, count in counts.items() if count is not None]
    return "\n".join([shown.label, ", ".join(known)]) if known else shown.label


def _first(run: Run) -> int:
    return min(run.replicates, default=0)
