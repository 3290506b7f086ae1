"""Stories of other kits are read by the one reader, and become files of our own."""

import json

import pytest

from shotstream_lite.cli import main
from shotstream_lite.errors import StoryError
from shotstream_lite.story import Shot, Story
from shotstream_lite.story_files import load_stories

BALL, BOX = "A red ball jumps.", "A blue box waves."
PLACE = "The sea is calm. It is evening."
TOLD = Story(PLACE, [Shot(BALL), Shot(BOX)])
ALONE = Story("On the shore.", [Shot(f"On the shore. {BALL}"), Shot(f"On the shore. {BOX}")])
RELEASED = json.dumps({"global_caption": PLACE, "shot1": BALL, "shot2": BOX})
HOLOCINE = f"[global caption] {PLACE} [per shot caption] {BALL} [shot cut] {BOX}"
PROMPTS = json.dumps({"prompts": [shot.caption for shot in ALONE.shots]})

READ = {
    "released.json": (RELEASED, [TOLD]),
    "table.csv": ("json_path\nreleased.json\n", [TOLD]),
    "structured.json": (json.dumps({"global_caption": PLACE, "shot_captions": [BALL, BOX]}), [TOLD]),
    "holocine.txt": (HOLOCINE, [TOLD]),
    "two.txt": (f"{HOLOCINE}\n\n[global caption] {PLACE}\n[per shot caption]\n{BALL}\n[shot cut]\n{BOX}\n", [TOLD] * 2),
    "longlive.jsonl": (f"{PROMPTS}\n\n{json.dumps({'prompts': [BALL, BOX]})}\n", [ALONE, Story(BALL, TOLD.shots)]),
    "plain.txt": (f"\n{PLACE}\n\n{BALL}\n\n  {BOX}\n", [TOLD]),
    "lines.txt": ("\n".join(shot.caption for shot in ALONE.shots), [ALONE]),
    "same.txt": (f"{BALL}\n{BALL}\n", [Story(BALL, [Shot(BALL)] * 2)]),
}

REFUSED = {
    "empty.txt": ("\n \n", "no shots"),
    "no-shots.txt": (f"[global caption] {PLACE}", r"\[per shot caption\] is missing"),
    "no-caption.txt": (f"[global caption] [per shot caption] {BALL}", "global_caption is empty"),
    "no-shot.txt": (f"{HOLOCINE} [shot cut] ", "shot3 is empty"),
    "empty.jsonl": ("\n", "no stories"),
    "list.jsonl": (f"{PROMPTS}\n[1]\n", "line 2: holds a list"),
    "other.jsonl": ('{"prompt": "x"}', "line 1: prompts is missing"),
    "numbers.jsonl": ('{"prompts": [5]}', "line 1: shot1 is a number"),
    "none.jsonl": ('{"prompts": []}', "line 1: no shots"),
    "broken.jsonl": ("{", "line 1: not JSON"),
}


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, (text, _) in (READ | REFUSED).items():
        (tmp_path / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", READ)
def test_read_by_the_one_reader_and_converted(name, tmp_path, capsys):
    expected = READ[name][1]
    assert load_stories(name) == expected
    assert main(["story", "convert", name, "new"]) == 0
    assert [load_stories(path)[0] for path in sorted((tmp_path / "new").iterdir())] == expected
    if len(expected) == 1:
        assert main(["story", "convert", name, "one.json"]) == 0
        assert json.loads((tmp_path / "one.json").read_text(encoding="utf-8")).keys() == {
            "global_caption", "shot1", "shot2",
        }  # fmt: skip
    assert capsys.readouterr().out.splitlines()[0] == "new"


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_that_names_the_file(name, tmp_path, capsys):
    with pytest.raises(StoryError, match=REFUSED[name][1]) as complaint:
        load_stories(name)
    assert str(complaint.value).startswith(f"{name}: ") and "\n" not in str(complaint.value)
    assert main(["story", "convert", name, "new"]) == 2 and not (tmp_path / "new").exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_target_that_cannot_be_is_refused(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for target, words in (("one.json", "holds 2 stories: name a new folder"), ("full", "is there already")):
        assert main(["story", "convert", "longlive.jsonl", target]) == 2
        assert words in capsys.readouterr().err
