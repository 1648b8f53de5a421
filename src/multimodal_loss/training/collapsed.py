"""The fast path: all replicates of the linear MLP in one pass over the data.

Without an activation the network of modality m is one affine map, A x + b with A = W_L ... W_1 (C x D). Evaluated as
X A^T it is the same function of the same parameters, so every W_l gets the gradient that it gets in the layer-by-layer
network, at about 1/250 of the arithmetic, and the A of all replicates go through one product with X.

A fusion that reads probabilities sees scores only through a softmax, which does not change when a number is added to
all classes: then only the C - 1 contrasts E A with E = [-1 | I] are needed, scores are (0, E A x + E b), and for two
classes everything that touches a wide matrix is halved. For a fusion that reads logits E is the identity.

Backward by hand. With G = dL/dscores of the contrasts (B x C'), dA = G^T X and g = sum_b G_b, layer l gets

    dW_l = L_l^T Q_l,    db_l = L_l^T g,    L_l = E W_L ... W_{l+1},    Q_1 = dA,    Q_{l+1} = Q_l W_l^T + g b_l^T.

dW_1 (500 x 2000) has rank C': it is formed for one replicate at a time in a buffer that stays in the cache, and goes
straight into the fused Adam update, so that the update streams each wide tensor once.

A replicate's numbers do not depend on which others train beside it. Of one row, a product takes another path than of
several: so there are always two rows at least, the second unused where one replicate is left. And on a CPU Adam updates
each replicate by itself, since which elements of a stacked tensor fall behind the last whole vector, where a step is
rounded otherwise, depends on the length of the stack.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from multimodal_loss.configuration import FusionInput
from multimodal_loss.training.evaluate import Validation, masked, validation_split
from multimodal_loss.training.replicate import Recipe, Replicate, as_fusion_input


def can_collapse(replicates: Sequence[Replicate], recipe: Recipe) -> bool:
    """True for networks of linear layers alone that share one training set and are updated by plain Adam, with a fusion
    that needs no more than the gradient of its scores.
    """
    linear = all(affine_layers(r.backbone) is not None and not r.fusion.needs_modality_parameters for r in replicates)
    shared = len({id(r.data) for r in replicates}) == 1
    return linear and shared and recipe.trainer.is_plain and recipe.plain_adam() is not None


def affine_layers(backbone: nn.Module) -> list[list[nn.Linear]] | None:
    """The linear layers of each modality, where the backbone says that its scores are their product; else None."""
    hook = getattr(backbone, "affine_layers", None)
    layers: list[list[nn.Linear]] | None = None if hook is None else hook()
    return layers


class SharedInput:
    """X (B, D) of one modality, and its two products with the k columns of all replicates.

    On a CPU X and its transpose are kept packed as the weight of a oneDNN linear layer, so that both products stream X
    once at the speed of memory: three modalities of 10,000 x 2,000 with k = 5 take 14 + 13 ms on one core, where
    torch.mm takes 34 + 33 ms in its best orientation and 84 + 219 ms in its worst.
    """

    def __init__(self, x: Tensor, columns: int) -> None:
        x = x.flatten(1)
        self._packed = x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        if self._packed:
            self._forward = torch.ops.mkldnn._reorder_linear_weight(x, columns)
            self._backward = torch.ops.mkldnn._reorder_linear_weight(x.T.contiguous(), columns)
        else:
            self._x = x

    def scores(self, maps: Tensor) -> Tensor:
        """maps X^T: (k, D) -> (k, B)."""
        return self._packed_product(maps, self._forward) if self._packed else maps @ self._x.T

    def map_gradient(self, gradient: Tensor) -> Tensor:
        """gradient X: (k, B) -> (k, D)."""
        return self._packed_product(gradient, self._backward) if self._packed else gradient @ self._x

    @staticmethod
    def _packed_product(rows: Tensor, weight: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows.contiguous(), weight, None, "none", [], "")
        return product


class CollapsedTrainer:
    """Linear networks of all active replicates, stacked: `weights[m][l]` is (R, out, in), `biases[m][l]` is (R, out).

    R is the number of active replicates, and two where one is left: its second row is then nobody's.
    """

    def __init__(self, replicates: Sequence[Replicate], recipe: Recipe, device: torch.device) -> None:
        adam = recipe.plain_adam()
        assert adam is not None
        self.active = list(range(len(replicates)))
        self._replicates, self._recipe, self._device, self._options = list(replicates), recipe, device, adam
        train = replicates[0].data.train
        self._contrast = _contrast(len(replicates[0].data.classes), recipe.fusion_input).to(device)
        self._columns = max(len(replicates), 2) * len(self._contrast)
        self._inputs = [SharedInput(x.to(device), self._columns) for x in train.rows(slice(None))]
        self._target = train.target.to(device)
        self._masked = masked(train, device)
        self._validation: tuple[list[SharedInput], Tensor, dict[str, Tensor]] | None = None
        self._steps_taken = torch.zeros((), device=device)
        self._optimizers = []
        for replicate in replicates:
            replicate.backbone.to(device)
            replicate.fusion.to(device)
            self._optimizers.append(recipe.make_fusion_optimizer(replicate.fusion))
        self._stack_weights()

    # --- weights
    # -------------------------------------------------------------------------------------------------------------

    def _layers(self, position: int) -> list[list[torch.nn.Linear]]:
        layers = affine_layers(self._replicates[position].backbone)
        assert layers is not None
        return layers

    def _stack_weights(self) -> None:
        """Copy the active replicates' weights out of their modules; fresh moments."""
        networks = [self._layers(position) for position in _at_least_two(self.active)]
        modalities, depth = range(len(networks[0])), range(len(networks[0][0]))
        self._weights = [[torch.stack([n[m][d].weight.detach() for n in networks]) for d in depth] for m in modalities]
        self._biases = [[torch.stack([n[m][d].bias.detach() for n in networks]) for d in depth] for m in modalities]
        self._moments = [[torch.zeros_like(p) for p in self._parameters()] for _ in range(2)]
        wide = max(self._weights[m][0].shape[1] * self._weights[m][0].shape[2] for m in modalities)
        self._buffer = self._weights[0][0].new_empty(self._updated_together(len(networks)) * wide)
        self._collapse()

    def _updated_together(self, replicates: int) -> int:
        return 1 if self._device.type == "cpu" else replicates

    def _parameters(self) -> list[Tensor]:
        """Every stacked tensor; the first layers' weights come first, because they are updated apart."""
        first = [w[0] for w in self._weights]
        return first + [w for ws in self._weights for w in ws[1:]] + [b for bs in self._biases for b in bs]

    def _collapse(self) -> None:
        """`_left[m][l]` = E W_L ... W_{l+1}, `_maps[m]` = E A (R, C', D), `_offsets[m]` = E b (R, C')."""
        self._left: list[list[Tensor]] = []
        self._maps: list[Tensor] = []
        self._offsets: list[Tensor] = []
        for weights, biases in zip(self._weights, self._biases, strict=True):
            products = [self._contrast.to(weights[0]).expand(len(weights[0]), -1, -1)]
            for weight in reversed(weights):
                products.insert(0, products[0] @ weight)
            self._maps.append(products[0])
            self._left.append(products[1:])
            terms = [torch.bmm(left, b.unsqueeze(2)).squeeze(2) for left, b in zip(products[1:], biases, strict=True)]
            self._offsets.append(torch.stack(terms).sum(0))

    # --- one step
    # ------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self) -> Tensor:
        for position in self.active:
            self._replicates[position].fusion.begin_epoch(int(self._steps_taken) + 1, len(self._target))
        losses, gradient = self._fuse(self._scores(self._inputs, len(self._target)))
        backbone_gradients = []
        for m, x in enumerate(self._inputs):
            of_contrasts = gradient[:, m, -len(self._contrast) :]
            map_gradient = x.map_gradient(of_contrasts.flatten(0, 1)).view_as(self._maps[m])
            backbone_gradients.append(self._layer_gradients(m, map_gradient, of_contrasts.sum(2)))
        self._update(backbone_gradients)
        self._steps_taken += 1
        self._collapse()
        return losses

    def validation_values(self, monitors: Sequence[str]) -> list[list[float]]:
        if list(monitors) == ["validation_loss"]:
            return [self._validation_losses()]
        self.synchronise()
        return Validation(self._replicates, self._recipe, self._device).values(self.active, monitors)

    def end_epoch(self, watched: Sequence[float]) -> None:
        pass  # the rate is constant

    @torch.no_grad()
    def _validation_losses(self) -> list[float]:
        if self._validation is None:
            split = validation_split(self._replicates[0]).to(self._device)
            inputs = [SharedInput(x, self._columns) for x in split.rows(slice(None))]
            self._validation = inputs, split.target, masked(split, self._device)
        inputs, target, there = self._validation
        fused = as_fusion_input(self._scores(inputs, len(target)), self._recipe.fusion_input, dim=2)
        scores = fused.permute(0, 3, 1, 2)
        losses = [self._replicates[p].fusion.monitored(scores[i], target, **there) for i, p in enumerate(self.active)]
        return [float(loss) for loss in losses]

    def _scores(self, inputs: Sequence[SharedInput], samples: int) -> Tensor:
        """Scores (R, M, C, B): with samples last, a softmax over two classes takes 0.3 ms where it takes 16 ms over the
        last axis.

        They are contrasts with class 0, whose row is zero, where `_contrast` says so.
        """
        scores = self._maps[0].new_zeros(len(self._maps[0]), len(inputs), self._contrast.shape[1], samples)
        for m, (x, maps, offsets) in enumerate(zip(inputs, self._maps, self._offsets, strict=True)):
            products = x.scores(maps.flatten(0, 1)).view(len(maps), len(self._contrast), samples)
            torch.add(products, offsets.unsqueeze(2), out=scores[:, m, -len(self._contrast) :])
        return scores

    @torch.enable_grad()
    def _fuse(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """What is monitored (R,), as a rule the losses, and dL/dscores; the fusions' own parameters are updated."""
        scores.requires_grad_()
        inputs = as_fusion_input(scores, self._recipe.fusion_input, dim=2).permute(0, 3, 1, 2)
        losses = []
        for i, position in enumerate(self.active):
            self._zero_grad(position)
            losses.append(self._replicates[position].fusion(inputs[i], self._target, **self._masked))
        torch.stack(losses).sum().backward()
        watched = [
            self._replicates[p].fusion.monitored(inputs[i].detach(), self._target, losses[i].detach(), **self._masked)
            for i, p in enumerate(self.active)
        ]
        for position in self.active:
            optimizer = self._optimizers[position]
            if optimizer is not None:
                optimizer.step()
        assert scores.grad is not None
        return torch.stack(watched), scores.grad

    def _zero_grad(self, position: int) -> None:
        optimizer = self._optimizers[position]
        if optimizer is not None:
            optimizer.zero_grad()

    def _layer_gradients(
        self, m: int, map_gradient: Tensor, offset_gradient: Tensor
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """One modality's dA (R, C', D), [dW_2, ..., dW_L] and [db_1, ..., db_L]; `_update` forms dW_1 = L_1^T dA."""
        right, weights, biases = map_gradient, [], []
        for depth, (left, weight, bias) in enumerate(
            zip(self._left[m], self._weights[m], self._biases[m], strict=True)
        ):
            if depth:
                weights.append(left.mT @ right)
            biases.append(torch.bmm(left.mT, offset_gradient.unsqueeze(2)).squeeze(2))
            if depth < len(self._weights[m]) - 1:
                right = right @ weight.mT + offset_gradient.unsqueeze(2) * bias.unsqueeze(1)
        return map_gradient, weights, biases

    def _update(self, gradients: list[tuple[Tensor, list[Tensor], list[Tensor]]]) -> None:
        parameters = self._parameters()
        first = len(self._weights)
        small = [g for _, weights, _ in gradients for g in weights] + [g for _, _, biases in gradients for g in biases]
        rows = self._updated_together(len(self.active))
        for start in range(0, len(self.active), rows):
            part = slice(start, start + rows)
            moments = [[m[part] for m in each[first:]] for each in self._moments]
            self._adam([p[part] for p in parameters[first:]], [g[part] for g in small], moments)
        for m, (map_gradient, _, _) in enumerate(gradients):
            for start in range(0, len(self.active), rows):
                part = slice(start, start + rows)
                weight = parameters[m][part]
                gradient = self._buffer[: weight.numel()].view_as(weight)
                torch.bmm(self._left[m][0][part].mT, map_gradient[part], out=gradient)
                self._adam([weight], [gradient], [[moments[m][part]] for moments in self._moments])

    def _adam(self, parameters: list[Tensor], gradients: list[Tensor], moments: list[list[Tensor]]) -> None:
        options = self._options
        adam(
            parameters,
            gradients,
            moments[0],
            moments[1],
            [],
            list(self._steps_taken.expand(len(parameters)).clone().unbind()),  # counted up by the call
            fused=True,
            amsgrad=False,
            beta1=float(options["betas"][0]),
            beta2=float(options["betas"][1]),
            lr=options["lr"],
            weight_decay=options["weight_decay"],
            eps=options["eps"],
            maximize=False,
        )

    # --- leaving, saving, continuing
    # -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def synchronise(self) -> None:
        for i, position in enumerate(self.active):
            for m, layers in enumerate(self._layers(position)):
                for depth, layer in enumerate(layers):
                    layer.weight.copy_(self._weights[m][depth][i])
                    layer.bias.copy_(self._biases[m][depth][i])

    def retire(self, positions: Sequence[int]) -> None:
        self.synchronise()
        kept = [i for i, position in enumerate(self.active) if position not in positions]
        self.active = [self.active[i] for i in kept]
        if not kept:
            return
        index = torch.tensor(_at_least_two(kept), device=self._device)
        self._weights = [[w.index_select(0, index) for w in ws] for ws in self._weights]
        self._biases = [[b.index_select(0, index) for b in bs] for bs in self._biases]
        self._moments = [[p.index_select(0, index) for p in moments] for moments in self._moments]
        self._collapse()

    def state_dict(self) -> dict[str, Any]:
        optimizers = {p: o.state_dict() for p in self.active if (o := self._optimizers[p]) is not None}
        return {
            "active": self.active,
            "steps": int(self._steps_taken),
            "moments": self._moments,
            "optimizers": optimizers,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.active = list(state["active"])
        self._stack_weights()
        self._steps_taken.fill_(state["steps"])
        for own, saved in zip(self._moments, state["moments"], strict=True):
            for tensor, value in zip(own, saved, strict=True):
                tensor.copy_(value)
        for position, optimizer in state["optimizers"].items():
            own_optimizer = self._optimizers[position]
            assert own_optimizer is not None
            own_optimizer.load_state_dict(optimizer)


def _at_least_two(rows: list[int]) -> list[int]:
    return rows if len(rows) > 1 else rows * 2


def _contrast(classes: int, fusion_input: FusionInput) -> Tensor:
    """E (C', C): [-1 | I] where only differences to class 0 matter, else the identity."""
    identity = torch.eye(classes)
    if fusion_input == "logits":
        return identity
    return torch.cat([-torch.ones(classes - 1, 1), identity[1:, 1:]], dim=1)
