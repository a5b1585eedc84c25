"""Who starts next, by priority and by tenants' fair share: requests that wait for their prefill, or for a slot for one
more answer.

1. Of the priorities that have a waiting request, the smallest number goes first, but every eighth start goes to the
   priority of the request that has waited longest: none waits for ever.
2. Within a priority, the tenant that was served least goes first: the virtual token counter of Sheng et al., "Fairness
   in Serving Large Language Models" (OSDI 2024, algorithm 2). A tenant's counter grows by `PROMPT_COST` a prompt token
   run and `ANSWER_COST` a token sampled. One that joins the queue is lifted to the smallest counter there, so that
   nobody saves up idle time; so the counters of two tenants that both wait differ by a bounded amount, and no tenant
   starves.
3. Within a tenant, first come, first served.

Not thread-safe: the scheduler's lock guards it. Not covered: weights of tenants, taking back a slot once given.
"""

from collections import deque

from tradewind.engine.ticket import Ticket

PROMPT_COST, ANSWER_COST = 1, 2
"""The weights of the paper: a token sampled costs the engine more than one of a prompt."""
OLDEST_EVERY = 8
TENANTS = 4096
"""Counters after which those that say nothing any more are dropped."""


class FairQueue:
    def __init__(self) -> None:
        self._levels: dict[int, dict[str, deque[Ticket]]] = {}
        self._waiting: dict[str, int] = {}
        self._served: dict[str, float] = {}
        self._left = ""
        self._starts = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, ticket: Ticket) -> None:
        request = ticket.request
        if request.tenant not in self._waiting:
            self._lift(request.tenant)
        self._levels.setdefault(request.priority, {}).setdefault(request.tenant, deque()).append(ticket)
        self._tally(ticket, 1)

    def put_back(self, ticket: Ticket) -> None:
        """One that was taken and has more to start: the first of its tenant's, whose counter stays what it is."""
        request = ticket.request
        self._levels.setdefault(request.priority, {}).setdefault(request.tenant, deque()).appendleft(ticket)
        self._tally(ticket, 1)

    def take(self) -> Ticket:
        """The one that starts now. Raises ValueError where none waits."""
        self._starts += 1
        oldest = self._starts % OLDEST_EVERY == 0
        tenants = self._levels[min(self._levels, key=self._oldest) if oldest else min(self._levels)]
        ticket = tenants[min(tenants, key=lambda tenant: self._served[tenant])][0]
        self.remove(ticket)
        return ticket

    def remove(self, ticket: Ticket) -> None:
        """Does nothing where it does not wait."""
        priority, tenant = ticket.request.priority, ticket.request.tenant
        tenants = self._levels.get(priority, {})
        if ticket not in tenants.get(tenant, ()):
            return
        tenants[tenant].remove(ticket)
        self._tally(ticket, -1)
        if not tenants[tenant]:
            del tenants[tenant]
        if not tenants:
            del self._levels[priority]

    def ahead(self, tenant: str, priority: int, tokens: int) -> list[Ticket]:
        """Of those that wait, who is likely to start before a request that comes now with so many prompt tokens.

        Of its priority and smaller numbers: all of its tenant, and of each other tenant about as many tokens as its own
        has then, as the one that was served least goes first.
        """
        lines: dict[str, list[Ticket]] = {}
        for level in sorted(self._levels):
            for name, line in self._levels[level].items() if level <= priority else ():
                lines.setdefault(name, []).extend(line)
        before = lines.pop(tenant, [])
        share = tokens + sum(ticket.request.length for ticket in before)
        for others in lines.values():
            taken = 0
            for ticket in others:
                if taken >= share:
                    break
                before.append(ticket)
                taken += ticket.request.length
        return before

    def charge(self, tenant: str, cost: float) -> None:
        self._served[tenant] = self._served.get(tenant, 0.0) + cost

    def _oldest(self, level: int) -> float:
        return min(line[0].clock.accepted for line in self._levels[level].values())

    def _lift(self, tenant: str) -> None:
        """Lines 6 to 13 of the algorithm: where nobody waits, up to the one who waited last."""
        floor = min((self._served[one] for one in self._waiting), default=self._served.get(self._left, 0.0))
        if len(self._served) >= TENANTS:
            # Whoever is at or below the floor would be lifted to it: nothing is lost with the counter.
            kept = {*self._waiting, self._left}
            self._served = {one: cost for one, cost in self._served.items() if one in kept or cost > floor}
        self._served[tenant] = max(self._served.get(tenant, 0.0), floor)

    def _tally(self, ticket: Ticket, sign: int) -> None:
        request = ticket.request
        self._count += sign
        count = self._waiting.get(request.tenant, 0) + sign
        if count:
            self._waiting[request.tenant] = count
        else:
            del self._waiting[request.tenant]
            self._left = request.tenant
