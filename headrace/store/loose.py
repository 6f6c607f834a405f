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
    rows = [{"head": head, "since": since} for head in {*heads} - {None}]
    if rows:
        c.execute(insert_new(loose, c.dialect.name), rows)
