"""The studio without a browser: what a visitor may do, what the page is told, and that nobody disturbs the others."""

import base64
import gc
import io
import json
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import av
import numpy as np
import pytest
import torch
from PIL import Image

from shotstream_lite import cli
from shotstream_lite.fit import Fit, Plan
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.story import StoryError
from shotstream_lite.story_files import parse_story
from shotstream_lite.studio import controls, limits, serve, shooting
from shotstream_lite.studio.answers import ACTIONS, answer
from shotstream_lite.studio.director import Director
from shotstream_lite.studio.facts import facts
from shotstream_lite.studio.house import House
from shotstream_lite.studio.pictures import side_by_side, strip
from shotstream_lite.studio.words import examples, known_phrases

STORY = "A story about a red ball and a blue box, by the sea."
LINES = ("Wide shot: the red ball jumps.", "Close-up: the blue box waves.", "Medium shot: the red ball spins.")


class Page:
    """Does what the page's script does: takes messages in and asks for more."""

    def __init__(self, house: House, name: str = "page") -> None:
        self.director: Director = house.open(name)
        self.heard: list[dict] = []
        self.director.greet()

    def until(self, done: Callable[[], bool], asking: bool = True, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while True:
            for message in self.director.outbox.drain():
                self.heard.append(message)
                if asking and message.get("whole"):
                    self.director.more()
            if done():
                return
            assert time.monotonic() < end, [m["kind"] for m in self.heard]
            time.sleep(0.005)

    def idle(self) -> None:
        """Until nothing is queued or being made."""
        self.until(lambda: not self.story["making"] and (not self.story["queue"] or self.story["held"]))

    def shoot(self, *lines: str, frames: int = 25, **options) -> None:
        for line in lines:
            self.director.shoot(STORY, line, frames, **options)
        self.idle()

    def of(self, kind: str) -> list[dict]:
        return [message for message in self.heard if message["kind"] == kind]

    @property
    def story(self) -> dict:
        return self.of("story")[-1]

    @property
    def prints(self) -> list[str]:
        """Fingerprints of the current version's shots."""
        cards = {card["id"]: card["print"] for card in self.of("card")}
        return [cards[number] for number in self.story["versions"][self.story["current"]]["shots"]]

    @property
    def notices(self) -> str:
        return "\n".join(message["text"] for message in self.of("notice"))


@pytest.fixture
def house(pipeline) -> Iterator[House]:
    house = House([pipeline])
    yield house
    house.shut()


@pytest.fixture
def page(house) -> Page:
    return Page(house)


def strips(film: np.ndarray, counts: list[int]) -> list[str]:
    """A film as the page gets it, in pieces of so many frames."""
    return [strip(piece) for piece in np.split(film, np.cumsum(counts)[:-1])]


def test_queued_shots_play_in_order_and_are_the_film(page):
    page.director.shoot(STORY, LINES[0], 13, 5)
    page.director.shoot(STORY, LINES[1], 25, 6)
    page.idle()
    assert [(m["shot"], m["caption"], m["seed"], m["frames"]) for m in page.of("begin")] == [
        (1, LINES[0], "5", 13),
        (2, LINES[1], "6", 25),
    ]
    assert [m["count"] for m in page.of("frames")] == [1, 8, 4, 1, 8, 12, 4]
    film = page.director.current.session.film()
    assert [m["jpeg"] for m in page.of("frames")] == strips(film, [1, 8, 4, 1, 8, 12, 4])
    assert [card["frames"] for card in page.of("card")] == [13, 25]


def test_no_more_is_made_than_was_asked_for(page):
    page.director.shoot(STORY, LINES[0], 37)
    page.until(lambda: len(page.of("frames")) == 2, asking=False)
    time.sleep(0.4)
    page.until(lambda: True, asking=False)
    assert len(page.of("frames")) == 2  # the first chunk, and then the page was silent
    page.director.more()
    page.until(lambda: len(page.of("frames")) == 3, asking=False)


def test_a_silent_page_does_not_hold_the_stage_for_ever(house, monkeypatch):
    monkeypatch.setattr(shooting, "PATIENCE", 0.2)
    page = Page(house)
    page.director.shoot(STORY, LINES[0], 37)
    page.until(lambda: len(page.of("card")) == 1, asking=False)


def test_what_the_memory_holds_is_told(page):
    page.shoot(LINES[0], LINES[1])
    first, second = page.of("begin")
    assert first["context"] == [] and first["empty"] == 6
    assert [(c["shot"], c["frame"]) for c in second["context"]] == [(1, 0), (1, 5), (1, 10), (1, 14), (1, 19), (1, 24)]
    shares = [m["shares"] for m in page.of("frames") if m["take"] == second["take"]]
    assert [len(s) for s in shares] == [9, 9, 12, 13] and all(abs(sum(s) - 1) < 1e-3 for s in shares)


def test_a_turn_is_heard_recorded_and_replays(house, page):
    page.director.shoot(STORY, LINES[0], 37, 3)
    page.until(lambda: len(page.of("frames")) == 2, asking=False)
    page.director.turn(LINES[1])
    page.director.more()
    page.idle()
    assert [m["caption"] for m in page.of("frames")] == [LINES[0]] * 2 + [LINES[1]] * 3
    assert page.of("card")[0]["turns"] == [{"frame": 9, "caption": LINES[1]}]
    page.shoot(LINES[2])
    other = Page(house, "other")
    other.director.load(page.story["saved"])
    other.idle()
    assert other.prints == page.prints and other.story["saved"] == page.story["saved"]


def test_a_turn_that_comes_too_late_is_the_next_shot(page, monkeypatch):
    decode = ShotStreamPipeline.decoded

    def late(pipeline, chunks):
        for frames in decode(pipeline, chunks):
            if len(frames) == 4:  # the last chunk has read its caption and is not handed out yet
                assert page.director.turn(LINES[1])
                monkeypatch.undo()
            yield frames

    monkeypatch.setattr(ShotStreamPipeline, "decoded", late)
    page.shoot(LINES[0], frames=13)
    assert [card["caption"] for card in page.of("card")] == [LINES[0], LINES[1]]
    assert "next shot" in page.notices and page.of("card")[0]["turns"] == []


def test_nothing_to_turn(page):
    assert page.director.turn(LINES[0]) is False


def test_a_retake_keeps_the_shots_before_and_marks_those_after(page):
    page.shoot(*LINES)
    before = page.prints
    page.director.retake(2, "The blue box jumps.")
    page.idle()
    (version,) = page.story["versions"]
    assert version["stale"] == 1 and page.prints[0] == before[0] and page.prints[2] == before[2]
    assert page.prints[1] != before[1]
    page.director.retell()
    page.idle()
    assert page.story["versions"][0]["stale"] == 0 and len(page.prints) == 3 and page.prints[2] != before[2]
    for _ in range(2):
        page.director.undo()
    page.idle()
    assert page.prints == before and page.story["versions"][0]["stale"] == 0


def test_a_retake_with_the_seed_kept_is_the_same_take(page):
    page.shoot(*LINES)
    before = page.prints
    page.director.retake(1, keep_seed=True)
    page.idle()
    assert page.prints[0] == before[0]
    page.director.retell()  # with their seeds
    page.idle()
    assert page.prints == before


def test_a_new_shot_replaces_the_first_stale_one(page):
    page.shoot(*LINES)
    page.director.retake(1)
    page.idle()
    assert page.story["versions"][0]["stale"] == 2
    page.shoot(LINES[2])
    assert page.story["versions"][0]["stale"] == 1 and len(page.prints) == 3
    page.director.drop_stale()
    page.idle()
    assert len(page.prints) == 2
    page.director.undo()
    page.idle()
    assert len(page.prints) == 3


def test_undo_to_the_start_and_no_further(page):
    page.shoot(LINES[0])
    page.director.undo()
    page.idle()
    assert page.prints == [] and not page.story["undo"] and page.story["saved"] is None
    with pytest.raises(StoryError, match="nothing to undo"):
        page.director.undo()
    page.director.shoot("A yellow cone in the city.", LINES[0], 5)  # another story, nothing was settled
    page.idle()
    assert page.story["global_caption"] == "A yellow cone in the city."


def test_undo_drops_a_shot_being_made(page):
    page.shoot(LINES[0])
    before = page.prints
    page.director.shoot(STORY, LINES[1], 37)
    page.until(lambda: len(page.of("begin")) == 2, asking=False)
    page.director.undo()
    page.idle()
    assert page.prints == before


def test_two_versions_and_their_comparison(page):
    page.shoot(LINES[0])
    page.director.branch()
    page.shoot(LINES[1], frames=13)
    page.director.choose(0)
    page.shoot(LINES[2])
    a, b = page.story["versions"]
    assert a["shots"][0] == b["shots"][0] and a["shots"][1] != b["shots"][1]
    seen = len(page.of("frames"))
    page.director.compare()
    page.until(lambda: sum(m["count"] for m in page.of("frames")[seen:]) == 50)
    assert {m["width"] for m in page.of("frames")[seen:]} == {48 * 2 + 2}
    with pytest.raises(StoryError, match="two versions already"):
        page.director.branch()
    page.director.close_version()
    page.idle()
    assert [version["name"] for version in page.story["versions"]] == ["B"]
    with pytest.raises(StoryError, match="only version"):
        page.director.close_version()
    with pytest.raises(StoryError, match="branch first"):
        page.director.compare()


def test_a_shot_lands_in_the_version_it_was_wished_for(page):
    page.shoot(LINES[0])
    page.director.shoot(STORY, LINES[1], 25)
    page.director.branch()
    page.idle()
    assert [len(version["shots"]) for version in page.story["versions"]] == [2, 1]


def test_stop_keeps_what_was_made_and_holds_the_queue(page):
    page.director.shoot(STORY, LINES[0], 37)
    page.director.shoot(STORY, LINES[1], 13)
    page.until(lambda: len(page.of("frames")) == 2, asking=False)
    page.director.stop()
    page.idle()
    assert [card["frames"] for card in page.of("card")] == [9]
    assert page.story["held"] and len(page.story["queue"]) == 1
    page.director.go_on()
    page.director.more()
    page.idle()
    assert [card["frames"] for card in page.of("card")] == [9, 13]


def test_what_waits_can_be_taken_out(page):
    page.director.shoot(STORY, LINES[0], 37)
    for line in LINES[1:]:
        page.director.shoot(STORY, line, 5)
    page.until(lambda: len(page.story["queue"]) == 2, asking=False)
    page.director.unqueue(page.story["queue"][0]["id"])
    page.idle()
    assert [card["caption"] for card in page.of("card")] == [LINES[0], LINES[2]]


def test_switches_hold_for_the_shot_and_are_saved(house, page):
    settings = {"policy": "none", "phase": 0.0, "steps": [1000, 500]}
    page.shoot(LINES[0])
    page.shoot(LINES[1], settings=settings)
    assert page.of("begin")[1]["context"] == []
    assert parse_story(page.story["saved"]).shots[1].settings == settings
    other = Page(house, "other")
    other.director.load(page.story["saved"])
    other.idle()
    assert other.prints == page.prints


def test_pages_do_not_see_each_other(house):
    one, two = Page(house, "one"), Page(house, "two")
    one.director.shoot(STORY, LINES[0], 37)
    two.director.shoot("A yellow cone in the city.", LINES[1], 13)
    two.until(lambda: bool(two.of("place")), asking=False)
    one.idle(), two.idle()
    assert [card["caption"] for card in one.of("card")] == [LINES[0]]
    assert [card["caption"] for card in two.of("card")] == [LINES[1]]
    # Words with a space between them: the pictures' base64 may spell any word, but no space.
    heard_one, heard_two = json.dumps(one.heard), json.dumps(two.heard)
    assert "the sea" in heard_one and "the city" not in heard_one
    assert "the city" in heard_two and "the sea" not in heard_two
    assert one.director.token != two.director.token


def test_a_page_sees_its_place_in_line(house, monkeypatch):
    pages = [Page(house, str(number)) for number in range(3)]
    gate = threading.Event()
    make = ShotStreamPipeline.shot
    monkeypatch.setattr(ShotStreamPipeline, "shot", lambda *a, **o: (gate.wait(10), make(*a, **o))[1])
    for page in pages:
        page.director.shoot(STORY, LINES[0], 5)
    pages[2].until(lambda: bool(pages[2].of("place")), asking=False)
    assert pages[2].of("place")[-1]["place"] == 2
    gate.set()
    for page in pages:
        page.idle()
        page.until(lambda page=page: page.of("place")[-1]["place"] is None)
    assert [m["place"] for m in pages[2].of("place")] == [2, 1, 0, None]


def test_a_closed_page_frees_what_it_kept(house):
    page, other = Page(house, "one"), Page(house, "two")
    page.shoot(LINES[0], LINES[1])
    reel = weakref.ref(page.director.current.session._reel)
    page.director.shoot(STORY, LINES[2], 37)
    page.until(lambda: len(page.of("begin")) == 3, asking=False)
    house.close("one")  # in the middle of a shot
    other.shoot(LINES[0])
    page.heard.clear()
    deadline = time.monotonic() + 120
    while reel() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
    assert reel() is None and house.pages == 1
    house.close("one")  # twice does no harm


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "ran out of memory.*shorter shot"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), "ran out of memory"),
        (RuntimeError("anything"), "Something went wrong"),
    ],
)
def test_an_accident_leaves_a_page_that_works(page, monkeypatch, error, words):
    page.shoot(LINES[0])
    before = page.prints

    def fail(*arguments, **options):
        yield np.zeros((1, 32, 48, 3), np.uint8)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ShotStreamPipeline, "decoded", fail)
        page.director.shoot(STORY, LINES[1], 5)
        page.idle()
    assert re.search(words, page.notices) and page.prints == before
    page.shoot(LINES[1])
    assert len(page.prints) == 2


