"""The Space of demos/space: its front matter, the studio started as a Space starts it, and the page for ZeroGPU."""

import importlib.util
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement

from shotstream_lite.film import read_film
from shotstream_lite.session import StorySession

gradio = pytest.importorskip("gradio", reason="pip install 'shotstream_lite[studio]'")
ROOT = Path(__file__).parent.parent
SPACE = ROOT / "demos" / "space"
JUMPS, WAVES = "Wide shot: the red ball jumps.", "Close-up: the red ball waves."


def test_the_front_matter_names_what_is_there():
    matter = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert matter["sdk"] == "gradio" and (SPACE / matter["app_file"]).is_file()
    wanted = [Requirement(line) for line in (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    assert [(one.name, one.extras) for one in wanted] == [("shotstream_lite", {"studio"})]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    bounds = Requirement(next(line for line in project.splitlines() if line.startswith("studio")).split('"')[1])
    assert matter["sdk_version"] in bounds.specifier
    assert len(matter["short_description"]) <= 60 and matter["license"] == "apache-2.0"


def test_started_as_a_space_starts_it(tmp_path):
    """Its files alone in a folder, and what the Space's environment says; only the package is found elsewhere."""
    shutil.copytree(SPACE, tmp_path / "app")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "SPACE_HOST": "me-film.hf.space"}
    env = {**os.environ, **told, "PYTHONPATH": str(ROOT), "SYSTEM": "spaces"}
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        app = subprocess.Popen([sys.executable, "app.py"], cwd=tmp_path / "app", env=env, stdout=log, stderr=log)
        try:
            url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
            while time.monotonic() < deadline and app.poll() is None:
                try:
                    page = asked(f"{url}/", "me-film.hf.space")
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.3)
            else:
                pytest.fail((tmp_path / "log").read_text(encoding="utf-8"))
            assert b"gradio" in page and b"</html>" in asked(f"{url}/studio/", "me-film.hf.space")
            with pytest.raises(urllib.error.HTTPError, match="403"):
                asked(f"{url}/", "evil.example")
        finally:
            app.terminate()
            app.wait(20)


def asked(url: str, host: str) -> bytes:
    plainly = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    with plainly(urllib.request.Request(url, headers={"host": host}), timeout=30) as answer:
        return answer.read()


@pytest.fixture
def zero(monkeypatch):
    spec = importlib.util.spec_from_file_location("zero", SPACE / "zero.py")
    zero = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "zero", zero)
    spec.loader.exec_module(zero)
    return zero


def test_on_zerogpu_a_story_travels_with_each_shot(zero, model_folder, loaded):
    def gpu(function):
        """As ZeroGPU: what goes in and comes out is pickled."""

        def called(*args):
            for frames in function(*pickle.loads(pickle.dumps(args))):
                yield pickle.loads(pickle.dumps(frames))

        return called

    page = zero.build(str(model_folder), gpu)
    told, session = [], StorySession(loaded, "A red ball.", 0)
    for seed, caption in enumerate((JUMPS, WAVES)):
        *_, (_, film, told) = page.tell("A red ball.", told, caption, seed)
        wanted = np.concatenate(list(session.next_shot(caption, seed=seed)))
        assert np.array_equal(told[-1].frames, wanted)
    assert len(read_film(film)) == 26
    shown = list(page.tell("A red ball.", told, WAVES, None, True))
    assert len(shown) == 4 and len(shown[-1][2]) == 2 and shown[-1][2][0] is told[0]
    with pytest.raises(gradio.Error, match="is empty"):
        list(page.tell("A red ball.", told, " ", 0))
    with pytest.raises(gradio.Error, match="12 shots at most"):
        list(page.tell("A red ball.", told * 6, WAVES, 0))
    assert page.get_config_file()["dependencies"]
