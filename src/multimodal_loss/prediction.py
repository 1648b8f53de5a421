"""What was trained, on samples that it has not seen: `load_run(path).predict(...)`.

    from multimodal_loss import load_run

    run = load_run("outputs/runs/my_study-tabular-multimodal-0a1b2c3d4e")
    predictions = run.predict({"genes": genes, "images": images})  # data frames: index sample ids, columns features
    predictions.frame()

Nothing in the run directory is executed: weights are read with weights_only=True, and what its config names is built
only where it is a backbone or a fusion of this package.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from hydra.utils import get_object
from numpy.typing import NDArray
from torch import Tensor, nn

from multimodal_loss.configuration import FusionInput, TrainerConfig, of_replicate
from multimodal_loss.datasets import Dataset, MultimodalData, NewSamples, Preparation, Split
from multimodal_loss.errors import UserError, one_line, require_choice, shown
from multimodal_loss.files import write_atomically
from multimodal_loss.fusion import Fusion, ReadOut
from multimodal_loss.options import check_options
from multimodal_loss.results.collect import lookup, read_run
from multimodal_loss.results.metrics import tempered
from multimodal_loss.results.run_directory import RunDirectory
from multimodal_loss.training.evaluate import predict
from multimodal_loss.training.loop import resume
from multimodal_loss.training.replicate import Recipe, Replicate, make_replicate
from multimodal_loss.training.run import choose_device

AGAIN = "delete its result.json and start its training command again, which trains nothing that its checkpoint holds"
SUFFIXES = (".csv", ".parquet")
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Predictions:
    """What a run says of samples; of several replicates the mean of their probabilities.

    `fused` (N, C): fused probabilities. `own` (N, M, C): each modality's own, read out of its scores (`ReadOut`), NaN
    where a sample lacks it; None where there is one modality, or the backbone gives one score for all. `shares` (N, M):
    how much each modality is trusted with each sample, where the fusion has such weights. `target` (N,): positions
    among `classes`, where labels came with the samples.
    """

    ids: NDArray[Any]
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    fused: Array
    own: Array | None
    shares: Array | None
    target: NDArray[np.int64] | None = None

    @property
    def predicted(self) -> NDArray[np.str_]:
        """Names of the classes with the largest fused probability (N,)."""
        names: NDArray[np.str_] = np.array(self.classes, dtype=np.str_)[self.fused.argmax(1)]
        return names

    @property
    def accuracy(self) -> float | None:
        """In 0 to 1; None without labels."""
        return None if self.target is None else float((self.fused.argmax(1) == self.target).mean())

    def frame(self) -> pd.DataFrame:
        """A row for each sample: `id`, `predicted`, `fused/<class>`, `own/<modality>/<class>`, `share/<modality>`."""
        columns: dict[str, NDArray[Any]] = {"id": self.ids, "predicted": self.predicted}
        columns |= {f"fused/{name}": self.fused[:, c] for c, name in enumerate(self.classes)}
        for m, modality in enumerate(self.modalities):
            if self.own is not None:
                columns |= {f"own/{modality}/{name}": self.own[:, m, c] for c, name in enumerate(self.classes)}
        if self.shares is not None:
            columns |= {f"share/{modality}": self.shares[:, m] for m, modality in enumerate(self.modalities)}
        return pd.DataFrame(columns)

    def write(self, path: str | Path) -> None:
        """As CSV or Parquet, by the file's ending; ids and classes stand as they are. UserError: cannot be written."""
        path = Path(path)
        check_output(path)
        frame = self.frame()
        if path.suffix.lower() == ".csv":
            write_atomically(path, lambda file: file.write(frame.to_csv(index=False).encode()))
        else:
            write_atomically(path, lambda file: frame.to_parquet(file, index=False))


