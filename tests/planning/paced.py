"""An engine whose parts take as long as the simulation's model says."""

import time

from tradewind.engine.mock import MockEngine
from tradewind.planning.simulation import ServiceTimes


class PacedEngine(MockEngine):
    """Sleeps, so that little of what else the machine does shows in its times."""

    def __init__(self, times: ServiceTimes, **options: int) -> None:
        super().__init__(**options)
        self.times = times

    def prefill(self, tokens, past=None, adapter=None, budget=None, keep_logits=False):
        before = 0 if past is None else past.length
        prefix = super().prefill(tokens, past, adapter, budget, keep_logits)
        time.sleep(self.times.call + (prefix.length - before) / self.times.prefill_rate)
        return prefix

    def step(self, feed):
        time.sleep(self.times.step + self.times.row * len(feed))
        return super().step(feed)
