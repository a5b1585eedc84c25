"""What goes into the scheduler and what comes out: requests, events, terminal states, and the refusals at the door.

The life of a request: submitted -> waiting -> prefilling -> running -> exactly one terminal event (`Done`, `Failed`,
`Cancelled`), after which nothing follows. Each answer of it gives `Delta`s; the last of them carries its finish reason.
A request that asks for `prompt_logprobs` gets one `PromptLogprobs` before its first `Delta`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tradewind.engine.sampling import SamplingParams

if TYPE_CHECKING:
    from tradewind.engine.grammar import Grammar  # its library is a server's, not every scheduler's

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Request:
    """n answers to one prompt of token ids. max_tokens: of each answer, the token that ends it included; 0 runs the prompt
    and no more.

    grammar: what each answer keeps to; `ignore_eos` does not lengthen such an answer.
    tenant: whose share of the engine this is, and whose cached prompts it may find. priority: smaller goes first.
    deadline: on the clock of `time.monotonic`; what is not done then fails with `DeadlineExceeded`.
    cache_salt: cached prompts are found only by requests of the same tenant, salt and adapter.
    prompt_logprobs: how many alternatives to report for each prompt token, None for no report.
    resumed: tokens of the one answer (n = 1) that were sampled before, by an engine that is gone. The answer goes on after
        them as if nothing had happened: no text or log-probability of theirs is given again, and they count as sampled.
    first_index: of the first answer; with the seed it says what is drawn.
    admitted: it was taken before, elsewhere: it is not refused for how long it would wait here.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    n: int = 1
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    adapter: str | None = None
    grammar: "Grammar | None" = None
    tenant: str = ""
    priority: int = 0
    deadline: float | None = None
    cache_salt: str | None = None
    prompt_logprobs: int | None = None
    resumed: tuple[int, ...] = ()
    first_index: int = 0
    admitted: bool = False

    @property
    def length(self) -> int:
        """Of `known`."""
        return len(self.prompt) + len(self.resumed)

    @property
    def known(self) -> tuple[int, ...]:
        """What the engine runs before it gives the logits of a new token."""
        return self.prompt + self.resumed


@dataclass(frozen=True)
class TokenLogprob:
    """piece: the token's own bytes, none for a special token. logprob: None for the first token of a prompt."""

    token: int
    piece: bytes
    logprob: float | None
    top: tuple[tuple[int, bytes, float], ...]
    offset: int
    """Characters of the answer before this token; in `PromptLogprobs`, of the prompt."""


@dataclass(frozen=True)
class PromptLogprobs:
    """One entry a prompt token, in order; the first has no log-probability, as nothing precedes it."""

    entries: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Delta:
    """What became certain of answer `index`. tokens: how many were sampled since its last delta.

    ids: those tokens, or, where log-probabilities are reported, the ones whose are: the `ids` of all deltas so far are what
    an answer is `resumed` with.
    """

    index: int
    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Done:
    """completion_tokens: all that were sampled, over all answers, ending tokens and stop strings included.

    cached_tokens: of the prompt, found in the prefix cache and not run again. accepted_prediction_tokens and
    rejected_prediction_tokens: drafts of the speculation that were, and were not, what the sampler chose; completion
    tokens include the former only.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class DeadlineExceeded(Exception):
    """The deadline of a request passed before its last token."""


@dataclass(frozen=True)
class Failed:
    """The engine or the sampler raised while it worked on this request, or its deadline passed (`DeadlineExceeded`)."""

    error: Exception


@dataclass(frozen=True)
class Cancelled:
    """The caller cancelled, or the scheduler closed."""


Event = PromptLogprobs | Delta | Done | Failed | Cancelled
TERMINAL = (Done, Failed, Cancelled)
Sink = Callable[[Event], None]
"""Called in the scheduler's thread: must return at once, and its errors cancel the request."""


class Refused(Exception):
    """A request that was not accepted; no event follows."""


class QueueFull(Refused):
    """As many requests wait as may, or longer than may be. retry_after: seconds, estimated, until one more would be
    taken.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Closed(Refused):
    """The scheduler takes no more requests."""


class Unavailable(Refused):
    """No replica of the model is there. retry_after: seconds."""

    def __init__(self, message: str = "no replica of the model is there", retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ContextTooLong(Refused):
    """The prompt and the answer asked for do not fit the engine's context."""

    def __init__(self, prompt: int, answer: int, max_len: int) -> None:
        super().__init__(
            f"This model's maximum context length is {max_len} tokens, but {prompt + answer} were asked for "
            f"({prompt} in the prompt, {answer} in the answer)."
        )
        self._of = (prompt, answer, max_len)
        self.prompt_fits = prompt < max_len

    def __reduce__(self) -> tuple[type["ContextTooLong"], tuple[int, int, int]]:
        return type(self), self._of


class BadRequest(Refused):
    """A request that no engine could run: an empty prompt, unknown tokens, numbers out of range."""
