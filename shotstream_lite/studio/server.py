"""The page's server: who may come in, what a page may ask for, and how it is opened from a terminal or a notebook.

The page is a few static files and asks by JSON: `begin` opens a session, `poll` waits for messages, `act` does one
thing, `frames` and `film` fetch what is made. Gradio (`app.py`) shows it; of Gradio's own routes only those that its
page needs are answered.
"""

import asyncio
import base64
import binascii
import ipaddress
import json
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from shotstream_lite.errors import CheckpointError, ShotStreamError, StoryError, about, reason
from shotstream_lite.files import read_text
from shotstream_lite.models.placement import choose
from shotstream_lite.pipeline import WHOLE_SHOTS, ShotStreamPipeline
from shotstream_lite.rivals.telling import offer_rivals
from shotstream_lite.studio import messages, request
from shotstream_lite.studio.session import Session
from shotstream_lite.studio.worker import Worker

STATIC = Path(__file__).parent / "static"
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
PORTS = range(7860, 7960)
MAX_BODY = 2_000_000  # bytes of a request
MAX_SESSIONS = 64
KEEP = 600.0  # seconds a session lives without its page: a sleeping laptop finds its story again
SHORT = 30.0  # the same for a session that has told nothing, once the studio is full
HOLD = 15.0  # seconds a page's request waits for news
STARTED = "/gradio_api/startup-events"  # asked by Gradio itself, without a password
SERVED = re.compile(
    rf"/|/studio(/.*)?|/config/?|/theme\.css|/favicon\.ico|/(assets|static)/.+|/gradio_api/heartbeat/\w+|{STARTED}"
)
HEADERS = [
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class Sessions:
    """All sessions of one studio; a page knows its own by a token."""

    def __init__(self, pipelines: Sequence[ShotStreamPipeline], stories: Mapping[str, str] | None = None) -> None:
        self.workers = [Worker(pipeline) for pipeline in pipelines]
        self.stories = dict(stories or {})  # prepared ones, by name
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self) -> Session:
        """A new session on the device with the fewest. Raises StoryError when the studio is full."""
        self.sweep()
        with self._lock:
            if len(self._sessions) >= MAX_SESSIONS:
                raise StoryError(f"the studio is full: {MAX_SESSIONS} people are in it; try again in a few minutes")
            taken = [session.worker for session in self._sessions.values()]
            session = Session(min(self.workers, key=taken.count))
            self._sessions[session.token] = session
            return session

    def of(self, token: Any) -> Session | None:
        """The session of a token, which is alive as of now."""
        session = self._sessions.get(token) if isinstance(token, str) else None
        if session:
            session.heard = time.monotonic()
        return session

    def sweep(self) -> None:
        """Closes sessions whose page is gone."""
        now = time.monotonic()
        full = len(self._sessions) >= MAX_SESSIONS
        for session in list(self._sessions.values()):
            silent = now - session.heard
            if silent > KEEP or (full and silent > SHORT and not session.project.version.strips):
                self.end(session)

    def end(self, session: Session) -> None:
        """A session is over, and with it all it kept."""
        with self._lock:
            self._sessions.pop(session.token, None)
        session.close()

    def close(self) -> None:
        """Ends all work, and lets the models go."""
        for session in list(self._sessions.values()):
            self.end(session)
        for worker in self.workers:
            worker.close()


# What a page may ask for


def _seen(message: Mapping[str, Any]) -> tuple[int, int] | None:
    seen = message.get("seen")
    whole = (
        isinstance(seen, list) and len(seen) == 2 and all(type(value) is int and 0 <= value < 10**9 for value in seen)
    )
    return (seen[0], seen[1]) if whole else None


def _shoot(session: Session, message: dict) -> dict:
    pipeline = session.pipeline
    cut = session.shoot(
        message.get("story"),
        message.get("caption"),
        request.frames_of(message.get("seconds"), pipeline.settings),
        request.seed_of(message.get("seed")),
        request.switched(pipeline, message.get("switches")),
        _seen(message),
        message.get("before"),
    )
    return {"cut": cut}


