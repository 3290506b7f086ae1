"""Stories: the released formats, saving, and one-line complaints that name file, field and how to fix it."""

import json

import pytest

from shotstream_lite.errors import StoryError
from shotstream_lite.story import Shot, Story, captions
from shotstream_lite.story_files import load_stories, load_story, parse_story, save_story, story_json

RELEASED = {
    "global_caption": "A red ball and a blue box.",
    "shot1": "The ball jumps.",
    "shot2": "The box waits.",
}


def told(**changes) -> str:
    return json.dumps({key: value for key, value in (RELEASED | changes).items() if value is not ...})


def test_released_json_is_read(tmp_path):
    path = tmp_path / "story.json"
    path.write_text(told(video_path="film.mp4"), encoding="utf-8-sig")
    story = load_story(path)
    assert story.global_caption == "A red ball and a blue box."
    assert story.shots == (Shot("The ball jumps."), Shot("The box waits."))


def test_captions_are_joined_as_the_model_reads_them():
    story = parse_story(told(shot3="They meet."))
    assert captions(story, 1) == [
        "A red ball and a blue box.shot0:The ball jumps.",
        "A red ball and a blue box.shot1:The box waits.",
    ]
    assert len(captions(story, 2)) == 3


def test_a_saved_story_comes_back_equal_and_keeps_the_released_keys(tmp_path):
    shots = [Shot("Un café — ☕", 33, 5), Shot("two", None, 2**62), Shot("three", 9)]
    story = Story("global", shots, seed=7, settings={"preset": "toybox", "policy": "dynamic"})
    save_story(story, tmp_path / "s.json")
    assert load_story(tmp_path / "s.json") == story
    data = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert [data[key] for key in ("global_caption", "shot1", "shot2")] == ["global", "Un café — ☕", "two"]


def test_a_plain_story_is_saved_with_released_keys_only():
    assert json.loads(story_json(parse_story(told()))) == RELEASED


def test_keys_of_others_are_kept_apart():
    story = parse_story(told(sample_id="7", caption="x", frames_per_shot=[45, 65]))
    assert story.unread == ("sample_id", "caption") and [shot.frames for shot in story.shots] == [45, 65]


