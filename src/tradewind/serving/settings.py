"""What a server is started with: the `serve` section of the parameters, each value of which the command line may
override.
"""

from dataclasses import dataclass

from tradewind.engine.scheduler import SchedulerSettings


@dataclass(frozen=True)
class ServeSettings:
    """Engine, API and limits.

    model: a variant's name or `champion`. fanout: more variants, loaded beside it with as many slots and threads each:
    asked by their names, or together by `aggregate`. slots: answers that run at once; max_len: tokens of prompt and answer.
    prefill_chunk, max_waiting, ttft_goal_ms, prefix_cache_mib, lookup_*: see SchedulerSettings.
    max_choices: n times prompts of one call. max_prompts: of one call.
    request_timeout_s: from a call's begin to its last byte. receive_timeout_s: for a request's head to arrive, and again
    for its body. send_timeout_s: how long a client may leave its stream unread before its requests are cancelled.
    keys_file: see serving.keys; where it is empty, TRADEWIND_KEYS_FILE says which. limits_storage: `memory` (of this
    process, lost with it), or redis://HOST:PORT, shared.
    drain_grace_s: after SIGTERM, seconds of saying "not ready" before new connections are refused, for load balancers to
    notice. drain_seconds: how long accepted requests may go on after that.
    """

    model: str = "champion"
    fanout: tuple[str, ...] = ()
    engine: str = "ort"
    variants: str = "artifacts/variants"
    host: str = "127.0.0.1"
    port: int = 8000
    slots: int = 8
    max_len: int = 2048
    threads: int = 2
    prefill_chunk: int = 128
    max_waiting: int = 64
    ttft_goal_ms: int = 0
    prefix_cache_mib: int = 128
    lookup_tokens: int = 0
    lookup_ngram: int = 3
    lookup_max_rows: int = 1
    max_choices: int = 128
    max_prompts: int = 32
    max_body_bytes: int = 1 << 20
    request_timeout_s: float = 600.0
    receive_timeout_s: float = 30.0
    send_timeout_s: float = 30.0
    keys_file: str = ""
    limits_storage: str = "memory"
    drain_grace_s: float = 0.0
    drain_seconds: int = 30

    @property
    def scheduler(self) -> SchedulerSettings:
        return SchedulerSettings(
            prefill_chunk=self.prefill_chunk,
            max_waiting=self.max_waiting,
            ttft_goal_ms=self.ttft_goal_ms,
            prefix_cache_bytes=self.prefix_cache_mib << 20,
            lookup_tokens=self.lookup_tokens,
            lookup_ngram=self.lookup_ngram,
            lookup_max_rows=self.lookup_max_rows,
        )
