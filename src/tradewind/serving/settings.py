"""What a server is started with: the `serve` section of the parameters, each value of which the command line may
override.
"""

import math
from dataclasses import dataclass, field, fields
from typing import TypeVar

from tradewind.engine.scheduler import SchedulerSettings
from tradewind.errors import UserError

T = TypeVar("T")
CACHES = ("none", "memory", "redis")
"""Of answers, besides addresses."""


def option(default: T, text: str, least: float | None = None) -> T:
    """A field, what it is in words (what `--help` says), and its smallest value where it is a number."""
    return field(default=default, metadata={"help": text, "least": least})


@dataclass(frozen=True)
class ServeSettings:
    """Engine, API and limits. Raises UserError where a number is too small or not finite."""

    model: str = option("champion", "a variant's name, or champion")
    fanout: tuple[str, ...] = option(
        (), "more variants beside it, each with as many slots and threads: asked by name, or together by `aggregate`"
    )
    adapter: tuple[str, ...] = option(
        (), "NAME=FOLDER: LoRA adapters over it, each a model of its own in the same engine; may be given again"
    )
    adapters_dir: str = option("", "a folder whose adapters calls may load and unload; none: no such routes")
    engine: str = option("ort", "ort, jax or mock")
    encoder: str = option("artifacts/encoder", "the folder of the sentence encoder; none there: no embeddings")
    variants: str = option("artifacts/variants", "the folder of the variants")
    host: str = option("127.0.0.1", "without keys, a loopback address")
    port: int = option(8000, "0 takes a free one", 0)
    slots: int = option(8, "answers that run at once", 1)
    max_len: int = option(2048, "tokens of prompt and answer together", 1)
    threads: int = option(2, "of the engine (ort)", 1)
    prefill_chunk: int = option(128, "prompt tokens run between two steps of running answers", 1)
    max_waiting: int = option(64, "requests ahead of a new one from which it is refused", 0)
    ttft_goal_ms: int = option(
        0, "a request whose first token would come later is refused; 0: max_waiting alone counts", 0
    )
    prefix_cache_mib: int = option(128, "keys and values kept for prompts that begin alike; 0: none", 0)
    prefix_cache_dir: str = option(
        "", "a folder for those that leave memory or are there at the end, so that a restart is warm; none: no files"
    )
    prefix_cache_disk_mib: int = option(512, "of files in it, for each model", 0)
    lookup_tokens: int = option(0, "tokens drafted a step at most (prompt lookup); 0: no speculation", 0)
    lookup_ngram: int = option(3, "tokens of the longest n-gram looked up", 1)
    lookup_max_rows: int = option(1, "answers running at most where drafts are made", 0)
    cache: str = option(
        "none",
        "answers given again: none, memory (of this process), redis://HOST:PORT (shared; memory in front), or redis: one "
        "that is started and ends with the server",
    )
    cache_mib: int = option(64, "of kept answers in this process", 1)
    cache_redis_mib: int = option(256, "of kept answers in the Redis that cache=redis starts", 1)
    cache_ttl_s: float = option(3600.0, "that an answer is kept", 0.001)
    cache_scope: str = option("tenant", "tenant: none is given another's answer; all: everybody is")
    semantic: str = option("off", "shadow: chats are held against like questions of before, for the metrics; or off")
    semantic_tenants: tuple[str, ...] = option(
        (), "tenants that are answered from it, where a question is near enough; wrong answers are possible"
    )
    semantic_threshold: float = option(0.99, "cosine from which a question is near enough", 0.5)
    semantic_mib: int = option(32, "of past questions and their answers", 1)
    cache_log: str = option("", "file to which cacheable calls are added, for warm_from to read; none: no log")
    warm_from: str = option("", "such a log, or a file like it: its popular calls of a day are answered at the start")
    warm_calls: int = option(100, "of warm_from at most", 0)
    max_choices: int = option(128, "answers of one call: n times its prompts", 1)
    max_prompts: int = option(32, "prompts of one call", 1)
    max_inputs: int = option(2048, "texts of one call that embeds", 1)
    max_input_tokens: int = option(65536, "of these, together", 1)
    embedding_cache_mib: int = option(64, "vectors kept for texts that come again; 0: none", 0)
    max_body_bytes: int = option(1 << 20, "of one call", 1)
    request_timeout_s: float = option(600.0, "from a call's begin to its last byte", 0.001)
    receive_timeout_s: float = option(30.0, "for a call's head to arrive, and again for its body", 0.001)
    send_timeout_s: float = option(
        30.0, "how long a client may leave its stream unread before its requests are cancelled", 0.001
    )
    keys_file: str = option("", "API keys, see `python -m tradewind.serving.keys`; none: TRADEWIND_KEYS_FILE names it")
    limits_storage: str = option("memory", "memory (of this process, lost with it) or redis://HOST:PORT (shared)")
    drain_grace_s: float = option(
        0.0, "after SIGTERM, how long to say `not ready` and still take calls, for load balancers to notice", 0
    )
    drain_seconds: int = option(30, "how long accepted calls may go on after that", 0)

    def __post_init__(self) -> None:
        for one in fields(self):
            least, value = one.metadata["least"], getattr(self, one.name)
            if least is not None and not least <= value < math.inf:
                raise UserError(f"{one.name}: {value} is not a number from {least:g}")
        if self.cache not in CACHES and not self.cache.startswith(("redis://", "rediss://")):
            raise UserError(f"cache {self.cache!r}: choose {', '.join(CACHES)} or an address redis://HOST:PORT")
        if self.cache_scope not in ("tenant", "all"):
            raise UserError(f"cache_scope {self.cache_scope!r}: choose tenant or all")
        if self.semantic not in ("off", "shadow") or (self.semantic == "off" and self.semantic_tenants):
            raise UserError("semantic: choose off or shadow; semantic_tenants go with shadow")
        if self.semantic_threshold > 1:
            raise UserError(f"semantic_threshold: {self.semantic_threshold} is beyond 1")

    @property
    def scheduler(self) -> SchedulerSettings:
        return SchedulerSettings(
            prefill_chunk=self.prefill_chunk,
            max_waiting=self.max_waiting,
            ttft_goal_ms=self.ttft_goal_ms,
            prefix_cache_bytes=self.prefix_cache_mib << 20,
            prefix_cache_dir=self.prefix_cache_dir,
            prefix_cache_disk_bytes=self.prefix_cache_disk_mib << 20,
            lookup_tokens=self.lookup_tokens,
            lookup_ngram=self.lookup_ngram,
            lookup_max_rows=self.lookup_max_rows,
        )
