"""Rate limits that the services of one store share.

Each service decides by buckets in its memory and tells the others, through the store, what it granted; what they
granted is taken out of its own buckets, which may go below zero. So a bucket is the same in all of them but for what
was granted since the last exchange, and that is paid back before anything more is granted: in any minute all services
together grant at most the limit, a burst, and a burst more for each further service.

While the database does not answer, each service limits by itself.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from service.errors import StoreError
from service.rate_limits import Allowance, RateLimits
from service.store import Store
from service.store.aside import aside, glance
from service.store.clock import elapsed
from service.store.taken import add_taken, taken

_REMEMBERED_S: Final = 60.0
_OVERLAP_S: Final = 5.0
"""By which reading goes back before the last exchange: a transaction may commit later than its rows say."""
_EVERYTHING_AFTER_S: Final = 600.0


class SharedRateLimits(RateLimits):
    """Buckets by who asks, which hear of what other services granted; see `RateLimits`.

    Args:
        name: of the limit.
        most: buckets that are kept.
        called: a pseudonym of who asks; the store keeps no address and no id of a key.
        clock: seconds that only grow.
    """

    def __init__(
        self, name: str, *, most: int, called: Callable[[str], str], clock: Callable[[], float] = elapsed
    ) -> None:
        super().__init__(name, most=most, clock=clock)
        self.prefix = f"{name}:"
        self._called = lru_cache(most)(lambda who: self.prefix + called(who))
        self._granted: Counter[str] = Counter()
        self._others: OrderedDict[str, list[tuple[float, int]]] = OrderedDict()

    def take(self, who: str, per_minute: int) -> Allowance:
        """Grant one request, or say how long to wait. A request that is not granted costs nothing."""
        return super().take(self._called(who), per_minute)

    def granted(self) -> Counter[str]:
        """What was granted since this was asked last."""
        with self._turn:
            granted, self._granted = self._granted, Counter()
        return granted

    def put_back(self, granted: Mapping[str, int]) -> None:
        """Count what could not be told to the others as not told."""
        with self._turn:
            self._granted.update({who: count for who, count in granted.items() if who.startswith(self.prefix)})

    def charge(self, granted: Mapping[str, int]) -> None:
        """Take out of the buckets what others granted since the last time."""
        with self._turn:
            moment = self._clock()
            for who, count in granted.items():
                if who.startswith(self.prefix):
                    events = [event for event in self._others.pop(who, []) if moment - event[0] < _REMEMBERED_S]
                    if events and int(events[-1][0]) == int(moment):  # one for each second, or there would be many
                        count += events.pop()[1]
                    self._others[who] = [*events, (moment, count)]
            while len(self._others) > self._most:
                self._others.popitem(last=False)

    def _tokens(self, who: str, size: int, rate: float, moment: float) -> float:
        """What is in a bucket now: filled and emptied in the order of what happened, and at most a minute in debt."""
        events = self._others.pop(who, [])
        tokens, since = self._buckets.get(who, (float(size), events[0][0] if events else moment))
        for at, count in (*events, (moment, 0)):
            tokens = max(min(size, tokens + (at - since) * rate) - count, -60 * rate)
            since = at
        return tokens

    def _grant(self, who: str) -> None:
        self._granted[who] += 1


class LimitExchange:
    """Tells other services of a store what was granted here, and hears what they granted.

    Args:
        store: which services share.
        limits: whose buckets.
        clock: seconds that only grow.
    """

    def __init__(
        self, store: Store, limits: Sequence[SharedRateLimits], *, clock: Callable[[], float] = elapsed
    ) -> None:
        self._store, self._limits, self._clock = store, limits, clock
        self._turn = threading.Lock()
        self._seen: dict[str, int] | None = None
        self._read_at = self._read_everything_at = clock()

    def exchange(self) -> None:
        """Tell and hear once. What cannot be told now is told the next time.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        with self._turn:
            moment = self._clock()
            everything = self._seen is None or moment - self._read_everything_at > _EVERYTHING_AFTER_S
            granted = [limit.granted() for limit in self._limits]
            told = {who: count for counter in granted for who, count in counter.items()}
            try:
                with aside(self._store) if told else glance(self._store) as session:
                    add_taken(session, told)
                    within_s = None if everything else moment - self._read_at + _OVERLAP_S
                    totals = taken(session, within_s=within_s)
            except (StoreError, SQLAlchemyError):
                for limit in self._limits:
                    limit.put_back(told)
                raise
            self._hear(totals, told)
            self._read_at = moment
            if everything:  # rows that are gone need not be remembered
                self._seen, self._read_everything_at = totals, moment

    def _hear(self, totals: Mapping[str, int], told: Mapping[str, int]) -> None:
        """Charge what is new and was not granted here; at the first time, what was granted before is not new."""
        if self._seen is None:
            return
        by_others = {}
        for who, total in totals.items():
            before, mine = self._seen.get(who, 0), told.get(who, 0)
            if total < before + mine:  # the row was dropped, and is another
                before = 0
            if total > before + mine:
                by_others[who] = total - before - mine
            self._seen[who] = total
        for limit in self._limits:
            limit.charge(by_others)
