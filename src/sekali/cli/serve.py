"""`sekali serve`: the server, run by uvicorn in this process."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from typing import Annotated, Final

import typer

from sekali import __version__
from sekali.cli import options
from sekali.cli.terminal import fail, note, stdout, visible
from sekali.settings import Settings, unknown_variables

BACKLOG: Final = 2048
HEADER_BYTES_MAX: Final = 64 * 1024
"""Of a request line and its fields, where the parser written in Python is in use (h11)."""


def serve(
    host: Annotated[str, typer.Option(metavar="HOST", help="Where to listen; 0.0.0.0 is every address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="The port; 0 takes a free one.")] = 8080,
    db: options.Db = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, metavar="N", help="Threads that prepare events. [default: CONSUMER_WORKERS, else 2]"
        ),
    ] = None,
    keep_alive_s: Annotated[
        int, typer.Option("--keep-alive", min=1, metavar="S", help="How long a connection may idle.")
    ] = 75,
    is_access_logged: Annotated[bool, typer.Option("--access-log", help="Log each request on stdout.")] = False,
) -> None:
    """Serve a store.

    One process serves one store; a second one is refused. SIGTERM or
    Ctrl-C lets what is under way finish. Limits are set by environment
    variables (SEKALI_*).

    Exit status: 1 when the store or the port cannot be had.

    Examples:

    $ sekali serve --port 0 --db ./data/store.db

    $ sekali serve --host 0.0.0.0 --port 0
    """
    settings = options.settings(db, workers)
    for line in unknown_variables(os.environ):
        note(f"sekali: {line}")
    listener = _bind(host, port)
    with listener:
        _serve(settings, listener, host, keep_alive_s=keep_alive_s, is_access_logged=is_access_logged)


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket, before the store is touched. Ends the command when the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        fail(f"cannot listen on {host}: {error.strerror or error}")
    try:
        if os.name == "posix":
            # Not on Windows: there it would let two servers have the same port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening is left to the server: until it is ready, callers are refused and can tell.
    except OSError as error:
        listener.close()
        in_use = error.errno in (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", None))
        reason = "the port is in use; choose another with --port" if in_use else error.strerror
        fail(f"cannot listen on {_authority(host, port)}: {reason}")
    return listener


def _serve(
    settings: Settings, listener: socket.socket, host: str, *, keep_alive_s: int, is_access_logged: bool
) -> None:
    # Imported here: the other commands need neither the server nor the store.
    import uvicorn

    from sekali.http.app import create_app

    class AnnouncingServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                _announce(settings, host, listener.getsockname()[1])

    config = uvicorn.Config(
        create_app(settings),
        access_log=is_access_logged,
        log_level="info" if is_access_logged else "warning",
        backlog=BACKLOG,
        timeout_keep_alive=keep_alive_s,
        h11_max_incomplete_event_size=HEADER_BYTES_MAX,
        server_header=False,
    )
    try:
        AnnouncingServer(config).run(sockets=[listener])
    except KeyboardInterrupt:
        # The server has drained, and passes the signal on.
        raise typer.Exit(0) from None


def _announce(settings: Settings, host: str, port: int) -> None:
    console = stdout()
    console.print(f"sekali {__version__} serves http://{_authority(_reachable(host), port)}", style="bold")
    console.print(f"store  {visible(str(settings.db_file.absolute()))}")
    sys.stdout.flush()
    if not _is_loopback(host):
        note(
            f"warning: {host} is reachable from other machines, and this server has no keys yet: "
            "whoever reaches it can read and publish everything"
        )


def _reachable(host: str) -> str:
    """An address to open: nobody can connect to 'all addresses'."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
