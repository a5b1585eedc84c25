"""A request as it travels to a replica: without what belongs to one process, a compiled grammar and a moment of its clock."""

import time
import uuid
from dataclasses import dataclass, field, replace

from tradewind.engine.grammar import Grammars, Structure
from tradewind.engine.requests import Request


@dataclass(frozen=True)
class Parcel:
    """left_s: seconds until the request's deadline when it was sent. digest: of the weights that are to answer. avoid:
    replicas that it is not to go to. id: its own, of this journey."""

    request: Request
    structure: Structure | None
    left_s: float | None
    digest: str
    avoid: frozenset[str] = frozenset()
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, request: Request, digest: str, avoid: frozenset[str]) -> "Parcel":
        structure = None if request.grammar is None else request.grammar.structure
        left = None if request.deadline is None else request.deadline - time.monotonic()
        return cls(replace(request, grammar=None, deadline=None), structure, left, digest, avoid)

    def opened(self, grammars: Grammars) -> Request:
        """Raises BadStructure. Takes milliseconds mostly where it has a structure: not for an event loop then."""
        grammar = None if self.structure is None else grammars.compile(self.structure)
        deadline = None if self.left_s is None else time.monotonic() + self.left_s
        return replace(self.request, grammar=grammar, deadline=deadline)