def check_output(path: Path) -> None:
    """Raise UserError unless predictions can be written to a file of this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"output={path}: must end in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError(f"output={path}: there is no folder {path.parent}")


@dataclass(frozen=True)
class TrainedRun:
    """A finished run. `modalities` are what it reads; `replicates` are its seeds or folds, by their number."""

    path: Path
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    replicates: Mapping[int, "Trained"]
    recipe: Recipe
    device: torch.device
    threads: int | None  # that the run's config asks for
    dataset: Any  # what reads samples from files; None where the run's has no such

    def predict(
        self,
        samples: "Path | str | Samples",
        ids: Sequence[object] | None = None,
        replicate: int | None = None,
        calibrated: bool = False,
        partial: bool = False,
    ) -> Predictions:
        """Predictions of all replicates, averaged, or of one.

        Args:
            samples: of a run on tables: data frames by modality (index: sample ids, columns: features, in any order),
                or a folder in the layout of dataset=tables, with or without labels.csv. Of any other run: tensors or
                arrays (N, ...), by modality or in the order of `modalities`, each sample of the shape that the
                backbone was trained with; or an .npz file of such.
            ids: names of the samples of tensors; numbers from 0 by default.
            replicate: the seed, or the fold; None for the mean over all.
            calibrated: divide the fused log-probabilities by the temperature that the replicate fitted on validation
                samples.
            partial: take samples of tables that lack some modalities, by the fusion's `mask`.

        Raises UserError, in one line, for samples that do not fit, a replicate that there is not, and `calibrated`
        where no temperature was fitted, or `partial` where the run cannot do without a modality.
        """
        if replicate is not None and replicate not in self.replicates:
            raise UserError(f"replicate={replicate}: {self.path} has {', '.join(map(str, self.replicates))}")
        used = list(self.replicates.values()) if replicate is None else [self.replicates[replicate]]
        new = self.read(samples, ids, partial)
        found = [one.predict(new, self.recipe, self.device, calibrated) for one in used]
        told = {key: _mean([one[key] for one in found]) for key in found[0]}
        names = used[0].replicate.score_names
        own, shares = told.get("read_out"), told.get("weights")
        return Predictions(new.ids, self.classes, names, told["fused"], own, shares, new.target)

    def read(
        self, samples: "Path | str | Samples", ids: Sequence[object] | None = None, partial: bool = False
    ) -> NewSamples:
        """Samples as `predict` takes them, read and checked. Raises UserError as `predict` does."""
        if isinstance(samples, str):
            samples = Path(samples).expanduser()
        if self.dataset is not None:
            if ids is not None or not isinstance(samples, (Path, Mapping)):
                raise UserError(
                    f"{self.path} scales its samples itself: give data frames by modality, whose index holds the ids "
                    f"({', '.join(self.modalities)}), or a folder"
                )
            new: NewSamples = self.dataset.read_new(samples, self.modalities, self.classes, partial)
            return new
        return _tensors(
            samples, ids, self.modalities, next(iter(self.replicates.values())).replicate.data.feature_shapes
        )

    def seen(self, ids: NDArray[Any], replicate: int | None = None) -> int:
        """How many of the ids are of samples that a replicate (by default any) was trained or stopped with; of a run on
        tables, whose samples have ids.
        """
        used = list(self.replicates.values()) if replicate is None else [self.replicates[replicate]]
        known = frozenset[str]().union(*(getattr(one.preparation, "known", ()) for one in used))
        return len(known & set(map(str, ids)))


Samples = Mapping[str, pd.DataFrame] | Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True)
class Trained:
    """One replicate as it was when it ended."""

    replicate: Replicate
    temperature: float | None
    preparation: Preparation | None

    def predict(self, new: NewSamples, recipe: Recipe, device: torch.device, calibrated: bool) -> dict[str, Array]:
        """As `training.evaluate.predict`, which made the stored predictions."""
        number = self.replicate.replicate_id
        if calibrated and self.temperature is None:
            raise UserError(f"calibrated=true: replicate {number} had no validation samples to fit a temperature to")
        if self.preparation is not None:
            inputs = self.preparation.inputs(new)
        else:
            assert isinstance(new, NewTensors)
            inputs = new.inputs
        target = torch.zeros(len(new.ids), dtype=torch.int64)  # no prediction looks at it
        mask = None if new.mask is None else torch.from_numpy(new.mask)
        if mask is not None:
            joint = mask.shape[1] > len(self.replicate.score_names)
            if joint or not self.replicate.fusion.reads_mask:
                name = type(self.replicate.backbone if joint else self.replicate.fusion).__name__
                raise UserError(f"partial=true: {name} needs every modality of a sample")
        found = predict(self.replicate, Split(inputs, target, mask=mask), recipe, device)
        if calibrated and self.temperature is not None:
            found["fused"] = tempered(found["fused"], self.temperature).astype(np.float32)
        return found


@dataclass(frozen=True)
class NewTensors(NewSamples):
    """Samples as a backbone takes them, modality by modality."""

    ids: NDArray[Any]
    target: NDArray[np.int64] | None
    inputs: tuple[Tensor, ...]
    mask: NDArray[np.bool_] | None = None


def load_run(path: str | Path, device: str = "auto") -> TrainedRun:
    """The trained replicates of a finished run, to predict with.

    Args:
        path: the run directory, `outputs/runs/<name>-<hash>`.
        device: auto (cuda, then mps, then cpu), or one of these.

    Raises UserError, in one line, for a run that is not finished, damaged, or was made before runs kept what predicting
    takes.
    """
    path = Path(path).expanduser()
    stored = read_run(path)
    if not path.is_dir() or (stored.state == "unfinished" and not (path / "config.yaml").exists()):
        raise UserError(f"run={path}: {'not a run directory' if path.exists() else 'does not exist'}")
    if stored.state != "done":
        raise UserError(f"run={path}: {stored.state} ({stored.reason}); only a finished run predicts")
    chosen = choose_device(device)
    directory = RunDirectory(path, str(stored.get("hash")))
    if not directory.checkpoint.exists():
        raise UserError(f"run={path}: its weights, checkpoint.pt, are gone; delete its result.json to train it again")
    weights = resume(directory).weights
    with _reading(path):
        result = json.loads(directory.result.read_text(encoding="utf-8"))  # with its texts as they are
        config, told = result["config"], result["dataset"]
        modalities, classes = tuple(map(str, told["inputs"])), tuple(map(str, told["classes"]))
        dataset = _class_of(config["dataset"], "dataset", Dataset)
        check_options("trainer.", config["trainer"], TrainerConfig)
        require_choice("fusion_input", config["fusion_input"], get_args(FusionInput))
        trainer = TrainerConfig(**config["trainer"])
        recipe = Recipe(torch.optim.SGD, trainer, config["fusion_input"])  # nothing is trained
        replicates: dict[int, Trained] = {}
        for one in result["replicates"]:
            number = one["replicate_id"]
            if "shapes" not in weights.get(number, {}):
                raise UserError(f"run={path}: made before runs kept all that predicting takes; {AGAIN}")
            replicates[number] = _trained(one, config, weights[number], modalities, classes, dataset, chosen)
        if not replicates:
            raise UserError("has no replicates")
        reads = any(one.preparation is not None for one in replicates.values())
        reader = dataset(**_options(config["dataset"])) if reads else None
    return TrainedRun(path, modalities, classes, replicates, recipe, chosen, config["threads"], reader)


def _trained(
    one: Mapping[str, Any],
    config: Mapping[str, Any],
    state: Mapping[str, Any],
    modalities: tuple[str, ...],
    classes: tuple[str, ...],
    dataset: Any,
    device: torch.device,
) -> Trained:
    """A replicate, from what result.json and the checkpoint say of it."""
    chosen = lookup(one, "tuning/chosen") or {}
    nodes = {group: of_replicate(config[group], one["fold"] or 0) for group in ("backbone", "fusion")}
    for key, value in chosen.items():
        group, _, option = key.partition(".")
        if group in nodes:
            nodes[group][option] = value
    preparation = dataset.restore(state["preparation"]) if "preparation" in state else None
    shapes = [tuple(state["shapes"][m].tolist()) for m in range(len(modalities))]
    rows = Split(tuple(torch.empty(0, *shape) for shape in shapes), torch.empty(0, dtype=torch.int64))
    data = MultimodalData(rows, None, rows, modalities, classes, "", preparation)

    def make_backbone(_: MultimodalData) -> nn.Module:
        options = {**_options(nodes["backbone"]), "feature_shapes": shapes, "num_classes": len(classes)}
        if "pretrained" in options:  # these are in the checkpoint
            options["pretrained"] = None
        made: nn.Module = _class_of(nodes["backbone"], "backbone", nn.Module)(**options)
        return made

    def make_fusion(num_classes: int, num_modalities: int) -> Fusion:
        options = {**_options(nodes["fusion"]), "num_classes": num_classes, "num_modalities": num_modalities}
        made: Fusion = _class_of(nodes["fusion"], "fusion", Fusion)(**options)
        return made

    with torch.random.fork_rng(devices=[]):
        replicate = make_replicate(one["replicate_id"], one["seed"], one["fold"], data, make_backbone, make_fusion)
    if not getattr(replicate.backbone, "in_checkpoint", True):
        raise UserError(f"{type(replicate.backbone).__name__} is no network: a run does not store what it fitted")
    replicate.load_state_dict(dict(state))
    replicate.backbone.to(device).eval()
    replicate.fusion.to(device).eval()
    if "read_out" in state:
        read_out = ReadOut(len(classes), len(replicate.score_names), state["read_out"]["weight"].shape[2])
        read_out.load_state_dict(state["read_out"])
        replicate.read_out = read_out.to(device)
    return Trained(replicate, one.get("temperature"), preparation)


def _class_of(node: Mapping[str, Any], group: str, base: type) -> Any:
    """The class that a stored config names. UserError unless it is one of this package, of the right kind: a config
    from elsewhere must not choose what is executed.
    """
    target = str(node["_target_"])
    found = get_object(target) if target.startswith("multimodal_loss.") else None
    if base not in getattr(found, "__mro__", ()):
        raise UserError(f"its {group} is {shown(target)}, no {group} of this package")
    return found


def _options(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if not key.startswith("_")}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever a result.json of other content, or weights of other layers, make Python raise becomes one line."""
    try:
        yield
    except UserError as error:
        raise error if str(error).startswith("run=") else UserError(f"run={path}: {error}") from error
    except Exception as error:
        text = f"cannot be loaded by this version ({type(error).__name__}: {one_line(error, 200)})"
        raise UserError(f"run={path}: {text}") from error


