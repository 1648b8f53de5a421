"""Shapley values: the share of each of several players in what they reach together (Shapley 1953)."""

import itertools
import random
from collections.abc import Callable
from functools import cache

from torch import Tensor

EXACT_PLAYERS = 4


def shapley_values(value: Callable[[tuple[int, ...]], Tensor], players: int, orders: int) -> list[Tensor]:
    """What each player adds to `value(members)` when it joins, as the mean over the orders in which all join.

    The values sum to that of all players less that of none.

    Args:
        value: of the members, a tuple in ascending order; any shape.
        players: their number.
        orders: for more than 4 players, how many random orders, with their reverses, stand for all; always the same.
    """
    if players <= EXACT_PLAYERS:
        chosen = list(itertools.permutations(range(players)))
        value = cache(value)
    else:
        generator = random.Random(0)
        chosen = [tuple(generator.sample(range(players), players)) for _ in range(orders)]
        chosen += [order[::-1] for order in chosen]
    nobody = value(())
    shares = [nobody * 0 for _ in range(players)]
    for order in chosen:
        before = nobody
        for joined, player in enumerate(order, start=1):
            after = value(tuple(sorted(order[:joined])))
            shares[player] = shares[player] + (after - before) / len(chosen)
            before = after
    return shares