def _board(session: Session, message: dict) -> None:
    pipeline = session.pipeline
    frames = request.frames_of(message.get("seconds"), pipeline.settings) or pipeline.settings.shot_frames
    switches = request.switched(pipeline, message.get("switches"))
    session.storyboard(message.get("story"), message.get("text"), frames, switches)


def _retake(session: Session, message: dict) -> None:
    pipeline, switches = session.pipeline, message.get("switches")
    session.retake(
        message.get("number"),
        message.get("caption"),
        request.seed_of(message.get("seed")),
        request.frames_of(message.get("seconds"), pipeline.settings),
        None if switches is None else request.switched(pipeline, switches),
    )


ACTIONS: dict[str, Callable[[Session, dict], Any]] = {
    "shoot": _shoot,
    "storyboard": _board,
    "turn": lambda session, message: {"from": session.turn(message.get("caption"), _seen(message))},
    "retake": _retake,
    "without": lambda session, message: session.without(message.get("number"), message.get("what")),
    "compare": lambda session, m: session.compare(m.get("number"), m.get("one"), m.get("other")),
    "remake": lambda session, message: session.remake(message.get("number")),
    "choose": lambda session, message: session.choose(message.get("number"), message.get("take")),
    "remove": lambda session, message: session.remove(message.get("number"), message.get("take")),
    "move": lambda session, message: session.move(message.get("number"), message.get("by")),
    "remember": lambda session, m: session.remember(m.get("story"), m.get("picture"), m.get("caption")),
    "forget": lambda session, message: session.forget(message.get("take")),
    "undo": lambda session, _: session.undo(),
    "branch": lambda session, _: session.branch(),
    "version": lambda session, message: session.show_version(message.get("number")),
    "close version": lambda session, _: session.close_version(),
    "new": lambda session, _: session.restart(),
    "load": lambda session, message: session.load(message.get("text"), message.get("name")),
    "cut": lambda session, message: session.cut(_seen(message)),
    "stop": lambda session, message: session.stop(_seen(message)),
    "go on": lambda session, _: session.go_on(),
    "unqueue": lambda session, message: session.unqueue(message.get("take")),
    "more": lambda session, message: session.more(_seen(message)),
    "save": lambda session, _: {"text": session.save()},
}


def act(sessions: Sessions, message: Any) -> dict[str, Any] | None:
    """Does what a message {"token", "n", "do", ...} asks for, once: a request that is sent again is answered again.

    Returns:
        {} or what was asked for; {"error": sentence} if it cannot be done; None if there is no such session.
    """
    session = sessions.of(message.get("token")) if isinstance(message, dict) else None
    if session is None:
        return None
    action = ACTIONS.get(message["do"]) if isinstance(message.get("do"), str) else None
    number = message.get("n")
    if action is None or type(number) is not int:
        return {"error": "the page asked for something unknown: reload it"}
    with session.requests:
        if number == session.answered[0]:
            return session.answered[1]
        try:
            if message["do"] == "load" and "prepared" in message:
                name = message["prepared"]
                if not isinstance(name, str) or name not in sessions.stories:
                    raise StoryError("there is no such prepared story")
                message |= {"text": sessions.stories[name], "name": name}
            answer = action(session, message)
        except ShotStreamError as error:
            answer = {"error": str(error)}
        session.answered = number, answer if isinstance(answer, dict) else {}
        return session.answered[1]


def model(sessions: Sessions) -> dict[str, Any]:
    """What a page has to know before it has a session."""
    pipeline = sessions.workers[0].pipeline
    settings, tokenizer = pipeline.settings, pipeline.text.tokenizer
    weights = pipeline.streaming_weights
    return {
        "name": pipeline.name,
        "height": settings.height,
        "width": settings.width,
        "fps": settings.fps,
        "usual": settings.shot_frames,
        "longest": request.longest(settings),
        "chunk": settings.chunk,
        "budget": settings.budget,
        "policy": settings.policy,
        "policies": [name for name in request.POLICIES if name != "none"],
        "steps": sorted({*request.STEPS, len(settings.steps)}),
        "usual_steps": len(settings.steps),
        "weights": weights if len(weights) > 1 else [],
        "usual_weights": pipeline.weights,
        "lessons": request.lessons(pipeline),
        "phrases": request.known_phrases(tokenizer),
        "examples": request.examples(tokenizer),
        "stories": sorted(sessions.stories),
        "facts": messages.facts(pipeline) | {"pages": len(sessions)},
    }