def _tensors(
    samples: object, ids: Sequence[object] | None, modalities: Sequence[str], shapes: Sequence[tuple[int, ...]]
) -> NewTensors:
    """Tensors, arrays, or an .npz file of them, checked against what the backbone takes."""
    if isinstance(samples, Path):
        samples, ids = _arrays(samples)
    if isinstance(samples, Mapping):
        if set(samples) != set(modalities):
            raise UserError(f"the samples have {sorted(map(str, samples))}, the run reads {', '.join(modalities)}")
        samples = [samples[name] for name in modalities]
    if isinstance(samples, (Tensor, np.ndarray)) or not isinstance(samples, Sequence):
        raise UserError(f"give the samples by modality: {', '.join(modalities)}")
    if len(samples) != len(modalities):
        raise UserError(f"{len(samples)} modalities are given, the run reads {', '.join(modalities)}")
    inputs = []
    for name, values, shape in zip(modalities, samples, shapes, strict=True):
        try:
            x = torch.as_tensor(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{name}: not a tensor of numbers ({error})") from error
        if x.shape[1:] != shape or x.dim() != len(shape) + 1 or not len(x):
            raise UserError(
                f"{name}: has the shape {tuple(x.shape)}, the run takes (samples, {', '.join(map(str, shape))})"
            )
        if not x.is_floating_point() or not bool(x.isfinite().all()):
            raise UserError(f"{name}: must hold finite floating-point numbers")
        inputs.append(x.float())
    numbers = {len(x) for x in inputs}
    if len(numbers) > 1 or (ids is not None and len(ids) != len(inputs[0])):
        raise UserError(
            f"the numbers of samples differ: {[len(x) for x in inputs]}" + (f", {len(ids)} ids" if ids else "")
        )
    names = np.arange(len(inputs[0])) if ids is None else np.array([str(one) for one in ids], dtype=np.str_)
    if len(np.unique(names)) < len(names):
        raise UserError("an id is there twice; give each sample one of its own")
    return NewTensors(names, None, tuple(inputs))


def _arrays(path: Path) -> tuple[dict[str, NDArray[Any]], list[str] | None]:
    """The arrays of an .npz file, and those called `ids` in it."""
    if path.suffix.lower() != ".npz":
        raise UserError(f"{path}: this run takes tensors: give an .npz file with an array (samples, ...) per modality")
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except Exception as error:  # NumPy raises a dozen kinds for files that are none of its own
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {one_line(error, 100)})") from error
    ids = arrays.pop("ids", None)
    return arrays, None if ids is None else [str(one) for one in ids.reshape(-1)]


def _mean(arrays: list[Array]) -> Array:
    """Over the replicates; of one it is itself, bit for bit."""
    return arrays[0] if len(arrays) == 1 else np.stack(arrays).mean(0, dtype=np.float64).astype(np.float32)
