"""Gradient-boosted trees over all features: the baseline that is hard to beat on tables."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor, nn

from multimodal_loss.errors import UserError, require_number, shown


class Boosting(nn.Module):
    """Scores (B, 1, C), log-probabilities of scikit-learn's HistGradientBoostingClassifier on M vectors side by side.

    Reads well with fusion=unimodal on logits, as the backbone LogisticRegression does. The trees are no tensors: a
    checkpoint does not hold them (`in_checkpoint`), and what a run predicts is stored when it has been fitted.

    Args:
        feature_shapes: shape of one sample of each modality; any shape is flattened, widths may differ.
        num_classes: C.
        iterations: trees per class at most; a tenth of the training samples is held out to stop earlier, where each
            class can be in both parts.
        learning_rate: of the boosting.
        bins: values that a feature is rounded to, 2 to 255.

    `deterministic`: every seed gives the same.
    """

    joint = True
    deterministic = True
    in_checkpoint = False

    def __init__(
        self,
        feature_shapes: Sequence[Sequence[int]],
        num_classes: int,
        iterations: int = 300,
        learning_rate: float = 0.1,
        bins: int = 64,
    ) -> None:
        super().__init__()
        require_number("backbone.iterations", iterations, positive=True, integer=True)
        require_number("backbone.learning_rate", learning_rate, positive=True)
        require_number("backbone.bins", bins, positive=True, integer=True)
        if not 2 <= bins <= 255:
            raise UserError(f"backbone.bins={shown(bins)}: must be a whole number from 2 to 255")
        self.num_classes = num_classes
        self.model: HistGradientBoostingClassifier | DummyClassifier = HistGradientBoostingClassifier(
            max_iter=iterations, learning_rate=learning_rate, random_state=0, max_bins=bins
        )
        self.unused = nn.Parameter(torch.zeros(1), requires_grad=False)  # what says where the module lies

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        found = np.full((len(inputs[0]), self.num_classes), 1e-12)
        found[:, self.model.classes_] = self.model.predict_proba(_side_by_side(inputs)).clip(1e-12)
        return torch.from_numpy(np.log(found)).to(inputs[0]).unsqueeze(1)

    def fit(self, inputs: Sequence[Tensor], target: Tensor) -> None:
        """Grow the trees on all training rows, of which `inputs` holds each modality's."""
        y = target.cpu().numpy()
        classes, counts = np.unique(y, return_counts=True)
        if len(classes) == 1:  # of which scikit-learn's trees give two columns
            self.model = DummyClassifier().fit(_side_by_side(inputs), y)
            return
        held_out = int(np.ceil(0.1 * len(y)))  # as scikit-learn rounds it
        self.model.set_params(early_stopping=bool(counts.min() > 1 and held_out >= len(classes)))
        self.model.fit(_side_by_side(inputs), y)


def _side_by_side(inputs: Sequence[Tensor]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = torch.cat([x.flatten(1) for x in inputs], dim=1).cpu().numpy()
    return values
