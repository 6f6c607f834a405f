"""What nothing names any more. A head that is let go of keeps its path for a while, since a turn may have been
asked on it; then items that nothing names are collected, from the ends of paths towards their beginnings.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from sqlalchemy import Connection

from headrace.store.items import insert_new
from headrace.store.tables import loose


def let_go(c: Connection, heads: Iterable[str | None]) -> None:
    since = int(time.time())
    for head in {head for head in heads if head is not None}:
        c.execute(insert_new(c, loose, head=head, since=since))
