"""The server for scripts: shots by REST, frames by WebSocket, with the studio's sessions, limits and password."""

import base64
import importlib.util
import io
import json
import threading
from pathlib import Path

import av
import numpy as np
import pytest

from shotstream_lite.film import FilmStream, FilmWriter, read_film
from shotstream_lite.session import StorySession
from shotstream_lite.story_files import parse_story
from shotstream_lite.studio import guard, pictures, serve
from shotstream_lite.studio import sessions as studio_sessions
from shotstream_lite.studio.sessions import Sessions

testclient = pytest.importorskip("fastapi.testclient", reason="pip install 'shotstream_lite[serve]'")
from starlette.websockets import WebSocketDisconnect  # noqa: E402

STORY = {"global_caption": "A red ball."}
JUMPS = {"caption": "Wide shot: the red ball jumps.", "frames": 13}
WAVES = {"caption": "The red ball waves.", "seed": 7}


@pytest.fixture
def sessions(pipeline):
    sessions = Sessions([pipeline])
    yield sessions
    sessions.close()


@pytest.fixture
def web(sessions):
    with testclient.TestClient(serve.protected(sessions), base_url="http://localhost") as web:
        yield web


def told(socket, takes: int) -> tuple[list[bytes], list[dict]]:
    """Frames and texts until so many takes are done."""
    frames, texts = [], []
    while sum("done" in text for text in texts) < takes:
        message = socket.receive()
        frames += [message["bytes"]] if message.get("bytes") is not None else []
        texts += [json.loads(message["text"])] if message.get("text") is not None else []
    return frames, texts


def test_a_story_is_told_frame_by_frame_and_replays(web, pipeline):
    opened = web.post("/stories", json=STORY).json()
    assert (opened["height"], opened["width"], opened["fps"]) == (32, 48, 16)
    story = f"/stories/{opened['story']}"
    with web.websocket_connect(f"ws://localhost{story}/frames") as socket:
        first = web.post(f"{story}/shots", json=JUMPS).json()["take"]
        second = web.post(f"{story}/shots", json=WAVES).json()["take"]
        frames, texts = told(socket, 2)
    assert [text for text in texts if "begin" in text][0] == {"begin": first, "caption": JUMPS["caption"]}
    done = [text for text in texts if "done" in text]
    assert [text["done"] for text in done] == [first, second] and done[1]["seed"] == 7
    saved = web.get(story).json()
    session = StorySession.of(pipeline, parse_story(json.dumps(saved)))
    wanted = np.concatenate(list(session.tell()))
    assert frames == [pictures.jpeg(wanted[i : i + 1]) for i in range(len(wanted))]
    film = web.get(f"{story}/film")
    with av.open(io.BytesIO(film.content)) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(wanted)


def test_frames_as_fragments_are_a_film_and_shots_are_taken_again(web, tmp_path):
    story = f"/stories/{web.post('/stories', json=STORY).json()['story']}"
    with web.websocket_connect(f"ws://localhost{story}/frames?format=mp4") as socket:
        web.post(f"{story}/shots", json=JUMPS)
        parts, _ = told(socket, 1)
        assert web.post(f"{story}/shots/1/retake", json={"seed": 3}).status_code == 202
        more, texts = told(socket, 1)
        assert texts[-1]["seed"] == 3
        socket.send_text("that is all")
        parts += [*more, socket.receive_bytes()]
    (tmp_path / "film.mp4").write_bytes(b"".join(parts))
    assert read_film(tmp_path / "film.mp4").shape == (26, 32, 48, 3) and parts[0][4:8] == b"ftyp"
    assert web.get(story).json()["seeds"] == [3]
    assert web.delete(story).status_code == 204 and web.get(story).status_code == 404


def test_without_a_listener_shots_are_made_at_once(web, sessions, monkeypatch):
    monkeypatch.setattr("shotstream_lite.studio.production.PATIENCE", 60.0)
    opened = web.post("/stories", json=STORY).json()["story"]
    web.post(f"/stories/{opened}/shots", json=JUMPS)
    session = sessions.of(opened)
    for _ in range(400):
        if session.project.version.film:
            break
        threading.Event().wait(0.05)
    assert web.get(f"/stories/{opened}/film").status_code == 200


