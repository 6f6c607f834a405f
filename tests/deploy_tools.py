"""Runs other tools on the files under deploy/ (`make test-deploy`): hadolint on the Containerfile, the
schemas of Kubernetes on the manifests, systemd-analyze, where there is one, on the unit.

    python tests/deploy_tools.py FOLDER     FOLDER: of the tools' programs
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DEPLOY = Path(__file__).parents[1] / "deploy"
KUBERNETES = "1.34"  # the version whose schemas are used
MOST_EXPOSED = "3.0"  # of 10, by systemd-analyze
RESOURCES = ("configuration.yaml", "gateway.yaml", "engine.yaml")  # Kubernetes' own, not its operators'


def main(tools: Path) -> int:
    images = [str(DEPLOY / folder / "Containerfile") for folder in ("container", "ray")]
    container = [str(tools / "hadolint"), *images]
    manifests = [str(DEPLOY / "kubernetes" / name) for name in RESOURCES]
    with tempfile.TemporaryDirectory() as folder:
        schemas = [str(tools / "kubernetes-validate"), "--strict", "-k", KUBERNETES]
        valid = _passes("kubernetes-validate", [*schemas, *manifests, *_pods(Path(folder))])
    passed = [_passes("hadolint", container), valid, _unit_is_well()]
    return 0 if all(passed) else 1


def _pods(folder: Path) -> list[str]:
    """The pod templates of the RayService, each in a PodTemplate, for which Kubernetes has a schema."""
    import yaml  # of the tools' environment

    cluster = yaml.safe_load((DEPLOY / "kubernetes" / "rayservice.yaml").read_text())["spec"][
        "rayClusterConfig"
    ]
    files = []
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        name = group["template"]["spec"]["containers"][0]["name"]
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}}
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**pod, "template": group["template"]}))
        files.append(str(file))
    return files


def _passes(name: str, command: list[str]) -> bool:
    done = subprocess.run(command, capture_output=True, text=True)
    print(f"{'ok' if done.returncode == 0 else 'FAILED'} {name}\n{done.stdout}{done.stderr}".rstrip())
    return done.returncode == 0


def _unit_is_well() -> bool:
    if shutil.which("systemd-analyze") is None:
        print("systemd-analyze: NOT RUN, because there is none")
        return True
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder, "headrace.service")
        text = (DEPLOY / "systemd" / "headrace.service").read_text()
        unit.write_text(
            text.replace("/opt/headrace/bin/headrace", sys.executable)
        )  # the program has to exist
        exposed = ["security", "--offline=true", f"--threshold={MOST_EXPOSED.replace('.', '')}", str(unit)]
        return all(
            _passes(f"systemd-analyze {words[0]}", ["systemd-analyze", *words])
            for words in (["verify", str(unit)], exposed)
        )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
