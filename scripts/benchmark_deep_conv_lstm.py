"""Times a training step of DeepConvLSTM: early and late fusion beside a loop over one branch per modality.

    python scripts/benchmark_deep_conv_lstm.py [--threads 2] [--rounds 11] [--device cpu]

A step is forward, cross-entropy of the scores' mean, backward and RMSProp, on 100 windows of the 19 modalities and 18
classes of OPPORTUNITY. Contestants take turns, round by round, and medians are compared, so that a busy machine slows
them alike. The loop is the plain way: nn.Conv2d, nn.LSTM and nn.Linear, one modality after the other; tests use it as
the reference. Targets: late takes at most 2 times early, and at most 1/3 of the loop. A CPU cannot meet the second:
late and loop do the same arithmetic, the last table counts it, and the machine's speed in one large matrix product,
printed beside the times, bounds both. What late saves is calls: one for each width instead of each modality.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from multimodal_loss.backbones.deep_conv_lstm import FUSION_TYPES, DeepConvLSTM

STEPS = 24
WIDTHS = (3,) * 12 + (9,) * 5 + (16,) * 2
CLASSES = 18
BATCH = 100


class Convolutions(nn.Module):
    """Windows (B, T, width) to (B, T', filters * width), whatever the width."""

    def __init__(self, filters: int = 64, kernel: int = 5, conv_layers: int = 4) -> None:
        super().__init__()
        inputs = [1] + [filters] * (conv_layers - 1)
        self.layers = nn.ModuleList(orthogonal(nn.Conv2d(i, filters, (kernel, 1))) for i in inputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(1)
        for layer in self.layers:
            x = F.relu(layer(x))
        return x.transpose(1, 2).flatten(2)


class Head(nn.Module):
    """(B, T', width) to scores (B, C): every step is classified, as in the released network, and the last is kept."""

    def __init__(self, width: int, num_classes: int, hidden: int = 128, lstm_layers: int = 2) -> None:
        super().__init__()
        inputs = [width] + [hidden] * (lstm_layers - 1)
        self.lstms = nn.ModuleList(orthogonal(nn.LSTM(i, hidden, batch_first=True)) for i in inputs)
        self.classifier = orthogonal(nn.Linear(hidden, num_classes))

    def forward(self, x: Tensor, dropout: float = 0.0) -> Tensor:
        for lstm in self.lstms:
            x, _ = lstm(F.dropout(x, dropout))
        scores: Tensor = self.classifier(F.dropout(x, dropout))
        return scores[:, -1]


class Loop(nn.Module):
    """Late fusion as a loop over whole branches; scores (B, M, C)."""

    def __init__(
        self,
        widths: Sequence[int],
        num_classes: int,
        filters: int = 64,
        kernel: int = 5,
        conv_layers: int = 4,
        hidden: int = 128,
        lstm_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.convolutions, self.heads = nn.ModuleList(), nn.ModuleList()
        for width in widths:
            self.convolutions.append(Convolutions(filters, kernel, conv_layers))
            self.heads.append(Head(filters * width, num_classes, hidden, lstm_layers))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        parts = zip(self.convolutions, self.heads, inputs, strict=True)
        return torch.stack([head(convolve(x), self.dropout) for convolve, head, x in parts], dim=1)


def orthogonal(layer: nn.Module) -> nn.Module:
    """Every weight matrix orthogonal, every bias 0."""
    for name, parameter in layer.named_parameters():
        if "weight" in name:
            nn.init.orthogonal_(parameter)
        else:
            nn.init.zeros_(parameter)
    return layer


def multiply_accumulates(network: nn.Module, widths: Sequence[int] = WIDTHS, steps: int = STEPS) -> int:
    """Multiplications with an addition in the convolutions and matrix products of one window's forward pass."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network([torch.zeros(1, steps, width) for width in widths])
    return int(counter.get_total_flops()) // 2


def training_step(network: nn.Module, inputs: Sequence[Tensor], target: Tensor) -> Callable[[], None]:
    """One update by RMSProp; ends when the device has ended."""
    device = target.device
    network.to(device)
    optimizer = torch.optim.RMSprop(network.parameters(), lr=1e-3, alpha=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(inputs).mean(dim=1), target).backward()
        optimizer.step()
        if device.type != "cpu":
            torch.accelerator.synchronize()

    return step


def medians(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Seconds of each step: one round to warm up, then `rounds` in which all take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def matrix_product_speed(device: str, size: int = 2048, rounds: int = 11) -> float:
    """Floating-point operations a second in the product of two square matrices."""
    matrix = torch.rand(size, size, device=device)

    def product() -> None:
        float((matrix @ matrix)[0, 0])  # waits for the device

    return 2 * size**3 / medians({"product": product}, rounds)["product"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="CPU threads of torch (default: 2, 1)")
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds, of which the median counts (default: 11)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: cpu)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    shapes = [(STEPS, width) for width in WIDTHS]
    inputs = [torch.rand(BATCH, *shape, device=arguments.device) for shape in shapes]
    target = torch.randint(CLASSES, (BATCH,), device=arguments.device)
    networks = {kind: DeepConvLSTM(shapes, CLASSES, fusion_type=kind) for kind in FUSION_TYPES}
    contestants = {**networks, "loop": Loop(WIDTHS, CLASSES, dropout=0.5)}
    steps = {name: training_step(network, inputs, target) for name, network in contestants.items()}

    print(f"torch {torch.__version__}, {arguments.device}, {BATCH} windows, medians of {arguments.rounds} rounds")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        seconds = medians(steps, arguments.rounds)
        times = "   ".join(f"{name} {1e3 * median:.0f} ms" for name, median in seconds.items())
        to_early, to_loop = (seconds["late"] / seconds[name] for name in ("early", "loop"))
        speed = matrix_product_speed(arguments.device) / 1e9
        print(f"{threads} thread(s): {times}   late/early {to_early:.2f}   late/loop {to_loop:.2f}", end="   ")
        print(f"matrix product {speed:.0f} GFLOP/s")
    print("\nOne window, forward      parameters   multiply-accumulates")
    for name, network in networks.items():
        parameters = sum(p.numel() for p in network.parameters())
        counted = multiply_accumulates(network.cpu().eval())
        print(f"{name:21} {parameters:13,} {counted / 1e6:20.1f} M")


if __name__ == "__main__":
    main()