def test_what_cannot_be_is_refused_in_one_sentence(web, sessions, monkeypatch):
    opened = web.post("/stories", json=STORY).json()["story"]
    for path, body, status, words in (
        ("/stories", {"global_caption": " "}, 422, "the story is empty"),
        ("/stories", {}, 422, "required"),
        (f"/stories/{opened}/shots", {"caption": ""}, 422, "the shot is empty"),
        (f"/stories/{opened}/shots", {"caption": "x", "frames": 6}, 422, "write 5 or 9"),
        (f"/stories/{opened}/shots", {"caption": "x", "frames": 401}, 422, "trained on 13"),
        (f"/stories/{opened}/shots", {"caption": "x " * 400}, 422, "shorten it"),
        (f"/stories/{opened}/shots/1/retake", {}, 422, "there is no shot 1"),
        (f"/stories/{opened}/shots/1/retake", {"frames": 0}, 422, "frames is 0"),
        (f"/stories/{opened}/turn", {"caption": "x"}, 422, "No shot plays"),
        ("/stories/nobody/shots", {"caption": "x"}, 404, "no such story"),
        ("/stories", {"global_caption": "x" * guard.MAX_BODY}, 400, "body"),
    ):
        answer = web.post(path, json=body)
        assert answer.status_code == status and words in json.dumps(answer.json()), (path, answer.text[:200])
    assert web.get(f"/stories/{opened}").status_code == 422 and len(sessions) == 1
    monkeypatch.setattr(studio_sessions, "MAX_SESSIONS", 1)
    full = web.post("/stories", json=STORY)
    assert full.status_code == 503 and "full" in full.text
    refused = pytest.raises(WebSocketDisconnect)
    with refused as gone, web.websocket_connect("ws://localhost/stories/nobody/frames"):
        pass
    assert gone.value.code == 1008 and "no such story" in gone.value.reason


def test_it_describes_itself_and_wants_the_password_everywhere(sessions):
    with testclient.TestClient(serve.protected(sessions, auth="ada:pass"), base_url="http://localhost") as web:
        assert web.get("/openapi.json").status_code == 401 and web.post("/stories", json=STORY).status_code == 401
        socket = "ws://localhost/stories/x/frames"
        for header in ({}, {"authorization": "Basic x"}, {"origin": "http://evil.example"}, {"host": "evil.example"}):
            with pytest.raises(WebSocketDisconnect) as gone, web.websocket_connect(socket, headers=header):
                pass
            assert gone.value.code == 1008 and "page" in gone.value.reason
        right = {"authorization": f"Basic {base64.b64encode(b'ada:pass').decode()}"}
        paths = web.get("/openapi.json", headers=right).json()["paths"]
        assert {"/stories", "/stories/{story}/shots", "/stories/{story}/film"} <= paths.keys()
        assert "/openapi.json" in web.get("/docs", headers=right).text
        assert web.get("/elsewhere", headers=right).status_code == 404


def test_the_client_of_the_demos_writes_a_film(sessions, tmp_path, monkeypatch):
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("websockets")
    path = Path(__file__).parent.parent / "demos" / "serve_client.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    spec = importlib.util.spec_from_file_location("serve_client", path)
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    listener = guard.listen("127.0.0.1", None)
    running = uvicorn.Server(uvicorn.Config(serve.protected(sessions), log_level="warning"))
    thread = threading.Thread(target=running.run, args=([listener],))
    thread.start()
    try:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client.tell(address, str(tmp_path / "film.mp4"), "A red ball.", JUMPS["caption"], WAVES["caption"])
    finally:
        running.should_exit = True
        thread.join(20)
        listener.close()
    assert len(read_film(tmp_path / "film.mp4")) == 26 and not len(sessions)


def test_a_stream_is_the_film_a_file_is(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3), np.uint8)
    stream = FilmStream(16, 32, 48)
    parts = [stream.write(frames[:1]), stream.write(frames[1:]), stream.close()]
    (tmp_path / "stream.mp4").write_bytes(b"".join(parts))
    with FilmWriter(tmp_path / "file.mp4", 16, scale=1) as film:
        film.write(frames)
    assert np.array_equal(read_film(tmp_path / "stream.mp4"), read_film(tmp_path / "file.mp4"))
    assert FilmStream(16, 32, 48).close() is not None
