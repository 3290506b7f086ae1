"""What the page asks for, and the answers: a few static files, and JSON.

`begin` opens a session, `poll` waits for messages, `act` does one thing, `frames` and `film` fetch what is made.
"""

import inspect
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from shotstream_lite.errors import ShotStreamError, StoryError
from shotstream_lite.studio import messages, request
from shotstream_lite.studio.guard import TooLong, limited
from shotstream_lite.studio.session import Session
from shotstream_lite.studio.sessions import Sessions

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}  # Windows may name others
HEADERS = [
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]

ACTIONS = (
    *("shoot", "storyboard", "turn", "retake", "without", "compare", "remake", "choose", "remove", "move", "unqueue"),
    *("remember", "forget", "undo", "branch", "version", "close version", "new", "load"),
    *("cut", "stop", "go on", "more", "save"),
)
"""What a page may ask for: methods of a session. A message holds their arguments by name, but for these."""
READ: dict[str, Callable[[Session, dict], Any]] = {
    "frames": lambda session, message: request.frames_of(message.get("seconds"), session.settings),
    "seed": lambda session, message: request.seed_of(message.get("seed")),
    "settings": lambda session, message: request.switched(session.pipeline, message.get("switches")),
    "seen": lambda session, message: request.seen_of(message.get("seen")),
}
ANSWERS = {"shoot": "cut", "turn": "from", "save": "text"}
"""What the answer is called; the other actions have none."""


def _done(session: Session, message: dict) -> dict[str, Any]:
    """The answer to an action that is one of these."""
    action = getattr(session, message["do"].replace(" ", "_"))
    names = inspect.signature(action).parameters
    answer = action(**{name: READ[name](session, message) if name in READ else message.get(name) for name in names})
    return {ANSWERS[message["do"]]: answer} if message["do"] in ANSWERS else {}


def act(sessions: Sessions, message: Any) -> dict[str, Any] | None:
    """Does what a message {"token", "n", "do", ...} asks for, once: a request that is sent again is answered again.

    Returns:
        {} or what was asked for; {"error": sentence} if it cannot be done; None if there is no such session.
    """
    session = sessions.of(message.get("token")) if isinstance(message, dict) else None
    if session is None:
        return None
    number, do = message.get("n"), message.get("do")
    if not isinstance(do, str) or do not in ACTIONS or type(number) is not int:
        return {"error": "the page asked for something unknown: reload it"}
    with session.requests:
        if number == session.answered[0]:
            return session.answered[1]
        try:
            if do == "load" and "prepared" in message:
                name = message["prepared"]
                if not isinstance(name, str) or name not in sessions.stories:
                    raise StoryError("there is no such prepared story")
                message |= {"text": sessions.stories[name], "name": name}
            answer = _done(session, message)
        except ShotStreamError as error:
            answer = {"error": str(error)}
        session.answered = number, answer
        return answer


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
        "longest": settings.longest_shot,
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


def application(sessions: Sessions) -> Any:
    """The page as a Starlette application."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    gone = JSONResponse({"error": "this session has ended", "gone": True}, 410)

    def static(path: Path) -> Route:
        return Route(
            "/" if path.name == "page.html" else f"/{path.name}",
            Response(path.read_bytes(), media_type=TYPES[path.suffix]),
        )

    def api(name: str, work: Callable[[Session, dict], Any]) -> Route:
        async def answer(asked: Request) -> Response:
            body = await asked.body()
            try:
                message = json.loads(body)
            except (ValueError, RecursionError):
                message = None
            if not isinstance(message, dict):
                return JSONResponse({"error": "the page asked for something unknown: reload it"}, 400)
            session = sessions.of(message.get("token"))
            if session is None:
                return gone
            return await (work(session, message) if work is poll else run_in_threadpool(work, session, message))

        return Route(f"/api/{name}", answer, methods=["POST"])

    def tell_model(_: Request) -> Response:
        return JSONResponse(model(sessions))

    def begin(_: Request) -> Response:
        try:
            return JSONResponse({"token": sessions.open().token})
        except ShotStreamError as error:
            return JSONResponse({"error": str(error)}, 503)

    async def poll(session: Session, message: dict) -> Response:
        number = message.get("after")
        if type(number) is not int:
            number, session.page = 0, message.get("page")
            session.greet()
        elif session.page != message.get("page"):
            return JSONResponse({"error": "this story is open in another tab"}, 409)
        found = await session.outbox.wait(number, messages.HOLD)
        sessions.of(session.token)
        told = [dict(one, seq=seq) for seq, one in found]
        if any(one["kind"] == "cards" for one in told):
            facts = messages.facts(sessions.workers[0].pipeline) | {"pages": len(sessions)}
            told.insert(0, {"kind": "facts", "seq": number, **facts})
        return JSONResponse({"messages": told})

    def do(_: Session, message: dict) -> Response:
        answer = act(sessions, message)
        return gone if answer is None else JSONResponse(answer)

    def frames(session: Session, message: dict) -> Response:
        return JSONResponse(session.frames(message.get("take")))

    def film(session: Session, message: dict) -> Response:
        return Response(session.film(message.get("number")), media_type="video/mp4")

    def refused(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 413 if isinstance(error, TooLong) else 400)

    routes = [static(path) for path in sorted(STATIC.iterdir()) if path.suffix in TYPES]
    routes += [Route("/api/model", tell_model), Route("/api/begin", begin, methods=["POST"])]
    routes += [api("poll", poll), api("act", do), api("frames", frames), api("film", film)]
    middleware = [Middleware(_careful), Middleware(limited)]
    errors = {ShotStreamError: refused}
    return Starlette(routes=routes, lifespan=sessions.sweeping, middleware=middleware, exception_handlers=errors)


def _careful(app: Any) -> Callable[..., Awaitable[None]]:
    """Tells the browser what the page may do."""

    async def answer(scope: dict, receive: Callable, send: Callable) -> None:
        async def with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message["headers"], *HEADERS]}
            await send(message)

        await app(scope, receive, with_headers)

    return answer
