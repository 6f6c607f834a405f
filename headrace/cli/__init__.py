"""The command line: makes a configuration of the arguments and calls the function of the command. It loads no
engine library by itself.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import signal
import sys
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING

from headrace import __version__, config
from headrace.cli.arguments import flags, parsed
from headrace.errors import HeadraceError
from headrace.logs import one_line

if TYPE_CHECKING:
    from headrace.cli.chat import Wishes
    from headrace.cli.connection import Address

FAILED = 2  # the exit code of every failed start: bad arguments, configuration, model or port

Command = Callable[[argparse.Namespace, config.Loaded], int]


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = parsed(argv)
    command = RUN[arguments.run]
    try:
        loaded = config.load(flags=flags(arguments), environment=os.environ, file=arguments.config)
        return command(arguments, loaded)
    except HeadraceError as exc:
        print(f"headrace: {one_line(exc.message)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `headrace list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as exc:  # a full disk, a folder that may not be written
        print(f"headrace: {one_line(str(exc))}", file=sys.stderr)
        return FAILED


def _serve(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    gc.set_threshold(100_000)  # imports create no garbage; looking for it takes 0.1 s
    # NumPy's products are small here. Their threads would wait for the engine's, which are busy on all cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if (
        loaded.config.server.workers > 1
    ):  # a SIGHUP would end this process; it waits until they can be replaced
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from headrace.cli.serve import serve

    def reload() -> config.Config:
        return config.load(flags=flags(arguments), environment=os.environ, file=arguments.config).config

    return serve(loaded.config, host_hint=loaded.host_hint, reload=reload)


def _pull(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.models import pull

    return pull(arguments.reference, loaded.config)


def _list(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.models import list_available, list_models

    return list_available(loaded.config) if arguments.available else list_models(loaded.config)


def _run(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.chat import run

    wishes = _wishes(arguments, " ".join(arguments.prompt))
    return run(loaded.config, wishes, config_file=arguments.config)


def _show(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.models import show

    return show(arguments.model, loaded.config)


def _ps(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.running import ps

    return ps(_address(arguments).connection(loaded.config))


def _move(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.running import move

    return move(_address(arguments).connection(loaded.config), arguments.step, arguments.model)


def _remove(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.models import remove

    return remove(arguments.name, loaded.config)


def _chat(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.chat import chat

    return chat(loaded.config, _wishes(arguments), config_file=arguments.config)


def _wishes(arguments: argparse.Namespace, question: str = "") -> Wishes:
    from headrace.cli.chat import Wishes

    return Wishes(
        _address(arguments),
        arguments.model,
        arguments.system,
        arguments.conversation,
        is_verbose=arguments.verbose,
        is_plain=arguments.plain,
        question=question,
    )


def _address(arguments: argparse.Namespace) -> Address:
    from headrace.cli.connection import Address

    return Address(arguments.url, arguments.key)


def _check_config(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.check import check_config

    return check_config(loaded, online=arguments.online)


def _db(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli import db

    step: str = arguments.step
    if step == "export":
        return db.export(loaded.config, arguments.target)
    if step == "import":
        return db.import_(loaded.config, arguments.source)
    run = {"verify": db.verify, "migrate": db.migrate, "prune": db.prune}[step]
    return run(loaded.config)


def _keys(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli import keys

    if arguments.step == "create":
        return keys.create(loaded.config, arguments)
    if arguments.step == "list":
        return keys.list_keys(loaded.config)
    run = {"rotate": keys.rotate, "revoke": keys.revoke}[arguments.step]
    return run(loaded.config, arguments.id)


def _usage(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.keys import usage

    return usage(loaded.config, days=arguments.days, key=arguments.key, as_json=arguments.json)


def _top(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.top import top

    every_s = max(0.2, arguments.every)
    return top(_address(arguments).connection(loaded.config), every_s=every_s, is_once=arguments.once)


def _steer(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli import steer

    steps = {"train-vector": steer.train_vector, "train-sae": steer.train_sae, "features": steer.features}
    return steps[arguments.step](arguments, loaded.config)


def _version(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    runtime = f"Python {platform.python_version()}, OpenVINO {metadata.version('openvino')}"
    print(f"headrace {__version__} ({runtime})")
    return 0


RUN: dict[str, Command] = {
    "serve": _serve,
    "pull": _pull,
    "list": _list,
    "run": _run,
    "show": _show,
    "ps": _ps,
    "move": _move,
    "remove": _remove,
    "chat": _chat,
    "check_config": _check_config,
    "db": _db,
    "keys": _keys,
    "usage": _usage,
    "top": _top,
    "steer": _steer,
    "version": _version,
}