@pytest.mark.parametrize(
    ("story", "line", "frames", "words"),
    [
        (STORY, " ", 5, "the shot is empty"),
        ("", LINES[0], 5, "the story is empty"),
        (STORY, "a" * 10_000, 5, "10000 characters"),
        (STORY, "red " * 400, 5, "tokens, the model reads 64"),
        (STORY, LINES[0], 961, "this page shows 241 at most"),
        (STORY, None, 5, "the shot is null"),
    ],
)
def test_bad_wishes_are_refused(page, story, line, frames, words):
    with pytest.raises(StoryError, match=words):
        page.director.shoot(story, line, frames)
    page.idle()
    assert not page.of("begin")


def test_a_length_that_does_not_fit_is_a_notice(page):
    page.director.shoot(STORY, LINES[0], 6)
    page.until(lambda: "not one more than a multiple of 4" in page.notices)


def test_unknown_words_are_named_with_the_nearest(page):
    page.director.shoot(STORY, "The red bal dances <b>.", 5)
    page.idle()
    assert "“bal” (nearest: ball" in page.notices and "“dances”" in page.notices
    assert page.of("card")[0]["caption"] == "The red bal dances <b>."


def test_a_hundred_fast_clicks(house, page):
    refused = 0
    for _ in range(100):
        try:
            page.director.shoot(STORY, LINES[0], 5)
        except StoryError as error:
            assert "waiting already" in str(error)
            refused += 1
    assert refused >= 100 - 2 * limits.MAX_QUEUE
    page.idle()
    assert len(page.prints) == 100 - refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "holds a list"),
        ("[" * 100_000, "nested too deep"),
        ("x" * (limits.MAX_FILE + 1), "no story file"),
        (None, "no story file"),
        ({"shot1": 3}, "global_caption is missing"),
        ({"shot1": "A ball.", "settings": {"height": 4096}}, "this page shows 32 x 48"),
        ({"shot1": "A ball.", "settings": {"shot_frames": 961}}, "this page shows 241"),
        ({"shot1": "A ball.", "settings": {"steps": list(range(1000, 900, -1))}}, "100 steps, this page allows 16"),
        ({"shot1": "A ball.", "shot_settings": [{"budget": 64}]}, "settings of shot1: 64 budget"),
        ({"shot1": "A ball.", "shot_settings": [{"weights": "/etc/passwd"}]}, "this model has"),
        ({"shot1": "A ball.", "frames": [961]}, "this page shows 241"),
        ({f"shot{i}": "A ball." for i in range(1, 200)}, "199 shots, this page tells 100"),
        ({"shot1": "red " * 100}, "tokens, the model reads 64"),
    ],
)
def test_hostile_story_files_are_refused_and_nothing_is_lost(page, text, words):
    page.shoot(LINES[0])
    before = page.prints
    if isinstance(text, dict):
        text = json.dumps(text if "missing" in words else {"global_caption": STORY} | text)
    with pytest.raises(ValueError, match=words) as complaint:
        page.director.load(text, "file.json")
    assert "\n" not in str(complaint.value)
    page.idle()
    assert page.prints == before


