"""Headrace under Ray Serve: replicas of the whole server, as many as the load needs.

    serve run headrace_ray:app        # in an environment with headrace and ray[serve]

It is configured as always (headrace.toml, HEADRACE_…). Each replica has a data folder of its own:
conversations and keys that outlive it need `store.url` with PostgreSQL, limits of keys `limits.redis_url`.
"""

import os
import tempfile

from fastapi import FastAPI
from ray import serve


def build() -> FastAPI:
    from headrace.app import create_app
    from headrace.assembly import build_served
    from headrace.cli.serve import fetched_models
    from headrace.config import load

    folder = tempfile.mkdtemp(prefix="headrace-")
    config = load(flags={"paths.data": folder}, environment=os.environ, file=None).config
    return create_app(config, build_served(config, fetched_models(config)))


AUTOSCALING = {"min_replicas": 2, "max_replicas": 8, "target_ongoing_requests": 8}


@serve.deployment(autoscaling_config=AUTOSCALING, max_ongoing_requests=64)
@serve.ingress(build)
class Headrace:
    pass


app = Headrace.bind()
