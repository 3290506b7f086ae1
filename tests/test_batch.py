"""demos/batch.py: every good story becomes a film, once."""

import importlib.util
import json
from pathlib import Path

import pytest

from shotstream_lite.film import read_film
from shotstream_lite.session import StorySession

DEMO = Path(__file__).resolve().parent.parent / "demos" / "batch.py"


@pytest.fixture(scope="module")
def batch():
    spec = importlib.util.spec_from_file_location("batch", DEMO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stories(tmp_path) -> Path:
    folder = tmp_path / "stories"
    folder.mkdir()
    for name, frames in (("one", 5), ("two", 9)):
        story = {"global_caption": "A red ball in a meadow.", "shot1": "The red ball jumps.", "frames": frames}
        (folder / f"{name}.json").write_text(json.dumps(story), encoding="utf-8")
    return folder


def test_a_folder_of_stories_goes_on_where_it_stopped(batch, stories, tmp_path, model_folder, capsys, monkeypatch):
    films, tell = tmp_path / "films", StorySession.tell

    def stopped(self):
        yield from tell(self) if self.script[0].frames == 5 else stop()

    with monkeypatch.context() as patch:
        patch.setattr(StorySession, "tell", stopped)
        with pytest.raises(KeyboardInterrupt):
            batch.main(stories, films, str(model_folder))
    assert [film.name for film in films.iterdir()] == ["one.mp4"]
    first = (films / "one.mp4").stat()
    assert batch.main(stories, films, str(model_folder)) == 0
    assert (films / "one.mp4").stat() == first and len(read_film(films / "two.mp4")) == 9
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == f"{films / 'one.mp4'}: is there already"
    assert lines[-1].startswith(f"{films / 'two.mp4'}: 1 shots, ")


def stop():
    raise KeyboardInterrupt
    yield


def test_a_table_of_stories(batch, stories, tmp_path, model_folder):
    (stories / "table.csv").write_text("json_path\none.json\ntwo.json\n", encoding="utf-8")
    assert batch.main(stories / "table.csv", tmp_path / "films", str(model_folder)) == 0
    assert sorted(film.name for film in (tmp_path / "films").iterdir()) == ["table-001.mp4", "table-002.mp4"]


def test_a_bad_story_does_not_stop_the_others(batch, stories, tmp_path, model_folder, capsys):
    (stories / "bad.json").write_text("{}", encoding="utf-8")
    (stories / "odd.json").write_text(
        json.dumps({"global_caption": "A ball.", "shot1": "A ball.", "settings": {"height": 40}}), encoding="utf-8"
    )
    assert batch.main(stories, tmp_path / "films", str(model_folder)) == 2
    assert sorted(film.name for film in (tmp_path / "films").iterdir()) == ["one.mp4", "two.mp4"]
    bad, odd = capsys.readouterr().err.splitlines()
    assert bad.startswith(f"{stories / 'bad.json'}: shot1 is missing") and bad.count("bad.json") == 1
    assert odd.startswith(f"{stories / 'odd.json'}: height is 40")
