"""MLP: learning rates of first layers that read many features."""

import torch

from multimodal_loss.backbones import MLP
from multimodal_loss.configuration import compose_config


def test_wide_first_layers_take_steps_that_move_a_score_as_little_as_narrow_ones_do() -> None:
    """Adam's first step moves every weight by its rate: 2,000 features that agree move a score 200 times as 10 do."""
    steps = {}
    for wide_input in (None, 10):
        network = MLP([(10,), (2000,)], 2, hidden=(), wide_input=wide_input)
        inputs = [torch.ones(1, 10), torch.ones(1, 2000)]
        before = network(inputs).detach()
        optimizer = torch.optim.AdamW(network.parameter_groups(1e-4), weight_decay=0.0)
        (network(inputs) * torch.tensor([1.0, -1.0])).sum().backward()
        optimizer.step()
        steps[wide_input] = (network(inputs).detach() - before).abs()[0, :, 0] - 1e-4  # less the bias's
        assert len({id(p) for group in optimizer.param_groups for p in group["params"]}) == 4  # none left out or twice
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    torch.testing.assert_close(steps[None], torch.tensor([1e-3, 0.2]), rtol=2e-3, atol=0)
    torch.testing.assert_close(steps[10], torch.tensor([1e-3, 1e-3]), rtol=2e-2, atol=0)


def test_the_collapsed_path_is_not_for_networks_with_rates_of_their_own() -> None:
    assert MLP([(10,)], 2, (5,), wide_input=10).affine_layers() is not None
    assert MLP([(11,)], 2, (5,), wide_input=10).affine_layers() is None


def test_narrow_datasets_name_no_width_and_keep_their_runs() -> None:
    for dataset, width in (("htad", None), ("tcga_kipan", 256), ("tables", 256)):
        overrides = [f"dataset={dataset}", "backbone=linear"] + ["dataset.path=x", "dataset.label=x"] * (
            dataset == "tables"
        )
        assert compose_config(overrides)["backbone"]["wide_input"] == width
