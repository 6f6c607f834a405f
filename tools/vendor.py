"""Fetch the page's libraries again: python tools/vendor.py

headrace/page/vendor/packages.json names each package, its version, its licence, the integrity of its archive
and the files that are taken from it. To renew one, change its version there and run this with
`--accept`, which writes the new integrity and hashes; look at the difference before you commit it. Needs npm.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "headrace" / "page" / "vendor"
TABLE = FOLDER / "packages.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--accept", action="store_true", help="write the hashes of what was fetched")
    is_accepted = parser.parse_args().accept
    packages = json.loads(TABLE.read_text(encoding="utf-8"))
    licences = []
    for package in packages:
        with tempfile.TemporaryDirectory() as folder:
            archive = fetch(package, Path(folder))
            check(package, "integrity", integrity_of(archive), is_accepted)
            licences.append(take(package, archive, is_accepted))
        print(f"{package['name']} {package['version']}")
    (FOLDER / "LICENSES.txt").write_text("\n\n".join(licences), encoding="utf-8")
    if is_accepted:
        TABLE.write_text(json.dumps(packages, indent=2) + "\n", encoding="utf-8")
    return 0


def fetch(package: dict[str, Any], folder: Path) -> Path:
    """The package's archive, from the registry that npm is configured with."""
    reference = f"{package['name']}@{package['version']}"
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), reference]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    return archive


def integrity_of(archive: Path) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()


def take(package: dict[str, Any], archive: Path, is_accepted: bool) -> str:
    """Write the package's files to the folder; return its licence."""
    with tarfile.open(archive) as files:
        for file in package["files"]:
            member = files.extractfile(f"package/{file['from']}")
            assert member is not None, file
            data = member.read()
            check(file, "sha256", hashlib.sha256(data).hexdigest(), is_accepted)
            (FOLDER / file["name"]).write_bytes(data)
        names = [name for name in files.getnames() if name.lower().startswith("package/license")]
        licence = files.extractfile(names[0])
        assert licence is not None
        return f"{package['name']} {package['version']}\n\n{licence.read().decode()}"


def check(entry: dict[str, Any], name: str, value: str, is_accepted: bool) -> None:
    if entry.get(name) != value and not is_accepted:
        raise SystemExit(f"{entry}: {name} is {value}; if that is right, run again with --accept")
    entry[name] = value


if __name__ == "__main__":
    sys.exit(main())
