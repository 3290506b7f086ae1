"""The door: which port and address a server listens on, and who may come in."""

import base64
import ipaddress
import os
import re
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from shotstream_lite.errors import StoryError, reason

PORTS = range(7860, 7960)
MAX_BODY = 2_000_000  # bytes of a request
STARTED = "/gradio_api/startup-events"  # asked by Gradio itself, without a password
SERVED = re.compile(
    rf"/|/studio(/.*)?|/config/?|/theme\.css|/favicon\.ico|/(assets|static)/.+|/gradio_api/heartbeat/\w+|{STARTED}"
)


class TooLong(StoryError):
    """A request of more bytes than are taken."""


def listen(host: str, port: int | None) -> socket.socket:
    """An open port. Raises StoryError."""
    if port is not None and not 1 <= port <= 65535:
        raise StoryError(f"--port is {port}: write a number from 1 to 65535, or leave it out")
    family, address = _address(host)
    problem: OSError | None = None
    for number in PORTS if port is None else [port]:
        listener = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, number))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            problem = error
    raise StoryError(f"the page cannot be opened on {host} ({reason(problem)}): choose another --port or --host")


def _address(host: str, patience: float = 5.0) -> tuple[int, str]:
    """The address of a name; a name that nobody knows may take the system a minute to say so."""
    found: list[Any] = []

    def look() -> None:
        with suppress(OSError, UnicodeError):
            found.extend(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(patience)
    if not found:
        raise StoryError(f"--host {host!r} is no address of this machine: write 127.0.0.1, or 0.0.0.0 for everybody")
    return found[0][0], found[0][4][0]


def guarded(
    app: Any, hosts: Sequence[str], auth: tuple[str, str] | None, served: re.Pattern[str] = SERVED
) -> Callable[..., Awaitable[None]]:
    """Lets in who calls the page by a name of its own, from its own page, with the password, for what it needs.

    Args:
        hosts: names it may be called by, besides addresses and localhost; "*" allows all.
        auth: (name, password) that everybody must give.
        served: the paths that are answered; by default the page's, and of Gradio's own those that it needs.
    """
    from starlette.datastructures import Headers
    from starlette.responses import PlainTextResponse
    from starlette.websockets import WebSocketClose

    known = {"localhost", socket.gethostname().lower(), *(host.lower() for host in hosts)}
    expected = base64.b64encode(":".join(auth).encode()) if auth else None
    asks = {"www-authenticate": 'Basic realm="shotstream studio", charset="UTF-8"'}

    def refusal(path: str, headers: Headers) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host_name(host)
        if "*" not in known:
            if name not in known and not is_address(name):
                return 403, f"This page does not answer to {name[:80]!r}: start it with --hosts {name[:80]}"
            if origin is not None and origin.split("://")[-1] != host:
                return 403, "This page answers to itself only."
        if expected and path != STARTED and not _has_password(headers.get("authorization", ""), expected):
            return 401, "This page wants a name and a password."
        return None if served.fullmatch(path) else (404, "Not found")

    async def guard(scope: dict, receive: Callable, send: Callable) -> None:
        refused = scope["type"] in ("http", "websocket") and refusal(scope["path"], Headers(scope=scope))
        if not refused:
            return await app(scope, receive, send)
        status, text = refused
        if scope["type"] == "websocket":
            return await WebSocketClose(1008, text[:120])(scope, receive, send)
        return await PlainTextResponse(text, status, asks if status == 401 else None)(scope, receive, send)

    return guard


def limited(app: Any) -> Callable[..., Awaitable[None]]:
    """Refuses requests of more bytes: reading them raises TooLong."""

    async def answer(scope: dict, receive: Callable, send: Callable) -> None:
        size = 0

        async def counted() -> dict:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise TooLong(f"a request has at most {MAX_BODY} bytes")
            return message

        await app(scope, counted if scope["type"] == "http" else receive, send)

    return answer


def host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[1 : host.find("]")] if host.startswith("[") else host.rsplit(":", 1)[0].lower()


def is_address(name: str) -> bool:
    """A number, which nobody can make point elsewhere."""
    with suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False


def _has_password(header: str, expected: bytes) -> bool:
    kind, _, given = header.partition(" ")
    return kind.lower() == "basic" and secrets.compare_digest(given.encode(), expected)


def name_and_password(auth: str | tuple[str, str] | None) -> tuple[str, str] | None:
    """What --auth says. Raises StoryError."""
    if auth is None:
        return None
    name, _, password = auth.partition(":") if isinstance(auth, str) else (auth[0], ":", auth[1])
    if not name or not password:
        raise StoryError("--auth is no NAME:PASSWORD: write both, with a colon between them")
    return name, password