def test_a_released_story_file_is_told(page):
    page.director.load(json.dumps({"global_caption": STORY, "shot1": LINES[0], "shot2": LINES[1]}))
    page.idle()
    assert len(page.prints) == 2 and [card["frames"] for card in page.of("card")] == [13, 13]
    assert page.story["global_caption"] == STORY


def test_a_film_is_read_back(page):
    page.shoot(LINES[0], LINES[1], frames=13)
    for number, frames in ((None, 26), (2, 13)):
        with av.open(io.BytesIO(page.director.film(number))) as film:
            assert sum(1 for _ in film.decode(video=0)) == frames
    with pytest.raises(StoryError, match="no film yet"):
        page.director.film(3)


def test_played_again_without_the_model(page, calls):
    page.shoot(LINES[0], LINES[1], frames=25)
    chunks, seen = calls(page.director.stage.pipeline.transformer, "chunk"), len(page.of("frames"))
    page.director.play(2)
    page.until(lambda: sum(m["count"] for m in page.of("frames")[seen:]) == 25)
    page.director.play()
    page.until(lambda: sum(m["count"] for m in page.of("frames")[seen:]) == 75)
    assert not chunks
    again = [m["jpeg"] for m in page.of("frames")[seen:]]
    assert again[:3] == again[6:] == strips(page.director.current.session.film()[25:], [12, 12, 1])


