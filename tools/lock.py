"""Write constraints.txt: what `make` installs, each package at one version with the hashes of all its files,
so that the file holds on every platform and Python that Headrace supports.

    python tools/lock.py             keep what is pinned, add what is new, drop what is not needed any more
    python tools/lock.py --newest    pin the newest versions that fit

Run it with the oldest Python that is supported: newer ones can use what it can. The sections of the file
build on each other: `make serve` installs the first, the image (deploy/container) the first two, `make test`
the first three, `make test-torch` the first four, `make bench` all. A package that comes from a local folder
as a build of its own (torch's +cpu) is pinned by its public version, with that build for its platform. A
package that is needed only on some platforms has a marker.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pip._internal.commands.download import DownloadCommand
from pip._internal.index.collector import LinkCollector, parse_links
from pip._internal.models.link import Link

ROOT = Path(__file__).parents[1]
FILE = ROOT / "constraints.txt"
SECTIONS = {
    "serve": ("",),
    "extras": ("otel", "postgres", "redis", "top"),  # of a server among others: the image has them
    "test": ("test", "hub"),
    "torch": ("torch",),
    "bench": ("bench",),
}  # extras of pyproject.toml
BUILDS = ("setuptools",)  # what builds Headrace itself, without an environment of its own
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = (
    ("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("darwin", "x86_64"), ("win32", "AMD64"),
)  # fmt: skip
SYSTEMS = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}

Cell = tuple[str, str, str]  # sys_platform, platform_machine, python_version
CELLS: tuple[Cell, ...] = tuple((*machine, python) for machine, python in product(MACHINES, PYTHONS))


@dataclass(frozen=True, slots=True)
class Package:
    name: str  # as it is spelt where it is published
    version: str
    requires: tuple[Requirement, ...]
    local: Link | None = None  # the file of a build that no index has, with its hash


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--newest", action="store_true", help="pin the newest versions that fit")
    arguments = parser.parse_args()
    if f"{sys.version_info[0]}.{sys.version_info[1]}" != PYTHONS[0]:
        parser.error(f"run it with Python {PYTHONS[0]}, the oldest that is supported")
    known = [] if arguments.newest or not FILE.exists() else pins(FILE.read_text(encoding="utf-8"))
    extras = [extra for group in SECTIONS.values() for extra in group if extra]
    packages, wanted = resolved([f"{ROOT}[{','.join(extras)}]", *BUILDS], known)
    FILE.write_text("".join(written(packages, wanted)), encoding="utf-8")
    print(f"{FILE.name}: {len(packages) - 1} packages")
    return 0


def pins(text: str) -> list[str]:
    """`name==version` of each entry."""
    return re.findall(r"^[A-Za-z0-9][\w.-]*==[^\s;]+", text, re.MULTILINE)


def resolved(asked: Sequence[str], known: Sequence[str]) -> tuple[dict[str, Package], dict[str, set[Cell]]]:
    """Packages by name, those of other platforms too, and where each is needed."""
    others: list[str] = []
    while True:
        packages = _reported([*asked, *others], known)
        needed = {cell: _needed(packages, cell) for cell in CELLS}
        missing = {name for names in needed.values() for name in names if name not in packages}
        if not missing:
            where = {name: {cell for cell in CELLS if name in needed[cell]} for name in packages}
            return packages, where
        others += sorted(missing)


def _reported(asked: Sequence[str], known: Sequence[str]) -> dict[str, Package]:
    """What pip would install here, by canonical name."""
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder, "pinned.txt")
        pinned.write_text("\n".join(known), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
        command += ["--dry-run", "--ignore-installed", "--report", "-", "--constraint", str(pinned), *asked]
        report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    found = [_package(entry) for entry in report["install"]]
    return {canonicalize_name(package.name): package for package in found}


def _package(entry: dict[str, Any]) -> Package:
    """A build from a local folder (torch's 2.13.0+cpu) is pinned by its public version, so that other
    machines may take another build.
    """
    data = entry["metadata"]
    version, local, _ = data["version"].partition("+")
    origin = entry["download_info"]
    file = Link(f"{origin['url']}#sha256={origin['archive_info']['hashes']['sha256']}") if local else None
    return Package(data["name"], version, tuple(map(Requirement, data.get("requires_dist", ()))), file)


def _needed(packages: dict[str, Package], cell: Cell, extras: Iterable[str] | None = None) -> set[str]:
    """Names of all that Headrace needs there; `extras`: of these only, else of all sections."""
    wanted = [extra for group in SECTIONS.values() for extra in group] if extras is None else extras
    seen: set[tuple[str, str]] = set()
    waiting = [("headrace", extra) for extra in ("", *wanted)] + [(name, "") for name in BUILDS]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in packages[name].requires if name in packages else ():
            if requirement.marker is None or requirement.marker.evaluate(_environment(cell, extra)):
                below = canonicalize_name(requirement.name)
                waiting += [(below, ""), *((below, asked) for asked in requirement.extras)]
    return {name for name, _ in seen}


def _environment(cell: Cell, extra: str) -> dict[str, str]:
    platform, machine, python = cell
    return {
        "extra": extra,
        "implementation_name": "cpython",
        "os_name": "nt" if platform == "win32" else "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": SYSTEMS[platform],
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": platform,
    }


def written(packages: dict[str, Package], where: dict[str, set[Cell]]) -> Iterator[str]:
    yield "# Written by `make lock`. Each section builds on those before it; see CONTRIBUTING.md.\n"
    hashes = Hashes()
    done: set[str] = {"headrace"}
    extras: list[str] = []
    for section, group in SECTIONS.items():
        extras += group
        names = {name for cell in CELLS for name in _needed(packages, cell, extras)} - done
        done |= names
        yield f"\n# {section}\n"
        for name in sorted(names):
            package = packages[name]
            marker = _marker(where[name])
            entry = [f"{package.name}=={package.version}{marker and f' ; {marker}'}"]
            entry += [f"    --hash=sha256:{digest}" for digest in hashes.of(package)]
            yield " \\\n".join(entry) + "\n"


def _marker(cells: set[Cell]) -> str:
    """The marker for where it is needed; machines count as their platform."""
    platforms = sorted({cell[0] for cell in cells})
    pythons = sorted({cell[2] for cell in cells})
    parts = []
    if len(platforms) < len(SYSTEMS):
        parts.append(" or ".join(f'sys_platform == "{name}"' for name in platforms))
    if len(pythons) < len(PYTHONS):
        parts.append(" or ".join(f'python_version == "{version}"' for version in pythons))
    return f"({parts[0]}) and ({parts[1]})" if len(parts) == 2 else "".join(parts)


class Hashes:
    """Of files, as the indexes tell them that pip is configured to use."""

    def __init__(self) -> None:
        command = DownloadCommand("download", "")
        options, _ = command.parse_args([])
        session = command._build_session(options)
        self._collector = LinkCollector.create(session, options)

    def of(self, package: Package) -> list[str]:
        """Of all files of this version, on all platforms. Exits when no index has one with a hash."""
        name = canonicalize_name(package.name)
        links = [link for link in self._links(name) if _is_of(link, package)]
        if package.local:
            # pip prefers a file whose hash the index tells: leave no other one for the same platform.
            platform = _platform(package.local)
            links = [package.local, *(link for link in links if _platform(link) != platform)]
        found = {link.hash for link in links if link.hash}
        if not found:
            sys.exit(f"no index tells the hashes of {package.name} {package.version}")
        return sorted(found)

    def _links(self, name: str) -> Iterator[Link]:
        for location in self._collector.search_scope.get_index_urls_locations(name):
            link = Link(location if location.endswith("/") else location + "/")
            page = self._collector.fetch_response(link)
            if page is not None:
                yield from (found for found in parse_links(page) if found.hash_name == "sha256")


def _platform(link: Link) -> str:
    """The last part of a wheel's name, as manylinux_2_28_x86_64.whl."""
    return link.filename.rpartition("-")[2]


def _is_of(link: Link, package: Package) -> bool:
    """By the name of a file: NAME-VERSION-….whl, NAME-VERSION.tar.gz."""
    stem = re.sub(r"\.(whl|zip|tar\.(gz|bz2))$", "", link.filename)
    pattern = re.sub(r"[-_.]+", "[-_.]+", canonicalize_name(package.name))
    return re.fullmatch(rf"{pattern}-{re.escape(package.version)}(-.+)?", stem, re.IGNORECASE) is not None


if __name__ == "__main__":
    sys.exit(main())
