"""The models of this machine: which are in memory, and what it takes to get them there and out of there."""

from headrace.pool.entry import Entry, Known, State
from headrace.pool.pool import Pool

__all__ = ["Entry", "Known", "Pool", "State"]
