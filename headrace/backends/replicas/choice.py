"""Chooses replicas by rendezvous hashing with bounded load: requests of one affinity prefer the same replica,
as long as it has no more than 1.25 times its share of the requests. If it has, they move to another one,
which they prefer from then on: it has read all of the conversation, and the first one only its beginning.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence

from headrace.backends.replicas.replica import Replica

BOUND = 1.25
MAX_MOVED = 16_384


class Moves:
    """Remembers where the last request of an affinity went, if the replica that it prefers by its hash was
    too busy. The affinities that were used longest ago are forgotten.
    """

    def __init__(self) -> None:
        self._moved: OrderedDict[bytes, str] = OrderedDict()

    def ordered(self, replicas: Sequence[Replica], affinity: bytes) -> list[Replica]:
        """See `ordered`."""
        return ordered(replicas, affinity, self._moved.get(affinity))

    def went(self, replicas: Sequence[Replica], affinity: bytes, replica: Replica) -> None:
        """Record which replica answers. One that was away gets its conversations back."""
        preferred = _by_weight(replicas, affinity)[0]
        self._moved.pop(affinity, None)
        if replica is not preferred and preferred.is_available:
            self._moved[affinity] = replica.name
            if len(self._moved) > MAX_MOVED:
                self._moved.popitem(last=False)


def ordered(replicas: Sequence[Replica], affinity: bytes, last: str | None = None) -> list[Replica]:
    """The replicas that get requests now, the preferred one first; each of the others follows if those before
    it fail. When one joins or leaves, only the requests that prefer it move. `last`: the name of the replica
    that comes before the one with the largest weight.
    """
    available = [replica for replica in replicas if replica.is_available]
    if len(available) < 2:
        return available
    available = _by_weight(available, affinity)
    available.sort(key=lambda replica: replica.name != last)  # stable
    num_pending = 1 + sum(replica.num_pending for replica in available)
    bound = math.ceil(BOUND * num_pending / len(available))
    fits = [replica for replica in available if replica.num_pending < bound and not replica.is_full]
    others = [replica for replica in available if replica not in fits]
    return [*fits, *sorted(others, key=lambda replica: (replica.is_full, replica.num_pending))]


def _by_weight(replicas: Sequence[Replica], affinity: bytes) -> list[Replica]:
    return sorted(replicas, key=lambda replica: _weight(affinity, replica.name), reverse=True)


def _weight(affinity: bytes, name: str) -> bytes:
    return hashlib.blake2b(name.encode() + b"\0" + affinity, digest_size=8).digest()
