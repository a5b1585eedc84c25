"""What is asked of the capped process: the line of JSON that it reads. Imports nothing, as both sides need it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ask:
    """A question about a passage ("": none) to the variant in `folder`. temperature 0 is greedy."""

    folder: str
    question: str
    passage: str = ""
    max_tokens: int = 96
    temperature: float = 0.0
    seed: int = 0
