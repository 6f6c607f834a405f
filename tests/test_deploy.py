"""The files under deploy/: what they say of Headrace is so. `make test-deploy` runs other tools on them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.config import Config, load, options
from headrace.models.catalog import DEFAULT_MODEL
from tests.rayservice import RayService

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
VARIABLES = {variable for option in options() for variable in option.variables}
FLAGS = {option.flag for option in options()} | {"--config"}
SECRETS = {
    "database_url": "postgresql://headrace:x@postgres/headrace",
    "database-url": "postgresql://headrace:x@postgres/headrace",
    "redis_url": "redis://valkey:6379/0",
    "redis-url": "redis://valkey:6379/0",
}
IS_SECRET = re.compile(r"file:(/[\w./-]+)")


def documents(path: str) -> list[dict[str, Any]]:
    return [part for part in yaml.safe_load_all((DEPLOY / path).read_text()) if part]


KUBERNETES = [
    part for name in ("configuration", "gateway", "engine") for part in documents(f"kubernetes/{name}.yaml")
]


def of_kind(kind: str, name: str) -> dict[str, Any]:
    return next(part for part in KUBERNETES if (part["kind"], part["metadata"]["name"]) == (kind, name))


def configurations() -> Iterator[tuple[str, str]]:
    for path in ("compose/headrace.toml", "systemd/headrace.toml"):
        yield path, (DEPLOY / path).read_text()
    for name in ("headrace-gateway", "headrace-engine"):
        yield f"kubernetes {name}", of_kind("ConfigMap", name)["data"]["headrace.toml"]


def read(text: str, folder: Path) -> Config:
    """The configuration, with its secrets in a folder of ours."""
    for path in IS_SECRET.findall(text):
        secret = folder / path.lstrip("/")
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_text(SECRETS.get(secret.name, "a-key"))
    file = folder / "headrace.toml"
    file.write_text(IS_SECRET.sub(lambda found: f"file:{folder}{found[1]}", text))
    return load(flags={}, environment={}, file=file).config


@pytest.mark.parametrize(
    "text", [text for _, text in configurations()], ids=[name for name, _ in configurations()]
)
def test_the_configurations_are_valid(tmp_path: Path, text: str) -> None:
    config = read(text, tmp_path)
    assert config.server.host == "0.0.0.0"
    assert config.server.needs_key


def commands() -> Iterator[list[str]]:
    """What runs Headrace, as words after its name."""
    yield documents("compose/compose.yaml")[0]["services"]["headrace"]["command"]
    for kind, name in (("Deployment", "headrace-gateway"), ("StatefulSet", "headrace-engine")):
        yield container(kind, name)["args"]
    yield shlex.split(unit()["Service"]["ExecStart"])[1:]


def container(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = of_kind(kind, name)["spec"]["template"]["spec"]["containers"][0]
    return found


def unit() -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "systemd" / "headrace.service")
    return parser


def containerfile() -> list[list[str]]:
    """Instructions and their rest, of lines that are joined."""
    text = (DEPLOY / "container" / "Containerfile").read_text().replace("\\\n", " ")
    return [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and line[0] != "#"]


def test_the_commands_are_those_of_the_program() -> None:
    found = list(commands())
    assert len(found) == 4
    for command, *words in found:
        assert command == "serve"
        assert {word for word in words if word.startswith("--")} <= FLAGS


def test_the_variables_are_options() -> None:
    named = {
        name
        for path in DEPLOY.rglob("*")
        if path.is_file()
        for name in re.findall(r"\bHEADRACE_[A-Z_]+\b", path.read_text())
    }
    assert {"HEADRACE_HOST", "HEADRACE_DATA", "HEADRACE_CACHE"} <= named
    assert named - VARIABLES == {"HEADRACE_"} & named


@pytest.mark.parametrize(
    ("kind", "name"), [("Deployment", "headrace-gateway"), ("StatefulSet", "headrace-engine")]
)
def test_a_pod_has_time_to_drain_and_writes_to_its_volumes_only(tmp_path: Path, kind: str, name: str) -> None:
    config = read(of_kind("ConfigMap", name)["data"]["headrace.toml"], tmp_path)
    pod, inside = of_kind(kind, name)["spec"]["template"]["spec"], container(kind, name)
    pause_s = int(inside["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= config.server.drain_seconds + pause_s + 10
    assert pod["enableServiceLinks"] is False  # else HEADRACE_ENGINE_SERVICE_HOST stops the start
    assert pod["securityContext"]["runAsNonRoot"]
    assert inside["securityContext"]["readOnlyRootFilesystem"]
    assert {probe["httpGet"]["path"] for key, probe in inside.items() if key.endswith("Probe")} == {
        "/health",
        "/ready",
    }
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {
        claim["metadata"]["name"] for claim in of_kind(kind, name)["spec"].get("volumeClaimTemplates", ())
    }
    assert {mount["name"] for mount in inside["volumeMounts"]} == volumes
    budget = of_kind("PodDisruptionBudget", name)["spec"]["selector"]
    assert budget == of_kind(kind, name)["spec"]["selector"]


def test_the_gateways_reach_the_engines(tmp_path: Path) -> None:
    gateway = read(of_kind("ConfigMap", "headrace-gateway")["data"]["headrace.toml"], tmp_path)
    engine = read(of_kind("ConfigMap", "headrace-engine")["data"]["headrace.toml"], tmp_path)
    service, pods = of_kind("Service", "headrace-engine"), of_kind("StatefulSet", "headrace-engine")["spec"]
    assert service["spec"]["clusterIP"] == "None", "else pods have no names, and conversations no home"
    assert pods["serviceName"] == service["metadata"]["name"]
    port = service["spec"]["ports"][0]["port"]
    assert list(gateway.providers["engine"].replicas) == [
        f"http://headrace-engine-{number}.headrace-engine:{port}/v1" for number in range(pods["replicas"])
    ]
    assert gateway.providers["engine"].api_key in engine.server.api_keys
    assert engine.models.default == DEFAULT_MODEL
    secret = of_kind("Secret", "headrace")["stringData"]
    used = {
        path.rpartition("/")[2]
        for _, text in configurations()
        for path in IS_SECRET.findall(text)
        if "/etc/" in path
    }
    assert used == set(secret)


def test_the_ray_service_has_what_kuberay_knows_and_time_to_drain() -> None:
    (document,) = documents("kubernetes/rayservice.yaml")
    cluster = RayService.model_validate(document).spec.rayClusterConfig
    (workers,) = cluster.workerGroupSpecs
    (app,) = yaml.safe_load(document["spec"]["serveConfigV2"])["applications"]
    (deployment,) = app["deployments"]
    assert app["import_path"] == "headrace_ray:app"
    assert f"class {deployment['name']}:" in (DEPLOY / "ray" / "headrace_ray.py").read_text()
    scaling, pod = deployment["autoscaling_config"], workers.template["spec"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (workers.minReplicas, workers.maxReplicas)
    assert pod["terminationGracePeriodSeconds"] > deployment["graceful_shutdown_timeout_s"] + 10
    for template in (cluster.headGroupSpec.template, workers.template):
        assert template["spec"]["enableServiceLinks"] is False
    (inside,) = pod["containers"]
    assert deployment["ray_actor_options"]["num_cpus"] <= int(inside["resources"]["requests"]["cpu"])
    secrets = {one["valueFrom"]["secretKeyRef"]["key"] for one in inside["env"] if "valueFrom" in one}
    assert secrets <= set(of_kind("Secret", "headrace")["stringData"])
    image = (DEPLOY / "ray" / "Containerfile").read_text()
    assert f"rayproject/ray:{cluster.rayVersion}-" in image
    assert f'"ray[serve]=={cluster.rayVersion}"' in (ROOT / "Makefile").read_text()


def test_the_unit_has_time_to_drain() -> None:
    service = unit()["Service"]
    assert int(service["TimeoutStopSec"]) > Config().server.drain_seconds
    assert service["DynamicUser"] == "yes"
    credential, _, _ = service["LoadCredential"].partition(":")
    assert f"/run/credentials/headrace.service/{credential}" in (DEPLOY / "systemd/headrace.toml").read_text()


def test_compose_has_the_files_that_it_mounts(tmp_path: Path) -> None:
    services = documents("compose/compose.yaml")[0]["services"]
    here = DEPLOY / "compose"
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    assert [path for path in mounted if path.startswith(".") and not (here / path).exists()] == []
    secrets = documents("compose/compose.yaml")[0]["secrets"]
    config = read((here / "headrace.toml").read_text(), tmp_path)
    named = {path.rpartition("/")[2] for path in IS_SECRET.findall((here / "headrace.toml").read_text())}
    assert named == set(services["headrace"]["secrets"])
    assert set(services["prometheus"]["secrets"]) | named | {"database_password"} == set(secrets)
    assert int(services["headrace"]["stop_grace_period"].rstrip("s")) > config.server.drain_seconds
    assert services["headrace"]["read_only"]
    scraped = documents("compose/prometheus.yml")[0]["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == ["headrace:8000"]


def test_the_image_runs_as_nobody_special() -> None:
    lines = containerfile()
    assert [name for name, _ in lines].count("FROM") == 2
    last = dict(lines)
    assert last["USER"] == "10001:10001"
    assert (last["ENTRYPOINT"], last["CMD"]) == ('["headrace"]', '["serve"]')
    copied = [
        word for name, rest in lines if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]
    ]
    assert [path for path in copied if not (ROOT / path).exists()] == []
    kept = {line.lstrip("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    assert set(copied) == kept
    assert "# test" in (ROOT / "constraints.txt").read_text().splitlines()
