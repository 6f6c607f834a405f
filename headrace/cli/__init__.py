"""The command line: makes a configuration of the arguments and calls the function of the command. It loads no
engine library by itself.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import platform
import signal
import sys
from collections.abc import Callable
from importlib import metadata
from pkgutil import resolve_name

from headrace import __version__, config
from headrace.cli.arguments import flags, parsed
from headrace.errors import HeadraceError
from headrace.logs import one_line

FAILED = 2  # the exit code of every failed start: bad arguments, configuration, model or port

Command = Callable[[argparse.Namespace, config.Loaded], int]  # returns the exit code


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error does
    arguments = parsed(argv)
    try:
        loaded = config.load(flags=flags(arguments), environment=os.environ, file=arguments.config)
        command: Command = resolve_name(f"headrace.cli{arguments.run}")  # loads only that command's libraries
        return command(arguments, loaded)
    except HeadraceError as exc:
        print(f"headrace: {one_line(exc.message)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `headrace list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UnicodeEncodeError:
        print("headrace: an argument is no UTF-8", file=sys.stderr)
        return FAILED
    except OSError as exc:  # a full disk, a folder that may not be written
        print(f"headrace: {one_line(str(exc))}", file=sys.stderr)
        return FAILED


def run_server(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    """Prepare this process for an engine, before its libraries are loaded, and serve."""
    gc.set_threshold(100_000)  # imports create no garbage; looking for it takes 0.1 s
    # NumPy's products are small here. Their threads would wait for the engine's, which are busy on all cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if loaded.config.server.workers > 1:
        # a SIGHUP would end this process; it waits until they can be replaced
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from headrace.cli.serve import serve

    def reload() -> config.Config:
        return config.load(flags=flags(arguments), environment=os.environ, file=arguments.config).config

    return serve(loaded.config, host_hint=loaded.host_hint, reload=reload)


def version(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    runtime = f"Python {platform.python_version()}, OpenVINO {metadata.version('openvino')}"
    print(f"headrace {__version__} ({runtime})")
    return 0
