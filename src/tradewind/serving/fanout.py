"""One call answered by several variants, of whose answers one is given, with the usage of all.

The life of such a call: 1. each variant makes the prompt its own tokens, for vocabularies differ; 2. all are submitted,
or none; 3. the first failure, or the client's leaving, cancels the others; 4. one answer is chosen: the one with the
highest mean log-probability of its tokens, or one of the text that most wrote.

Not covered: streams, several answers of one variant. Means over tokens of different vocabularies are compared as they
are: a variant with shorter tokens has more of them, each of them likelier.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from fastapi import Request as HttpRequest
from starlette.responses import Response

from tradewind.serving.caches import CallCaches
from tradewind.serving.completions import ClientGoneError, Completions, Reply, Wire, begin
from tradewind.serving.errors import CLIENT_GONE, ApiError
from tradewind.serving.replies import Call, Choice, JsonReply
from tradewind.serving.shapes import Aggregated, Candidate
from tradewind.serving.wire import Aggregate

AROUND = "\"'`.,;:!?()[]{}*_ "
"""Characters that do not count at the ends of a text when votes are counted."""


class Fanout:
    """Over the variants that are served, by name."""

    def __init__(self, variants: Mapping[str, Completions]) -> None:
        self.variants = variants

    async def answer(
        self, wire: Wire, aggregate: Aggregate, call: Callable[[str], Call], http: HttpRequest, caches: CallCaches
    ) -> Response:
        """call: what the reply's frame says where a model's answer is chosen. Raises ApiError."""
        self._check(aggregate)
        work = []
        for name in aggregate.models:
            completions = self.variants[name]
            backend = caches.over(completions.scheduler, completions.identity, streams=False)
            work += [(backend, one) for one in await completions.requests(wire, http)]
        reply = Reply(await begin(work, wire, http), call(aggregate.models[0]), wire)
        try:
            choices = await reply.gathered()
        except ClientGoneError:
            return Response(status_code=CLIENT_GONE)
        votes = votes_of(choices)
        best = chosen(choices, votes if aggregate.method == "majority" else [1] * len(choices))
        reply.call = call(aggregate.models[best])
        counts = [reply.done[place].completion_tokens for place in range(len(choices))]
        told = Aggregated(
            method=aggregate.method,
            candidates=[
                _candidate(name, choice, its, count, place == best)
                for place, (name, choice, its, count) in enumerate(
                    zip(aggregate.models, choices, votes, counts, strict=True)
                )
            ],
        )
        return JsonReply({**reply.body([choices[best]]), "aggregate": told})

    def _check(self, aggregate: Aggregate) -> None:
        for name in aggregate.models:
            if name not in self.variants:
                served = ", ".join(map(repr, self.variants))
                raise ApiError("invalid_value", f"The model {name!r} is not served ({served} are).", "aggregate.models")


def normal(text: str) -> str:
    """The text as votes compare it: Unicode NFKC, no case, single spaces, nothing of AROUND at its ends."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(AROUND)


def votes_of(choices: Sequence[Choice]) -> list[int]:
    """For each, how many wrote its text."""
    texts = [normal("".join(choice.texts)) for choice in choices]
    counts = Counter(texts)
    return [counts[text] for text in texts]


def chosen(choices: Sequence[Choice], votes: Sequence[int]) -> int:
    """The place of the one with the most votes; of these, with the highest mean log-probability; of these, the first."""
    return max(range(len(choices)), key=lambda place: (votes[place], choices[place].mean_logprob, -place))


def _candidate(name: str, choice: Choice, votes: int, completion_tokens: int, is_chosen: bool) -> Candidate:
    mean = choice.mean_logprob
    return {
        "model": name,
        "text": "".join(choice.texts),
        "mean_logprob": mean if math.isfinite(mean) else None,
        "votes": votes,
        "finish_reason": choice.finish_reason,
        "completion_tokens": completion_tokens,
        "chosen": is_chosen,
    }
