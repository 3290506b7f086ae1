"""Stories for scripts: the studio's sessions, limits and password, without its page.

REST says what is wanted, a WebSocket brings the frames as they are made: a JPEG each, or one MP4 in fragments.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from shotstream_lite import __version__
from shotstream_lite.errors import ShotStreamError, StoryError
from shotstream_lite.film import FilmStream
from shotstream_lite.story import check_frames
from shotstream_lite.studio import request
from shotstream_lite.studio.guard import guarded, limited, listen, name_and_password
from shotstream_lite.studio.messages import HOLD
from shotstream_lite.studio.pictures import jpeg
from shotstream_lite.studio.session import Session
from shotstream_lite.studio.sessions import Sessions, open_sessions

SERVED = re.compile(r"/(docs|openapi\.json|stories(/.*)?)?")
ABOUT = """Open a story, then its WebSocket, then ask for shots.

`/stories/{story}/frames` is the WebSocket. Its texts are JSON: {"begin": take, "caption"}, {"done": take, "frames",
"seed"}, {"notice": sentence, "tone"}. Its bytes are frames: a JPEG each with `?format=jpeg`, an MP4 in fragments with
`?format=mp4` (send any text for its last frame and its end). Frames are made as fast as they are taken; without a
WebSocket shots are made all the same, and `/stories/{story}/film` has them. A story that nobody asks for is closed
after ten minutes."""


def application(sessions: Sessions) -> Any:
    """The server as a FastAPI application."""
    from fastapi import Body, FastAPI, HTTPException, Response, WebSocket, WebSocketDisconnect
    from fastapi.responses import JSONResponse, RedirectResponse

    options = {"lifespan": sessions.sweeping, "redoc_url": None}
    app = FastAPI(title="ShotStream", version=__version__, description=ABOUT, **options)

    @app.exception_handler(ShotStreamError)
    async def refused(_: Any, error: ShotStreamError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    def of(story: str) -> Session:
        session = sessions.of(story)
        if session is None:
            raise HTTPException(404, "there is no such story, or it was closed")
        if session.outbox.full:  # nobody listens
            session.outbox.clear()
        return session

    @app.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse("/docs")

    @app.post("/stories", status_code=201)
    def open_story(
        global_caption: Annotated[str, Body(embed=True, description="who and where")],
    ) -> dict[str, Any]:
        """Opens a story. What is given holds for all its shots."""
        try:
            session = sessions.open()
        except StoryError as error:
            raise HTTPException(503, str(error)) from None
        session.paced, session.encode = False, lambda frames: {}
        try:
            session.open(global_caption)
        except StoryError:
            sessions.end(session)
            raise
        size = {name: getattr(session.settings, name) for name in ("height", "width", "fps", "shot_frames")}
        return {"story": session.token, **size}

    @app.post("/stories/{story}/shots", status_code=202)
    def next_shot(
        story: str,
        caption: Annotated[str, Body()],
        frames: Annotated[int | None, Body(description="4k + 1; the model's usual length if left out")] = None,
        seed: Annotated[int | None, Body(ge=0)] = None,
        switches: Annotated[dict[str, Any] | None, Body(description="memory, history, steps, ...")] = None,
    ) -> dict[str, int]:
        """Asks for one more shot; it is made when those before it are. Returns its take."""
        session = of(story)
        check_frames(frames, "frames")
        with session.requests:
            wishes = request.switched(session.pipeline, switches)
            frames = frames or session.settings.shot_frames
            session.shoot(None, caption, frames, request.seed_of(seed), wishes)
            return {"take": session.project.version.strips[-1].take.id}

    @app.post("/stories/{story}/shots/{number}/retake", status_code=202)
    def retake(
        story: str,
        number: int,
        caption: Annotated[str | None, Body()] = None,
        frames: Annotated[int | None, Body()] = None,
        seed: Annotated[int | None, Body(ge=0)] = None,
    ) -> dict[str, int]:
        """Asks for shot `number` (from 1) once more. Earlier shots stay; later ones stay as they are, out of date."""
        session = of(story)
        check_frames(frames, "frames")
        with session.requests:
            session.retake(number, caption, request.seed_of(seed), frames)
            return {"take": session.project.version.strips[number - 1].takes[-1].id}

    @app.post("/stories/{story}/turn")
    def turn(story: str, caption: Annotated[str, Body(embed=True)]) -> dict[str, int]:
        """Another caption for the shot that is made, from its next chunk on. Returns the first frame that shows it."""
        session = of(story)
        with session.requests:
            return {"from": session.turn(caption, None)}

    @app.get("/stories/{story}")
    def read_story(story: str) -> dict[str, Any]:
        """The story so far, as a story file that `shotstream tell` tells again."""
        return json.loads(of(story).save())

    @app.get("/stories/{story}/film")
    def film(story: str) -> Response:
        """The film so far, an MP4."""
        return Response(of(story).film(), media_type="video/mp4")

    @app.delete("/stories/{story}", status_code=204)
    def close(story: str) -> None:
        """Closes the story; what it kept is gone."""
        sessions.end(of(story))

    @app.websocket("/stories/{story}/frames")
    async def frames(socket: WebSocket, story: str, format: Literal["jpeg", "mp4"] = "jpeg") -> None:
        session = sessions.of(story)
        if session is None or session.paced:
            await socket.close(1008, "there is no such story" if session is None else "somebody listens to it already")
            return
        await socket.accept()
        settings = session.settings
        mp4 = FilmStream(settings.fps, settings.height, settings.width) if format == "mp4" else None
        session.paced, session.encode = True, lambda frames: {"pixels": frames}
        left = asyncio.create_task(socket.receive())
        number, open_still = 0, True
        try:
            while open_still and not left.done() and sessions.of(story) is session:
                news = asyncio.create_task(session.outbox.wait(number, HOLD))
                await asyncio.wait({news, left}, return_when=asyncio.FIRST_COMPLETED)
                for place, message in await news if news.done() else []:
                    number, open_still = place, open_still and message["kind"] != "bye"
                    for part in await asyncio.to_thread(said, message, mp4):
                        await (socket.send_bytes(part) if isinstance(part, bytes) else socket.send_json(part))
                    if message["kind"] == "frames":
                        session.more()
                news.cancel()
            if mp4:
                await socket.send_bytes(mp4.close())
            await socket.close()
        except (RuntimeError, WebSocketDisconnect):  # they are gone
            pass
        finally:
            left.cancel()
            session.paced, session.encode = False, lambda frames: {}
            session.more()

    return app


def said(message: dict[str, Any], mp4: FilmStream | None) -> list[dict[str, Any] | bytes]:
    """What a script is told of a message to a page."""
    if message["kind"] == "begin":
        return [{"begin": message["take"], "caption": message["caption"]}]
    if message["kind"] == "frames" and "pixels" in message:
        return [mp4.write(message["pixels"])] if mp4 else [jpeg(frame[None]) for frame in message["pixels"]]
    if message["kind"] == "cards":
        return [{"done": card["id"], "frames": card["frames"], "seed": int(card["seed"])} for card in message["cards"]]
    return [{"notice": message["text"], "tone": message["tone"]}] if message["kind"] == "notice" else []


def protected(sessions: Sessions, hosts: Sequence[str] = (), auth: str | None = None) -> Callable[..., Awaitable[None]]:
    """The application behind the studio's guard."""
    return guarded(limited(application(sessions)), hosts, name_and_password(auth), SERVED)


def serve(
    preset: str | Path, weights: str, *, host: str, port: int | None, hosts: Sequence[str], auth: str | None
) -> None:
    """Serves until Ctrl-C. Arguments as of `studio.launch`. Raises StoryError, CheckpointError."""
    name_and_password(auth)
    try:
        import fastapi  # noqa: F401
        import uvicorn
        import websockets  # noqa: F401
    except ImportError:
        raise StoryError("serve needs FastAPI: pip install 'shotstream_lite[serve]'") from None
    host = host.strip("[]")  # of an IPv6 address
    with listen(host, port) as listener:
        sessions = open_sessions(preset, weights)
        app = protected(sessions, (*hosts, host), auth)
        named = f"[{host}]" if ":" in host else host
        print(f"shotstream serve: http://{named}:{listener.getsockname()[1]}", flush=True)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])
        sessions.close()