def test_a_new_page_of_the_same_visitor_is_told_everything(page):
    page.shoot(LINES[0])
    page.heard.clear()
    page.director.greet()
    page.until(lambda: bool(page.of("story")))
    assert [m["kind"] for m in page.heard] == ["hello", "card", "story"] and len(page.prints) == 1


def test_a_page_has_one_stream(house, page):
    first, second = page.director.greet(), page.director.greet()
    assert not page.director.heard(first) and page.director.heard(second)
    house.close("page")
    assert not page.director.heard(second)


def test_a_new_story(page):
    page.shoot(LINES[0])
    page.director.restart()
    page.idle()
    assert page.prints == [] and page.story["global_caption"] is None


# What the page's script may ask for


@pytest.mark.parametrize("message", [None, 3, [], "more", {}, {"token": 3}, {"token": ""}, {"do": "save"}])
def test_nothing_is_answered_without_a_token(house, page, message):
    assert "error" in answer(house, message)


def test_only_known_actions_are_done(house, page):
    for do in (None, 3, "close", "__class__", "shoot", ["more"]):
        assert "unknown" in answer(house, {"token": page.director.token, "do": do})["error"]


@pytest.mark.parametrize("do", sorted(ACTIONS))
@pytest.mark.parametrize("number", [None, -1, 10**30, "1", 1.5, [1], True, {"a": 1}])
def test_no_action_falls_over_bad_numbers(house, page, do, number):
    result = answer(house, {"token": page.director.token, "do": do, "number": number, "text": number, "name": number})
    assert result == {} or set(result) == {"error"}


