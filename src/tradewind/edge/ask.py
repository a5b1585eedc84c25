"""What is asked of the capped process: the line of JSON that it reads. Imports nothing, as both sides need it."""

from dataclasses import dataclass

LEAST_TIMED = 8
"""Tokens of an answer from which on a rate is told, by the page too: fewer intervals say little."""


@dataclass(frozen=True)
class Ask:
    """A question about a passage ("": none) to the variant in `folder`. temperature 0 is greedy. ignore_end, for
    measuring: go on past the token that ends the answer, to max_tokens."""

    folder: str
    question: str
    passage: str = ""
    max_tokens: int = 96
    temperature: float = 0.0
    seed: int = 0
    ignore_end: bool = False
