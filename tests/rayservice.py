"""The members of KubeRay's RayService (ray.io/v1) that our file may have, by its Go types: there is no
cluster here that would check it. Pod templates are Kubernetes' own; deploy_tools.py validates those.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class HeadGroup(Strict):
    rayStartParams: dict[str, str]
    template: dict[str, Any]
    serviceType: str = "ClusterIP"


class WorkerGroup(Strict):
    groupName: str
    replicas: int = 0
    minReplicas: int
    maxReplicas: int
    numOfHosts: int = 1
    rayStartParams: dict[str, str]
    template: dict[str, Any]


class Cluster(Strict):
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] = []
    rayVersion: str = ""
    enableInTreeAutoscaling: bool = False
    autoscalerOptions: dict[str, Any] | None = None


class Spec(Strict):
    serveConfigV2: str
    rayClusterConfig: Cluster


class Metadata(Strict):
    name: str
    labels: dict[str, str] = {}


class RayService(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: Spec