def test_save_film_and_load_by_script(house, page):
    page.shoot(LINES[0], frames=5)
    token = page.director.token
    saved = answer(house, {"token": token, "do": "save"})
    assert parse_story(saved["text"]).shots[0].caption == LINES[0]
    assert answer(house, {"token": token, "do": "film"})["name"] == "film.mp4"
    before = page.prints
    assert answer(house, {"token": token, "do": "load", "text": saved["text"], "name": "../../x.json"}) == {}
    page.idle()
    assert page.prints == before
    answer(house, {"token": token, "do": "load", "text": "{", "name": "<img>"})
    page.until(lambda: "img: not JSON" in page.notices)


# Parts


def test_pages_spread_over_the_devices(pipeline):
    house = House([pipeline, pipeline])
    stages = [house.open(str(number)).stage for number in range(4)]
    assert stages.count(house.stages[0]) == stages.count(house.stages[1]) == 2
    assert house.open("0").stage is stages[0]
    house.shut()


def test_switches_become_settings(pipeline):
    usual = {"memory": True, "jump": True, "history": "dynamic", "budget": 6, "steps": 4, "weights": None}
    assert controls.switched(pipeline, usual) == {}
    assert controls.switched(pipeline, usual | {"memory": False}) == {"policy": "none"}
    assert controls.switched(pipeline, usual | {"jump": False}) == {"phase": 0.0}
    assert controls.switched(pipeline, usual | {"history": "first", "budget": 3.0}) == {"policy": "first", "budget": 3}
    assert controls.switched(pipeline, usual | {"weights": "causal-init"}) == {"weights": "causal-init"}
    for count in controls.STEPS:
        changes = controls.switched(pipeline, usual | {"steps": count})
        assert len(pipeline.settings.changed(changes).steps) == count


