"""Which replica takes a request: strategies with one signature, over what a router knows of its replicas.

A strategy is made by a name of `STRATEGIES` and called for each request in turn; it may remember. It knows neither Ray nor
time. Not covered: sessions bound to a replica beyond what shared prompts do, replicas in other regions.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from tradewind.errors import UserError

BLOCK = 32
"""Tokens of a prompt's block that the prefix-aware strategy remembers."""
BLOCKS = 65_536
"""That it remembers at most."""
WORTH = 0.1
"""Share of a prompt that must be known of a replica for it to be preferred."""
UNEVEN = 0.5
"""How much fuller than the emptiest one (requests a slot) a preferred replica may be."""


class Candidate(Protocol):
    """ongoing: requests that it has and has not answered. slots: answers that it makes at once."""

    @property
    def name(self) -> str: ...
    @property
    def ongoing(self) -> int: ...
    @property
    def slots(self) -> int: ...


C = TypeVar("C", bound=Candidate)
Tokens = Sequence[int]


class Strategy(Protocol):
    def __call__(self, candidates: Sequence[C], prompt: Tokens) -> C:
        """One of them, of which there is at least one."""
        ...


def fullness(one: Candidate) -> float:
    """Requests a slot."""
    return one.ongoing / one.slots


class RoundRobin:
    """By turns, whatever they have to do."""

    def __init__(self, seed: int = 0) -> None:
        self._last = ""

    def __call__(self, candidates: Sequence[C], prompt: Tokens) -> C:
        ordered = sorted(candidates, key=lambda one: one.name)
        chosen = next((one for one in ordered if one.name > self._last), ordered[0])
        self._last = chosen.name
        return chosen


class LeastLoaded:
    """The fewest requests; a tie is drawn."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)

    def __call__(self, candidates: Sequence[C], prompt: Tokens) -> C:
        least = min(one.ongoing for one in candidates)
        return self._chance.choice([one for one in candidates if one.ongoing == least])


class PowerOfTwo:
    """The emptier of two drawn ones: nearly as even as looking at all, where looking costs (Mitzenmacher, 2001)."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)

    def __call__(self, candidates: Sequence[C], prompt: Tokens) -> C:
        return min(self._chance.sample(list(candidates), min(2, len(candidates))), key=fullness)


class CapacityWeighted:
    """The emptiest as a share of its slots, so that unlike replicas fill alike; a tie goes to the larger."""

    def __init__(self, seed: int = 0) -> None:
        pass

    def __call__(self, candidates: Sequence[C], prompt: Tokens) -> C:
        return min(candidates, key=lambda one: ((one.ongoing + 1) / one.slots, one.name))


class PrefixAware:
    """Where the longest beginning of the prompt was sent before, unless that replica is much fuller than the emptiest:
    its prefix cache then has it. Else the emptier of two drawn ones. (As SGLang's router, Zheng et al. 2024.)"""

    def __init__(self, seed: int = 0) -> None:
        self._otherwise = PowerOfTwo(seed)
        self._sent: OrderedDict[int, str] = OrderedDict()  # hash of a prompt's first blocks -> replica

    def __call__(self, candidates: Sequence[C], prompt: Tokens) -> C:
        keys = beginnings(prompt)
        chosen = self._known(candidates, keys) or self._otherwise(candidates, prompt)
        for key in keys:
            self._sent[key] = chosen.name
            self._sent.move_to_end(key)
        while len(self._sent) > BLOCKS:
            self._sent.popitem(last=False)
        return chosen

    def _known(self, candidates: Sequence[C], keys: Sequence[int]) -> C | None:
        names = {one.name: one for one in candidates}
        most = UNEVEN + min(map(fullness, candidates))
        for length in range(len(keys), 0, -1):
            if length < WORTH * len(keys):
                return None
            one = names.get(self._sent.get(keys[length - 1], ""))
            if one is not None:
                return one if fullness(one) <= most else None
        return None


def beginnings(prompt: Tokens) -> list[int]:
    """Hashes of its first block, its first two, and so on; whole blocks only."""
    keys, key = [], 0
    for start in range(0, len(prompt) - BLOCK + 1, BLOCK):
        key = hash((key, *prompt[start : start + BLOCK]))
        keys.append(key)
    return keys


STRATEGIES: dict[str, Callable[[int], Strategy]] = {
    "round_robin": RoundRobin,
    "least_loaded": LeastLoaded,
    "power_of_two": PowerOfTwo,
    "capacity_weighted": CapacityWeighted,
    "prefix_aware": PrefixAware,
}


def strategy(name: str, seed: int = 0) -> Strategy:
    """Raises UserError with the choices."""
    if name not in STRATEGIES:
        raise UserError(f"unknown routing {name!r} (choices: {', '.join(STRATEGIES)})")
    return STRATEGIES[name](seed)
