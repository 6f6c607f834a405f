"""Compare what users install (the sections `serve` and `extras` of constraints.txt) with PyPI's list of
known vulnerabilities, by pip-audit: `python tools/audit.py PIP_AUDIT`. Exit code 1 if there are any. Where
PyPI cannot be reached, or a mirror has no such list, it says that nothing was compared, and exits with 0.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "constraints.txt"
LIMIT_S = 300


class Unreachable(Exception):
    """pip-audit got no answer."""


def main(program: str) -> int:
    pins = pinned(FILE.read_text(encoding="utf-8"))
    try:
        if "skip_reason" in audited(program, pins[:1])[0]:  # one question, before a hundred
            raise Unreachable("this index has no list of vulnerabilities")
        found = audited(program, pins)
    except Unreachable as exc:
        print(f"NOT AUDITED: {exc}")
        return 0
    skipped = [package["name"] for package in found if "skip_reason" in package]
    weak = [package for package in found if package.get("vulns")]
    for package in weak:
        for known in package["vulns"]:
            fixed = ", ".join(known["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {known['id']}, mended in {fixed}")
    print(f"{len(found) - len(skipped)} packages compared, {len(weak)} with known vulnerabilities")
    if skipped:
        print(f"not compared: {', '.join(skipped)}")
    return 1 if weak else 0


def pinned(text: str) -> list[str]:
    """`name==version` of each package of the first two sections."""
    return re.findall(r"^[A-Za-z0-9][\w.-]*==[^\s;]+", text.partition("\n# test\n")[0], re.MULTILINE)


def audited(program: str, pins: list[str]) -> list[dict[str, Any]]:
    """What pip-audit says of each package. Raises Unreachable."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins))
        file.flush()
        options = ["--disable-pip", "--no-deps", "--format", "json", "--progress-spinner", "off"]
        command = [program, *options, "--requirement", file.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
            found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, ValueError, KeyError) as exc:
            raise Unreachable("PyPI does not answer") from exc
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
