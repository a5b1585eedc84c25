"""What it adds to a request that its shared store is stopped (`paused`) or gone (`lost`).

Both are held against `fresh`, which asks the same kind of questions of the same users directly before, with the store well:
none was asked before, so that neither the cache nor the engine's prefixes help. Not covered: drift between the phases.
"""

from tradewind.load.outcomes import Phases, waits
from tradewind.load.resampling import added
from tradewind.load.results import QUANTILES
from tradewind.tracking import Measurement

WELL, OUT = "fresh", ("paused", "lost")
SHARES = ("p50", "p95")


def outage(phases: Phases, seed: int) -> list[Measurement]:
    """A request that was refused or failed took for ever."""
    well = waits(phases[WELL][1]) if WELL in phases else []
    found = []
    for name in OUT:
        ours = waits(phases[name][1]) if name in phases else []
        for share in SHARES if well and ours else ():
            value, interval = added([1000 * one for one in ours], [1000 * one for one in well], QUANTILES[share], seed)
            formula = (
                f"{share} E2E of all requests of phase `{name}` - that of phase `{WELL}`; requests drawn anew, apart"
            )
            found.append(Measurement(f"{name}/added_{share}_ms", value, "ms", len(ours), interval, formula, seed))
    return found
