"""`shotstream tell` with a table or a folder: every good story becomes a film, once."""

import json
from pathlib import Path

import pytest

from shotstream_lite.cli import main
from shotstream_lite.film import read_film
from shotstream_lite.session import StorySession


@pytest.fixture
def stories(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("stories").mkdir()
    for name, frames in (("one", 5), ("two", 9)):
        story = {"global_caption": "A red ball in a meadow.", "shot1": "The red ball jumps.", "frames": frames}
        Path(f"stories/{name}.json").write_text(json.dumps(story), encoding="utf-8")
    Path("stories/table.csv").write_text("json_path\none.json\nstories/two.json\n", encoding="utf-8")
    return Path("stories")


def names(folder: str) -> list[str]:
    return sorted(film.name for film in Path(folder).iterdir())


def test_a_folder_of_stories_goes_on_where_it_stopped(stories, model_folder, capsys, monkeypatch):
    tell = StorySession.tell

    def stopped(self):
        for number, frames in enumerate(tell(self)):
            if number and self.script[0].frames == 9:
                raise KeyboardInterrupt
            yield frames

    command = ["tell", "stories", "-o", "films", "--preset", str(model_folder)]
    with monkeypatch.context() as patch:
        patch.setattr(StorySession, "tell", stopped)
        assert main(command) == 130
    assert names("films") == ["one.mp4", "two-stopped.mp4"]
    first = Path("films/one.mp4").stat()
    assert main(command) == 0
    assert Path("films/one.mp4").stat() == first and len(read_film("films/two.mp4")) == 9
    assert names("films") == ["one.mp4", "two.mp4"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == f"{Path('films/one.mp4')}: is there already"
    assert lines[-1].startswith(f"{Path('films/two.mp4')}: 1 of 1 shots, 9 frames")


def test_a_table_of_stories(stories, model_folder):
    assert main(["tell", "stories/table.csv", "--preset", str(model_folder)]) == 0
    assert names("table") == ["table-001.mp4", "table-002.mp4"]


def test_a_bad_story_does_not_stop_the_others(stories, model_folder, capsys):
    Path("stories/bad.json").write_text("{}", encoding="utf-8")
    odd = {"global_caption": "A ball.", "shot1": "A ball.", "settings": {"height": 36}}
    Path("stories/odd.json").write_text(json.dumps(odd), encoding="utf-8")
    assert main(["tell", "stories", "-o", "films", "--preset", str(model_folder)]) == 2
    assert names("films") == ["one.mp4", "two.mp4"]
    bad, odd = capsys.readouterr().err.splitlines()
    assert bad.startswith(f"shotstream: {stories / 'bad.json'}: shot1 is missing") and bad.count("bad.json") == 1
    assert odd.startswith(f"shotstream: {stories / 'odd.json'}: height is 36")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["stories/table.csv", "-o", "film.mp4"], "-o film.mp4: stories/table.csv holds many stories: name a folder"),
        (["stories", "-o", "stories/one.json"], "stories/one.json: cannot be written"),
        (["stories", "--json", "report.json"], "--json report.json: reports on one film"),
        (["empty"], "empty: holds no stories"),
    ],
)
def test_what_many_stories_cannot_do(stories, capsys, options, words):
    Path("empty").mkdir()
    assert main(["tell", *options]) == 2
    assert words in capsys.readouterr().err.replace("\\", "/")