@pytest.mark.parametrize(("seconds", "frames"), [(0, 1), (0.5, 9), (2, 33), (2.06, 33), (5, 81)])
def test_seconds_become_frames(seconds, frames):
    assert controls.frames_of(seconds, 16) == frames


def test_examples_and_phrases_are_known_to_the_model(pipeline):
    said = examples(pipeline.text.tokenizer)
    phrases = known_phrases(pipeline.text.tokenizer)
    every = [said["story"], *said["shots"], *(phrase for kind in phrases.values() for phrase in kind)]
    assert all(phrases.values()) and not pipeline.text.unknown_words(" ".join(every))
    pipeline.text.check([f"{said['story']}shot0:{shot}" for shot in said["shots"]])


def test_a_full_model_needs_no_list_of_words():
    assert known_phrases(object()) == {} and "van" in examples(object())["story"]


def test_facts_are_facts(pipeline):
    said = facts(pipeline)
    assert said["parameters"] == sum(p.numel() for p in pipeline.transformer.parameters())
    assert said["attention"].startswith("native") and said["device"].startswith("CPU")
    assert 0 < said["memory_needed"] < said["memory_used"] < said["memory_there"]


def test_strips_and_films_side_by_side():
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
    assert Image.open(io.BytesIO(base64.b64decode(strip(frames)))).size == (12, 3 * 8)
    both = side_by_side(frames, frames[:1])
    assert both.shape == (3, 8, 26, 3) and np.array_equal(both[:, :, :12], frames)
    assert all(np.array_equal(both[i, :, 14:], frames[0]) for i in range(3))


def test_the_command_complains_in_one_line(capsys, monkeypatch):
    assert cli.main(["studio", "--port", "70000"]) == 2
    assert capsys.readouterr().err == "shotstream: --port is 70000: write a number from 1 to 65535, or leave it out\n"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["studio"]) == 2
    assert "pip install 'shotstream_lite[studio]'" in capsys.readouterr().err


def test_the_page_is_built_and_stays_on_this_machine(pipeline, monkeypatch):
    gradio = pytest.importorskip("gradio")
    from shotstream_lite.studio import launch

    asked = {}
    monkeypatch.setattr(gradio.Blocks, "launch", lambda self, **options: asked.update(options))
    monkeypatch.setattr(ShotStreamPipeline, "from_pretrained", lambda *names: pipeline)
    page = launch("toybox")
    assert not {"server_name", "share", "allowed_paths"} & set(asked)  # Gradio's own: this machine, no files
    assert launch("toybox", share=True) and asked["share"]
    assert cli.main(["studio"]) == 0 and asked["server_name"] == "127.0.0.1" and not asked["share"]
    assert cli.main(["studio", "--weights", "teacher"]) == 2
    page.house.shut()


def test_every_device_gets_the_model_as_it_fits_there(monkeypatch, pipeline):
    loaded, plans = [], {"cuda:0": Plan(), "cuda:1": Plan(text_waits=True)}
    monkeypatch.setattr(serve, "devices", lambda: list(plans))
    monkeypatch.setattr(serve, "choose", lambda preset, device: Fit(plans[device]))
    load = lambda *where: loaded.append(where) or pipeline  # noqa: E731
    monkeypatch.setattr(serve.ShotStreamPipeline, "from_pretrained", load)
    monkeypatch.setattr(pytest.importorskip("gradio").Blocks, "launch", lambda *args, **options: None)
    serve.launch("wan-1.3b").house.shut()
    assert loaded == [("wan-1.3b", "student", device, plan) for device, plan in plans.items()]
