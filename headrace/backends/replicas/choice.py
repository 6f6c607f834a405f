"""Chooses replicas by rendezvous hashing with bounded load: requests of one affinity prefer the same replica,
as long as it has no more than 1.25 times its share of the requests.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from headrace.backends.replicas.replica import Replica

BOUND = 1.25


def ordered(replicas: Sequence[Replica], affinity: str) -> list[Replica]:
    """The replicas that get requests now, the preferred one first; each of the others follows if those before
    it fail. When one joins or leaves, only the requests that prefer it move.
    """
    available = [replica for replica in replicas if replica.is_available]
    if len(available) < 2:
        return available
    key = affinity.encode(errors="surrogatepass")
    available.sort(key=lambda replica: _weight(key, replica.name), reverse=True)
    num_pending = 1 + sum(replica.num_pending for replica in available)
    bound = math.ceil(BOUND * num_pending / len(available))
    fits = [replica for replica in available if replica.num_pending < bound and not replica.is_full]
    others = [replica for replica in available if replica not in fits]
    return [*fits, *sorted(others, key=lambda replica: (replica.is_full, replica.num_pending))]


def _weight(affinity: bytes, name: str) -> bytes:
    return hashlib.blake2b(name.encode() + b"\0" + affinity, digest_size=8).digest()
