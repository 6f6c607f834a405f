"""Downloads a file in a way that a killed process does not undo: what has arrived stays, and the next try
goes on from there.
"""

from __future__ import annotations

import hashlib
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from headrace.models.model import Progress

CHUNK = 1 << 20
TIMEOUT_S = 60.0  # of one read
PARTIAL, NOTHING_LEFT = 206, 416  # statuses


class NotFetched(Exception):
    """The file cannot be fetched in this way."""


def download(url: str, sha256: str, target: Path, progress: Progress) -> Path:
    """Fetch `url` into `target`, which exists only when it is complete and its hash is right; until then its
    name ends with `.part`. Raises NotFetched.
    """
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        _append(url, part, progress)
    except HTTPError as exc:
        if exc.code != NOTHING_LEFT:
            raise NotFetched(str(exc)) from exc
    except (OSError, HTTPException, ValueError) as exc:
        raise NotFetched(str(exc)) from exc
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        raise NotFetched(f"it has the SHA-256 {found}, expected {sha256}")
    return part.replace(target)


def _append(url: str, part: Path, progress: Progress) -> None:
    """Fetch what is missing. A server that does not know ranges sends everything."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        goes_on = have > 0 and response.status == PARTIAL
        start = have if goes_on else 0
        total = start + int(response.headers.get("Content-Length") or 0)
        with part.open("ab" if goes_on else "wb", buffering=0) as file:
            while chunk := response.read1(CHUNK):
                file.write(chunk)
                start += len(chunk)
                progress("downloading", start, total)
    if total and start < total:
        raise NotFetched(f"the connection ended after {start} of {total} bytes")
