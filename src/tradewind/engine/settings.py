"""What a scheduler is set to, and what it says of itself."""

from dataclasses import asdict, dataclass

from tradewind.errors import UserError


@dataclass(frozen=True)
class SchedulerSettings:
    """prefill_chunk: prompt tokens run between two decode steps. max_waiting: requests that wait for their prefill.

    ttft_goal_ms: a request whose first token would come later is refused, unless its own prefill takes half of that; 0:
    only `max_waiting` counts.
    prefix_cache_bytes: of keys and values kept for prompts to come; 0: none.
    prefix_cache_dir: where those that leave memory are written, for this process and later ones; "": nowhere.
    prefix_cache_disk_bytes: of the files there.
    lookup_tokens: drafted tokens a step at most, of engines with `exact_feeds`; 0: no speculation.
    lookup_ngram: the longest n-gram looked up.
    lookup_max_rows: answers running at most where drafts are made: a long feed for one row is padding for all others.
    """

    prefill_chunk: int = 128
    max_waiting: int = 64
    ttft_goal_ms: int = 0
    prefix_cache_bytes: int = 0
    prefix_cache_dir: str = ""
    prefix_cache_disk_bytes: int = 0
    lookup_tokens: int = 0
    lookup_ngram: int = 3
    lookup_max_rows: int = 1

    def __post_init__(self) -> None:
        least = {"prefill_chunk": 1, "lookup_ngram": 1}
        for name, value in asdict(self).items():
            if isinstance(value, int) and value < least.get(name, 0):
                raise UserError(f"{name}: {value} is below {least.get(name, 0)}")
        if self.prefix_cache_dir and not (self.prefix_cache_bytes and self.prefix_cache_disk_bytes):
            raise UserError("prefix_cache_dir: the prefix cache needs a budget in memory and one on the disk")


@dataclass(frozen=True)
class Snapshot:
    """Counts at one moment, and totals since the start.

    running: answers in slots. waiting: requests accepted with an answer that has not started. prompt_tokens: of prompts
    prefilled, cached ones included. seconds_since_progress: since a token was made or a chunk of a prompt run; at first
    infinite. prefill_rate: prompt tokens a second, a moving average; None before the first. kv_usage: share of the
    slots' positions that hold a token. prefix_queries, prefix_hits: prompt tokens looked up and found. prefix_bytes:
    kept for prompts to come. drafted, accepted: tokens of the speculation. wait_s: what a request that comes now would
    wait for its prefill to begin, estimated.

    More of the prefix cache: prefix_lookups: prompts looked up. prefix_entries: kept. prefix_evicted,
    prefix_evicted_bytes: entries that the budget took. prefix_saved_s: found tokens, those from the disk among them,
    divided by the prefill rate of that moment. prefix_disk_*: of its files: tokens looked up there and found, entries,
    bytes, entries written, and lost (too many waited, the disk refused, a file was damaged), seconds spent on reading.
    """

    running: int
    waiting: int
    free_slots: int
    prompt_tokens: int
    completion_tokens: int
    seconds_since_progress: float
    prefill_rate: float | None
    kv_usage: float
    prefix_queries: int
    prefix_hits: int
    prefix_bytes: int
    drafted: int
    accepted: int
    wait_s: float
    prefix_lookups: int = 0
    prefix_entries: int = 0
    prefix_evicted: int = 0
    prefix_evicted_bytes: int = 0
    prefix_saved_s: float = 0.0
    prefix_disk_queries: int = 0
    prefix_disk_hits: int = 0
    prefix_disk_entries: int = 0
    prefix_disk_bytes: int = 0
    prefix_disk_written: int = 0
    prefix_disk_lost: int = 0
    prefix_disk_read_s: float = 0.0