# The application


def application(sessions: Sessions) -> Any:
    """The page as a Starlette application."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    def static(name: str) -> Route:
        content, kind = (STATIC / name).read_bytes(), TYPES[name.rsplit(".", 1)[1]]

        async def answer(_: Request) -> Response:
            return Response(content, media_type=kind)

        return Route("/" if name == "page.html" else f"/{name}", answer)

    def api(name: str, work: Callable[[dict], Awaitable[Response]]) -> Route:
        async def answer(asked: Request) -> Response:
            size, body = 0, []
            async for part in asked.stream():
                size += len(part)
                if size > MAX_BODY:
                    return JSONResponse({"error": f"a request has at most {MAX_BODY} bytes"}, 413)
                body.append(part)
            try:
                message = json.loads(b"".join(body) or b"{}")
            except (ValueError, RecursionError):
                message = None
            if not isinstance(message, dict):
                return JSONResponse({"error": "the page asked for something unknown: reload it"}, 400)
            return await work(message)

        return Route(f"/api/{name}", answer, methods=["POST"])

    gone = {"error": "this session has ended", "gone": True}

    async def begin(_: dict) -> Response:
        try:
            session = await run_in_threadpool(sessions.open)
        except ShotStreamError as error:
            return JSONResponse({"error": str(error)}, 503)
        return JSONResponse({"token": session.token})

    async def poll(message: dict) -> Response:
        session = sessions.of(message.get("token"))
        if session is None:
            return JSONResponse(gone, 410)
        number = message.get("after")
        if type(number) is not int:
            number, session.page = 0, message.get("page")
            session.greet()
        elif session.page != message.get("page"):
            return JSONResponse({"error": "this story is open in another tab"}, 409)
        found = await session.outbox.wait(number, HOLD)
        sessions.of(session.token)
        told = [dict(one, seq=seq) for seq, one in found]
        if any(one["kind"] == "cards" for one in told):
            facts = messages.facts(sessions.workers[0].pipeline) | {"pages": len(sessions)}
            told.insert(0, {"kind": "facts", "seq": number, **facts})
        return JSONResponse({"messages": told})

    async def do(message: dict) -> Response:
        answer = await run_in_threadpool(act, sessions, message)
        return JSONResponse(gone, 410) if answer is None else JSONResponse(answer)

    def fetch(work: Callable[[Session, dict], Response]) -> Callable[[dict], Awaitable[Response]]:
        async def answer(message: dict) -> Response:
            session = sessions.of(message.get("token"))
            if session is None:
                return JSONResponse(gone, 410)
            try:
                return await run_in_threadpool(work, session, message)
            except ShotStreamError as error:
                return JSONResponse({"error": str(error)}, 400)

        return answer

    async def tell_model(_: Request) -> Response:
        return JSONResponse(await run_in_threadpool(model, sessions))

    @asynccontextmanager
    async def life(_: Starlette) -> Any:
        async def sweep() -> None:
            while True:
                await asyncio.sleep(min(30.0, KEEP / 4))
                await run_in_threadpool(sessions.sweep)

        task = asyncio.create_task(sweep())
        yield
        task.cancel()

    routes = [static(name) for name in sorted(os.listdir(STATIC)) if name.rsplit(".", 1)[-1] in TYPES]
    routes += [
        Route("/api/model", tell_model),
        api("begin", begin),
        api("poll", poll),
        api("act", do),
        api("frames", fetch(lambda session, message: JSONResponse(session.frames(message.get("take"))))),
        api("film", fetch(lambda session, m: Response(session.film(m.get("number")), media_type="video/mp4"))),
    ]
    return Starlette(routes=routes, lifespan=life, middleware=[Middleware(_careful)])


def _careful(app: Any) -> Callable[..., Awaitable[None]]:
    """Tells the browser what the page may do."""

    async def answer(scope: dict, receive: Callable, send: Callable) -> None:
        async def with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message["headers"], *HEADERS]}
            await send(message)

        await app(scope, receive, with_headers)

    return answer


def guarded(
    app: Any, hosts: Sequence[str], auth: tuple[str, str] | None, served: re.Pattern[str] = SERVED
) -> Callable[..., Awaitable[None]]:
    """Lets in who calls the page by a name of its own, from its own page, with the password, for what it needs.

    Args:
        hosts: names it may be called by, besides addresses and localhost; "*" allows all.
        auth: (name, password) that everybody must give.
        served: the paths that are answered.
    """
    known = {"localhost", socket.gethostname().lower(), *(host.lower() for host in hosts)}
    expected = base64.b64encode(":".join(auth).encode()).decode() if auth else None

    async def close(send: Callable, status: int, text: str, *_: tuple[bytes, bytes]) -> None:
        await send({"type": "websocket.close", "code": 1008, "reason": text[:120]})

    async def answer(send: Callable, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
        kind = (b"content-type", b"text/plain; charset=utf-8")
        await send({"type": "http.response.start", "status": status, "headers": [kind, *headers]})
        await send({"type": "http.response.body", "body": text.encode()})

    async def guard(scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await app(scope, receive, send)
        refuse = close if scope["type"] == "websocket" else answer
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        name = host_name(host)
        if "*" not in known and name not in known and not is_address(name):
            return await refuse(
                send, 403, f"This page does not answer to {name[:80]!r}: start it with --hosts {name[:80]}"
            )
        origin = headers.get("origin")
        if origin is not None and origin.split("://")[-1] != host and "*" not in known:
            return await refuse(send, 403, "This page answers to itself only.")
        if expected and scope["path"] != STARTED and not _has_password(headers.get("authorization", ""), expected):
            asks = (b"www-authenticate", b'Basic realm="shotstream studio", charset="UTF-8"')
            return await refuse(send, 401, "This page wants a name and a password.", asks)
        if not served.fullmatch(scope["path"]):
            return await refuse(send, 404, "Not found")
        return await app(scope, receive, send)

    return guard


def host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[1 : host.find("]")] if host.startswith("[") else host.rsplit(":", 1)[0].lower()


def is_address(name: str) -> bool:
    """A number, which nobody can make point elsewhere."""
    with suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False


def _has_password(header: str, expected: str) -> bool:
    kind, _, given = header.partition(" ")
    with suppress(binascii.Error, ValueError):
        return kind.lower() == "basic" and secrets.compare_digest(base64.b64decode(given), base64.b64decode(expected))
    return False


# Opening it


class Studio:
    """A page that is open. `close` ends it: its thread, its sessions, and the models if nobody else holds them.

    Attributes:
        url: where it is.
    """

    def __init__(self, app: Any) -> None:
        self.sessions: Sessions | None = app.sessions
        self.url: str = app.share_url or app.local_url.replace("//[::]:", "//[::1]:")  # :: is no address to go to
        self._app = app

    def close(self) -> None:
        """Ends the studio."""
        if self.sessions:
            self._app.close()
            self.sessions = self._app = None

    def wait(self) -> None:
        """Stays until Ctrl-C."""
        thread = self._app.server.thread
        try:
            while thread.is_alive():
                thread.join(0.5)
        except KeyboardInterrupt:
            print()
        finally:
            self.close()

    def __enter__(self) -> "Studio":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def launch(
    preset: str | Path = "toybox",
    weights: str = "student",
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    hosts: Sequence[str] = (),
    auth: str | tuple[str, str] | None = None,
    stories: str | Path | None = None,
    share: bool = False,
    inbrowser: bool = False,
    height: int | None = None,
    block: bool | None = None,
) -> Studio:
    """Loads a model on every device, as it fits there, and opens the page; in a notebook it appears below the cell.

    Args:
        preset: a preset or a model folder.
        weights: which of the folder's transformers tells, see `folder.WEIGHTS`.
        host: who can reach the page: 127.0.0.1 this machine only, 0.0.0.0 everybody who can reach this machine.
        port: None for the first free one from 7860 on.
        hosts: names the page may be called by, besides addresses and this machine's own name.
        auth: "NAME:PASSWORD" that everybody must give.
        stories: a folder of story files that everybody finds on the page.
        share: also a public link, through Gradio.
        inbrowser: opens the page in the browser.
        height: of the page in a notebook, in pixels.
        block: stay until Ctrl-C; by default in a program, not in a notebook.

    Raises:
        StoryError: an option that is no good, a port that is taken, a story that cannot be told.
        CheckpointError: as `ShotStreamPipeline.from_pretrained`, and for weights that do not stream.
    """
    host = host[1:-1] if re.fullmatch(r"\[.*\]", host) else host  # [::1], as in an address
    listen(host, port).close()  # what cannot be opened is said before the model is loaded
    own = ["*"] if share else [] if is_address(host) else [host]
    app = build(preset, weights, hosts=(*hosts, *own), auth=auth, stories=stories)
    notebook = in_notebook()
    try:
        if ":" in host and port is None:  # Gradio looks for a free one of IPv4
            with listen(host, None) as found:
                port = found.getsockname()[1]
        app.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            share=share,
            inbrowser=inbrowser,
            inline=notebook,
            height=height or 820,
            prevent_thread_lock=True,
        )
    except Exception as error:  # Gradio raises many kinds
        app.close()
        raise StoryError(
            f"the page cannot be opened ({reason(error)}): choose another --port, or another GRADIO_TEMP_DIR"
        ) from None
    studio = Studio(app)
    if share and not app.share_url:
        studio.close()
        raise StoryError("--share: there is no public link (see above): leave it out, or try later")
    print(f"shotstream studio: {studio.url}", flush=True)
    if block or (block is None and not notebook):
        studio.wait()
    return studio


def build(
    preset: str | Path = "toybox",
    weights: str = "student",
    *,
    hosts: Sequence[str] = (),
    auth: str | tuple[str, str] | None = None,
    stories: str | Path | None = None,
) -> Any:
    """The studio as a Gradio app, with a model on every device: `build().launch()`. Arguments as of `launch`."""
    password = name_and_password(auth)
    try:
        from starlette.middleware import Middleware

        from shotstream_lite.studio.app import StudioApp
    except ImportError:
        raise StoryError("the studio needs Gradio: pip install 'shotstream_lite[studio]'") from None
    sessions = open_sessions(preset, weights, stories)
    return StudioApp(sessions, application(sessions), Middleware(guarded, hosts, password))


def open_sessions(preset: str | Path, weights: str, stories: str | Path | None = None) -> Sessions:
    """No sessions yet, on a model on every device as it fits there. Raises CheckpointError and StoryError."""
    if weights in WHOLE_SHOTS:
        raise CheckpointError(f"weights is {weights!r}, which makes whole shots: choose one that streams")
    plans = {device: choose(preset, device).plan for device in devices()}
    pipelines = [ShotStreamPipeline.from_pretrained(preset, weights, *where) for where in plans.items()]
    for pipeline in pipelines:
        offer_rivals(pipeline)
    return Sessions(pipelines, read_stories(stories, pipelines[0]) if stories else {})


def devices() -> list[str]:
    """Every CUDA device, or else the CPU."""
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]


def in_notebook() -> bool:
    """Whether a notebook runs this."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell else None
    return found is not None and hasattr(found, "kernel")


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


def name_and_password(auth: str | tuple[str, str] | None) -> tuple[str, str] | None:
    """What --auth says. Raises StoryError."""
    if auth is None:
        return None
    name, _, password = auth.partition(":") if isinstance(auth, str) else (auth[0], ":", auth[1])
    if not name or not password:
        raise StoryError("--auth is no NAME:PASSWORD: write both, with a colon between them")
    return name, password


def read_stories(folder: str | Path, pipeline: ShotStreamPipeline) -> dict[str, str]:
    """The story files of a folder, by name. Raises StoryError if there are none, or one cannot be told here."""
    folder = Path(folder).expanduser()
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not paths:
        raise StoryError(f"--stories {folder}: there are no story files (.json): name a folder that holds some")
    found = {}
    for path in paths:
        text = read_text(path)
        with about(path):
            request.read_story(text, pipeline.settings, path.name)
        found[path.stem] = text
    return found