def test_paths_in_a_table_are_from_its_folder_and_not_from_here(tmp_path, monkeypatch):
    table = released_table(tmp_path, "2,json/01.json,")
    (tmp_path / "here" / "json").mkdir(parents=True)
    (tmp_path / "here" / "json" / "01.json").write_text(told(shot1="Another."), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    assert load_stories(table)[0].shots[0].caption == RELEASED["shot1"]


def test_shot_order_is_by_number_not_by_place():
    data = {f"shot{n}": f"number {n}" for n in range(11, 0, -1)}
    story = parse_story(json.dumps(data | {"global_caption": "g"}))
    assert [shot.caption for shot in story.shots] == [f"number {n}" for n in range(1, 12)]


def test_one_frame_count_may_stand_for_all_shots():
    assert [shot.frames for shot in parse_story(told(frames=45)).shots] == [45, 45]
    assert [shot.frames for shot in parse_story(told(frames=[45, None])).shots] == [45, None]


@pytest.mark.parametrize(
    ("text", "field", "fix"),
    [
        (told(shot2=...), None, None),  # a good one, so that the table is known to tell good from bad
        (told(shot1=""), "shot1 is empty", "say in a sentence"),
        (told(shot2=" \n "), "shot2 is empty", "say in a sentence"),
        (told(global_caption=""), "global_caption is empty", "say in a sentence"),
        (told(global_caption=...), "global_caption is missing", "add it"),
        (told(shot1=..., shot2=...), "shot1 is missing", "add it"),
        (told(shot1=...), "shot1 is missing", "renumber up to shot2"),
        (told(shot4="x"), "shot3 is missing", "renumber up to shot4"),
        (told(shot0="x"), "shot0", "counted from shot1"),
        (told(shto3="x"), 'unknown key "shto3"', "did you mean shot3?"),
        (told(Global_Caption="x"), "Global_Caption", "did you mean global_caption?"),
        (told(Shot_3="x"), 'unknown key "Shot_3"', "did you mean shot3?"),
        (told(shot_setting=[]), 'unknown key "shot_setting"', "did you mean shot_settings?"),
        (json.dumps({"global_caption": "g", "captions": ["a"]}), "shot1 is missing", "write what captions"),
        (told(frames="33"), "frames is a text", "a whole number such as 45"),
        (told(frames=33, turns=[[{"frame": 33, "caption": "x"}], None]), "turns of shot1: frame is 33", "to 32"),
        (told(shot1=["x"]), "shot1 is a list", "text in quotes"),
        (told(shot1=None), "shot1 is null", "text in quotes"),
        (told(shot1="x " * 10_000), "shot1 has 10000 words", "at most 500 fit"),
        (told(shot1="x" * 10_000), "shot1 has 10000 characters", "at most 5000 fit"),
        (told(shot1="\ud800"), "shot1 holds half", "write all of it"),
        (told(frames=0), "frames of shot1 is 0", "1, 5, 9"),
        (told(frames=-4), "frames of shot1 is -4", "1, 5, 9"),
        (told(frames=32), "frames of shot1 is 32", "29 or 33"),
        (told(frames=10**9), "frames of shot1 is 1000000000", "up to 961"),
        (told(frames=[33, 33.0]), "frames of shot2 is a fraction", "whole number"),
        (told(frames=[33, True]), "frames of shot2 is true or false", "whole number"),
        (told(frames=[33]), "frames is a list of 1 for 2 shots", "for each"),
        (told(seeds="7"), "seeds is a text", "for each"),
        (told(seeds=[1, -1]), "seed of shot2 is -1", "from 0"),
        (told(seed=2**63), "seed is 9223372036854775808", "leave it out"),
        (told(settings=3), "settings is", '{"policy": "dynamic"}'),
        ("[]", "holds a list", "write an object"),
        ("{}", "shot1 is missing", "add it"),
        ("", "line 1, column 1", "correct the file there"),
        ('{"global_caption": "a",\n "shot1": oops}', "line 2, column 11", "correct the file there"),
        ('{"shot1": "a", "shot1": "b"}', '"shot1" is there twice', "rename or remove"),
        ("[" * 100_000, "nested too deep", "write an object"),
        ('{"seed": ' + "9" * 5000 + "}", "nested too deep", "write an object"),
    ],
)
def test_bad_stories_are_refused_in_one_line(text, field, fix):
    if field is None:
        parse_story(text)
        return
    with pytest.raises(StoryError) as complaint:
        parse_story(text, "tale.json")
    message = str(complaint.value)
    assert message.startswith("tale.json: ") and field in message and fix in message
    assert "\n" not in message and len(message) < 200


def test_files_that_are_no_stories(tmp_path):
    (tmp_path / "latin.json").write_bytes('{"shot1": "café"}'.encode("latin-1"))
    for name, word in (
        ("latin.json", "not UTF-8"),
        ("absent.json", "cannot be read"),
        (".", "cannot be read"),
    ):
        with pytest.raises(StoryError, match=word) as complaint:
            load_story(tmp_path / name)
        assert str(tmp_path) in str(complaint.value) and "\n" not in str(complaint.value)
    with pytest.raises(StoryError, match="cannot be written"):
        save_story(parse_story(told()), tmp_path / "no folder" / "s.json")


def test_bad_shots_made_in_python_are_refused_and_an_untold_story_is_not_saved():
    with pytest.raises(StoryError, match="frames of shot2 is 12.*9 or 13"):
        Story("g", [Shot("a"), Shot("b", frames=12)])
    with pytest.raises(StoryError, match="no shots"):
        story_json(Story("g"))


def released_table(folder, rows: str, columns: str = "shot_num_from_caption,json_path,frame_number"):
    (folder / "demo" / "json").mkdir(parents=True, exist_ok=True)
    (folder / "demo" / "json" / "01.json").write_text(told(), encoding="utf-8")
    (folder / "demo" / "set.csv").write_text(f"{columns}\n{rows}\n", encoding="utf-8")
    return folder / "demo" / "set.csv"


def test_released_csv_is_read(tmp_path):
    rows = '2,demo/json/01.json,"[[0, 81], [81, 126]]"\n1,json/01.json,"[[0, 33]]"\n2,json/01.json,'
    first, second, third = load_stories(released_table(tmp_path, rows))
    assert [shot.frames for shot in first.shots] == [81, 45]
    assert [shot.frames for shot in second.shots] == [33]
    assert third == parse_story(told())


def test_a_csv_row_with_a_film_gives_captions_only(tmp_path):
    columns = "shot_num_from_caption,json_path,video_path,frame_number"
    table = released_table(tmp_path, '2,json/01.json,film.mp4,"[[0, 56], [56,114]]"', columns)
    assert load_stories(table) == [parse_story(told())]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("2,json/02.json,", ["line 2", "json_path 'json/02.json'"]),
        ('2,json/01.json,"[[0, 80], [80, 161]]"', ["line 2", "frames of shot1 is 80", "77 or 81"]),
        ('3,json/01.json,"[[0, 81], [81, 162], [162, 243]]"', ["line 2", "has 3 shots"]),
        ("2,json/01.json,eighty", ["line 2", "frame_number is 'eighty'"]),
        ("2,json/01.json,[]", ["line 2", "frame_number is '[]'", '"[[0, 81], [81, 162]]"']),
        ('2,json/01.json,"[[0, 1e999]]"', ["line 2", "frame_number "]),
        ('2,json/01.json,"[[81, 0]]"', ["line 2", "frame_number "]),
        (f"2,json/01.json,{'[' * 200_000}", ["field larger than field limit"]),
        (f"2,{'x' * 5000},", ["line 2", "is not there"]),
        ("", ["no stories"]),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path, row, words):
    table = released_table(tmp_path, row)
    with pytest.raises(StoryError) as complaint:
        load_stories(table)
    message = str(complaint.value)
    assert all(word in message for word in [str(table), *words]) and "\n" not in message


def test_a_table_without_the_column_is_refused(tmp_path):
    with pytest.raises(StoryError, match="column json_path is missing"):
        load_stories(released_table(tmp_path, "1", "story"))
