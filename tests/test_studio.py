"""The studio without a browser: what a visitor may do, what the page is told, and that nobody disturbs the others."""

import asyncio
import base64
import gc
import io
import json
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from shotstream_lite import cli
from shotstream_lite.course.scenes import running_story, variants
from shotstream_lite.errors import ShotStreamError, StoryError
from shotstream_lite.footage import Reel
from shotstream_lite.models.placement import Fit, Plan
from shotstream_lite.pipeline import ShotStreamPipeline
from shotstream_lite.rivals.telling import offer_rivals
from shotstream_lite.session import StorySession
from shotstream_lite.stills import write_picture
from shotstream_lite.story_files import parse_story
from shotstream_lite.studio import Studio, guard, launch, messages, pictures, production, request
from shotstream_lite.studio import sessions as studio_sessions
from shotstream_lite.studio.guard import guarded, host_name
from shotstream_lite.studio.page import ACTIONS, act, model
from shotstream_lite.studio.session import Session
from shotstream_lite.studio.sessions import Sessions
from shotstream_lite.studio.timeline import Take
from shotstream_lite.toybox.renderer import render

STORY = "A story about a red ball and a blue box, by the sea."
LINES = ("Wide shot: the red ball jumps.", "Close-up: the blue box waves.", "Medium shot: the red ball spins.")


class Page:
    """Does what the page's script does: takes messages in and asks for more."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.session: Session = sessions.open()
        self.heard: list[dict] = []
        self.cards: dict[int, dict] = {}
        self.number = self.after = 0
        self.session.greet()

    def act(self, do: str, **more) -> dict:
        """As the page asks; fails if it is refused."""
        answer = self.ask(do, **more)
        assert "error" not in answer, answer
        return answer

    def ask(self, do: str, **more) -> dict:
        self.number += 1
        return act(self.sessions, {"token": self.session.token, "n": self.number, "do": do, **more})

    def until(self, done: Callable[[], bool], asking: bool = True, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while True:
            for number, message in self.session.outbox.after(self.after):
                self.after = number
                self.heard.append(message)
                self.cards |= {card["id"]: card for card in message.get("cards", ())}
                if asking and message.get("whole"):
                    self.session.more()
            if done():
                return
            assert time.monotonic() < end, [m["kind"] for m in self.heard]
            time.sleep(0.005)

    def idle(self) -> None:
        """Until nothing waits or is being made."""
        self.session.more()
        self.until(lambda: self.story["making"] is None and (not self.story["queue"] or self.story["held"]))

    def shoot(self, *lines: str, frames: int = 13, **options) -> None:
        for line in lines:
            self.session.shoot(STORY, line, frames, **options)
        self.idle()

    def pieces(self, count: int) -> list[dict]:
        """So many messages with frames, and no more asked for."""
        self.until(lambda: len(self.of("frames")) >= count, asking=False)
        return self.of("frames")

    def of(self, kind: str) -> list[dict]:
        return [message for message in self.heard if message["kind"] == kind]

    @property
    def story(self) -> dict:
        return self.of("story")[-1]

    @property
    def strips(self) -> list[dict]:
        return self.story["versions"][self.story["current"]]["strips"]

    @property
    def chosen(self) -> list[dict]:
        """Cards of the takes in the film."""
        return [self.cards[strip["takes"][strip["chosen"]]] for strip in self.strips]

    @property
    def prints(self) -> list[str]:
        return [card.get("print") for card in self.chosen]

    @property
    def stale(self) -> list[bool]:
        return [strip["stale"] for strip in self.strips]

    @property
    def notices(self) -> str:
        return "\n".join(message["text"] for message in self.of("notice"))


@pytest.fixture
def sessions(pipeline) -> Iterator[Sessions]:
    sessions = Sessions([pipeline])
    yield sessions
    sessions.close()


@pytest.fixture
def page(sessions) -> Page:
    return Page(sessions)


def test_queued_shots_play_in_order_and_are_the_film(page):
    page.session.shoot(STORY, LINES[0], 13, 5)
    page.session.shoot(STORY, LINES[1], 13, 6)
    page.idle()
    assert [(m["shot"], m["caption"], m["frames"]) for m in page.of("begin")] == [(1, LINES[0], 13), (2, LINES[1], 13)]
    assert [card["seed"] for card in page.chosen] == ["5", "6"]
    assert [m["count"] for m in page.of("frames")] == [1, 8, 4, 1, 8, 4]
    film = np.concatenate([told.footage.frames() for told in page.session.project.version.film])
    pieces = np.split(film, np.cumsum([1, 8, 4, 1, 8]))
    assert [m["jpeg"] for m in page.of("frames")] == list(map(pictures.strip, pieces))
    assert [(c["shot"], c["frame"]) for c in page.of("begin")[1]["context"]] == [
        (1, frame) for frame in (0, 2, 5, 7, 10, 12)
    ]
    assert all(abs(sum(m["shares"]) - 1) < 0.01 for m in page.of("frames"))


def test_a_shot_by_the_rule_of_a_rival_claims_no_memory_of_ours(sessions):
    """The method's own shots say which frames they remember; a rival's would be others, so none are shown."""
    offer_rivals(sessions.workers[0].pipeline)
    assert "as longlive" in model(sessions)["weights"]
    page = Page(sessions)
    page.shoot(LINES[0])
    page.shoot(LINES[1], settings=request.switched(page.session.pipeline, {"weights": "as longlive"}))
    page.shoot(LINES[2])
    own, rival, last = page.of("begin")
    assert (own["empty"], rival["empty"], rival["context"]) == (6, 0, []) and len(last["context"]) == 6
    assert all(look["shares"] is None for look in page.of("frames") if look["take"] == rival["take"])
    assert parse_story(page.session.save()).shots[1].settings["weights"] == "as longlive"


def test_at_most_a_chunk_is_made_that_nobody_asked_for(page, monkeypatch):
    page.session.shoot(STORY, LINES[0], 13)
    page.pieces(2)
    time.sleep(0.3)
    assert len(page.pieces(2)) == 2  # the first chunk, and then the page was silent
    page.session.more()
    page.pieces(3)
    monkeypatch.setattr(production, "PATIENCE", 0.2)  # a page that is gone does not hold the device
    page.until(lambda: page.story["making"] is None, asking=False)


@pytest.mark.parametrize(("seen", "first"), [(0, 0), (3, 9)])
def test_a_change_holds_from_the_first_chunk_nobody_saw(page, seen, first):
    page.session.shoot(STORY, LINES[0], 13)
    take = page.pieces(2)[0]["take"]
    assert page.act("turn", caption=LINES[1], seen=[take, seen]) == {"from": first}
    page.idle()
    again = [m for m in page.of("frames")[2:]]
    assert again[0]["first"] == first and again[0]["caption"] == LINES[1]
    assert page.chosen[0]["turns"] == [{"frame": first, "caption": LINES[1]}]


def test_a_change_that_comes_too_late_is_refused_aloud_and_the_last_chunk_can_still_change(page):
    assert "shoot the change" in page.ask("turn", caption=LINES[1])["error"]
    page.session.shoot(STORY, LINES[0], 13)
    page.pieces(2)
    page.session.more()
    take = page.pieces(3)[0]["take"]
    assert page.act("turn", caption=LINES[1], seen=[take, 9]) == {"from": 9}  # all is made, not all is seen
    page.until(lambda: len(page.of("frames")) == 4, asking=False)
    assert "Too late" in page.ask("turn", caption=LINES[2], seen=[take, 11])["error"]
    page.session.more()
    page.idle()
    assert "shoot the change" in page.ask("turn", caption=LINES[2], seen=[take, 13])["error"]
    assert len(page.strips) == 1


@pytest.mark.parametrize("seen", [1, 5, 9])
def test_stop_keeps_what_was_seen_to_the_frame_and_holds_the_queue(page, seen):
    page.session.shoot(STORY, LINES[0], 13)
    page.session.shoot(STORY, LINES[1], 5)
    take = page.pieces(2)[0]["take"]
    page.act("stop", seen=[take, seen])
    page.idle()
    assert page.chosen[0]["frames"] == seen and page.story["held"] and len(page.story["queue"]) == 1
    page.act("go on")
    page.idle()
    assert [card["frames"] for card in page.chosen] == [seen, 5]


def test_stop_after_all_was_made_cuts_it_all_the_same_and_it_replays(sessions, page):
    page.session.shoot(STORY, LINES[0], 13)
    page.session.shoot(STORY, LINES[1], 5)
    for count in (2, 3):
        page.pieces(count)
        page.session.more()
    page.until(lambda: len(page.of("begin")) == 2, asking=False)  # the next one is begun, nobody has seen it
    page.act("stop", seen=[page.of("begin")[0]["take"], 10])
    page.until(lambda: page.story["held"] and page.story["making"] is None)
    assert page.chosen[0]["frames"] == 10 and not page.chosen[1].get("print")
    page.act("go on")
    page.idle()
    other = Page(sessions)
    other.act("load", text=page.session.save())
    other.idle()
    assert other.prints == page.prints and None not in other.prints


def test_a_shot_rolls_on_until_the_next_is_shot(page):
    page.act("shoot", story=STORY, caption=LINES[0], seconds=None)
    take = page.pieces(2)[0]["take"]
    assert page.of("begin")[0]["rolling"] and page.of("begin")[0]["frames"] == page.session.settings.longest_shot
    assert page.act("shoot", story="", caption=LINES[1], seen=[take, 7]) == {"cut": True}
    page.idle()
    assert [card["frames"] for card in page.chosen] == [7, 13]


def test_another_take_lies_on_the_strip_and_any_can_come_back(page):
    page.shoot(*LINES, frames=5)
    before = page.prints
    seeds = {card["seed"] for card in page.chosen}
    page.act("retake", number=2)
    page.idle()
    assert page.prints[0] == before[0] and page.prints[1] != before[1] and page.stale == [False, False, True]
    assert page.chosen[1]["seed"] not in seeds and len(page.strips[1]["takes"]) == 2
    page.act("choose", number=2, take=page.strips[1]["takes"][0])
    page.idle()
    assert page.prints == before and page.stale == [False, False, False]
    page.act("retake", number=2, seed=page.chosen[1]["seed"])  # the same seed is the same take
    page.idle()
    assert page.prints[1] == before[1]
    page.act("retake", number=1, caption="The red ball waves.")
    page.idle()
    assert page.stale == [False, True, True]
    assert len(page.session.project.version.film) == 3  # what is out of date is in the film all the same
    page.act("remake", number=1)
    page.idle()
    assert page.stale == [False, False, False] and page.prints[2] != before[2]
    page.act("remove", number=1, take=page.strips[0]["takes"][0])
    page.idle()
    assert len(page.strips[0]["takes"]) == 1


def test_every_destructive_act_can_be_undone(page):
    page.shoot(*LINES[:2], frames=5)
    before = page.prints
    page.act("branch")
    acts = [
        ("new", {}),
        ("load", {"text": json.dumps({"global_caption": STORY, "shot1": LINES[2], "frames": 5})}),
        ("close version", {}),
        ("remove", {"number": 1}),
        ("move", {"number": 1, "by": 1}),
        ("retake", {"number": 1}),
        ("storyboard", {"story": STORY, "text": "\n".join(LINES), "seconds": 0.25}),
        ("shoot", {"story": STORY, "caption": LINES[2], "before": 1, "seconds": 0.25}),
    ]
    for do, more in acts:
        page.act(do, **more)
        page.act("undo")
        page.idle()
        assert page.prints == before and len(page.story["versions"]) == 2, do
    page.act("version", number=0)
    for _ in range(3):
        page.act("undo")
    page.idle()
    assert page.prints == [] and page.story["undo"] is None
    assert "nothing to undo" in page.ask("undo")["error"]


def test_shots_are_inserted_moved_and_taken_out_of_the_queue(page):
    page.shoot(*LINES[:2], frames=5)
    page.act("shoot", story="", caption=LINES[2], before=2, seconds=0.25)
    page.idle()
    assert [card["caption"] for card in page.chosen] == [LINES[0], LINES[2], LINES[1]]
    assert page.stale == [False, False, True]
    page.act("move", number=2, by=1)
    page.idle()
    assert page.stale == [False, False, True] and page.chosen[1]["caption"] == LINES[1]
    page.session.shoot(STORY, LINES[0], 13)
    page.until(lambda: page.story["making"] is not None, asking=False)
    page.session.shoot(STORY, LINES[1], 5)
    page.session.shoot(STORY, LINES[2], 5, before=5)  # made before the one that remembers it
    page.idle()
    assert [card["caption"] for card in page.chosen[3:]] == [LINES[0], LINES[2], LINES[1]] and not any(page.stale[3:])
    for number in (6, 5, 4):
        page.act("remove", number=number)
    page.session.shoot(STORY, LINES[0], 13)
    page.session.shoot(STORY, LINES[1], 5)
    page.until(lambda: len(page.story["queue"]) == 1, asking=False)
    page.act("unqueue", take=page.story["queue"][0])
    page.idle()
    assert [card["caption"] for card in page.chosen] == [LINES[0], LINES[1], LINES[2], LINES[0]]


def test_the_lesson_shows_the_same_shot_without_the_memory(page):
    page.shoot(*LINES[:2])
    before = page.prints
    page.act("without", number=2, what="memory")
    page.until(lambda: bool(page.of("compare")))
    page.idle()
    (told,) = page.of("compare")
    one, other = (page.cards[number] for number in told["takes"])
    assert one["seed"] == other["seed"] and other["settings"] == {"policy": "none"}
    assert told["labels"] == ["as told", "without the memory of earlier shots"] and told["from"] == 0
    assert page.prints == before and len(page.strips[1]["takes"]) == 2  # the film is as it was
    page.act("without", number=2, what="memory")  # it is there already
    assert len(page.session.project.version.strips[1].takes) == 2
    assert set(request.lessons(page.session.pipeline)) == {
        "memory",
        "jump",
        "captions",
        "steps",
    }  # there is no other transformer


def test_everything_is_saved_and_made_again(sessions, page):
    page.shoot(*LINES, frames=5)
    page.act("retake", number=1)
    page.act("without", number=2, what="jump")
    page.until(lambda: bool(page.of("compare")))
    page.idle()
    assert page.stale == [False, True, True]
    saved = page.act("save")["text"]
    assert len(parse_story(saved).shots) == 3  # `shotstream tell` reads it too
    other = Page(sessions)
    other.act("load", text=saved, name="story.json")
    other.idle()
    prints = [[p.cards[take]["print"] for s in p.strips for take in s["takes"]] for p in (page, other)]
    assert prints[0] == prints[1] and len(prints[0]) == len(other.of("begin")) == 5 and other.stale == page.stale
    assert other.act("save")["text"] == saved


def test_switches_hold_for_the_shot_and_are_saved(page):
    usual = {"memory": True, "jump": True, "history": "dynamic", "budget": 6, "steps": 4}
    page.act("shoot", story=STORY, caption=LINES[0], seconds=0.25, switches=usual)
    switches = usual | {"memory": False, "jump": False, "steps": 2}
    page.act("shoot", story=STORY, caption=LINES[1], seconds=0.25, switches=switches)
    page.idle()
    wanted = [{}, {"policy": "none", "phase": 0.0, "steps": [1000.0, 500.0]}]
    assert [dict(shot.settings) for shot in parse_story(page.act("save")["text"]).shots] == wanted


def test_a_story_file_with_a_seed_is_the_film_that_tell_makes(page):
    story = {"global_caption": STORY, "shot1": LINES[0], "shot2": LINES[1], "seed": 3, "frames": [5, None]}
    page.act("load", text=json.dumps(story))
    page.idle()
    session = StorySession.of(page.session.pipeline, parse_story(json.dumps(story)))
    list(session.tell())
    assert page.prints == [pictures.frames_digest(told.footage) for told in session.shots]


def test_stories_of_other_kits_are_opened(page):
    marked = f"[global caption] {STORY} [per shot caption] {LINES[0]} [shot cut] {LINES[1]}"
    for name, text in (("plain.txt", f"{STORY}\n\n{LINES[0]}\n{LINES[1]}\n"), ("prompt.txt", marked)):
        page.act("load", text=text, name=name)
        version = page.session.project.version
        assert version.caption == STORY and [strip.take.shot.caption for strip in version.strips] == list(LINES[:2])
    lines = json.dumps({"prompts": LINES})
    page.act("load", text=lines, name="one.jsonl")
    assert "holds 2 stories" in page.ask("load", text=f"{lines}\n{lines}", name="two.jsonl")["error"]
    assert "not JSON" in page.ask("load", text=marked, name="story.json")["error"]
    page.idle()


def test_a_picture_is_remembered_forgotten_and_saved(sessions, page):
    picture = base64.b64encode(write_picture(np.full((40, 40, 3), 200, np.uint8))).decode()
    assert "did not arrive" in page.ask("remember", story=STORY, picture="?", caption="A ball.")["error"]
    page.act("remember", story=STORY, picture=picture, caption="A ball.")
    page.shoot(LINES[0], LINES[1], frames=5)
    context = page.of("begin")[1]["context"]
    assert [one["shot"] for one in context] == [0, 0, 0, 1, 1, 1] and page.of("begin")[1]["shot"] == 2
    saved = page.act("save")["text"]
    other = Page(sessions)
    other.act("load", text=saved)
    other.idle()
    assert other.prints == page.prints and other.act("save")["text"] == saved
    without = {key: value for key, value in json.loads(saved).items() if key != "studio"}  # as `tell` reads it
    other.act("load", text=json.dumps(without))
    other.idle()
    assert other.prints == page.prints
    page.act("shoot", story=STORY, caption=LINES[2], seconds=None)
    page.until(lambda: page.story["making"], asking=False)
    assert "global_caption with shot3 has" in page.ask("turn", caption="red " * 100)["error"]  # pictures do not count
    page.act("undo")
    page.act("forget", take=page.story["versions"][0]["pictures"][0])
    page.idle()
    assert page.stale == [True, True]
    page.act("undo")
    page.idle()
    assert page.stale == [False, False]


def test_two_versions(page):
    page.shoot(LINES[0], frames=5)
    page.act("branch")
    page.shoot(LINES[1], frames=5)
    page.act("version", number=0)
    page.shoot(LINES[2], frames=5)
    a, b = (version["strips"] for version in page.story["versions"])
    assert a[0]["takes"] == b[0]["takes"] and a[1]["takes"] != b[1]["takes"]
    assert "two versions already" in page.ask("branch")["error"]
    page.act("close version")
    page.idle()
    assert [version["name"] for version in page.story["versions"]] == ["B"]
    assert "only version" in page.ask("close version")["error"]


def test_a_cut_nobody_asked_for_is_found(page, monkeypatch):
    monkeypatch.setattr(pictures, "find_cuts", lambda film, fps, eye: [3])
    page.shoot(LINES[0], frames=5)
    assert page.chosen[0]["unasked"] == [3]


def test_a_request_sent_twice_is_done_once(sessions, page):
    message = {"token": page.session.token, "n": 7, "do": "shoot", "story": STORY, "caption": LINES[0], "seconds": 0.25}
    assert act(sessions, dict(message)) == act(sessions, dict(message))
    page.idle()
    assert len(page.strips) == 1


def test_messages_wait_until_the_page_has_them(page):
    page.session.shoot(STORY, LINES[0], 13)
    page.pieces(2)
    again = page.session.outbox.after(0)  # `after` drops what the page has; nothing was acknowledged since
    assert [m["kind"] for _, m in again] and page.session.outbox.after(10**6) == []
    page.session.more()

    async def wait() -> list:
        return await page.session.outbox.wait(0, 60)

    assert [m["kind"] for _, m in asyncio.run(wait())] == ["frames"]


def test_pages_do_not_see_each_other(sessions):
    one, two = Page(sessions), Page(sessions)
    one.session.shoot(STORY, LINES[0], 13)
    two.session.shoot("A yellow cone in the city.", LINES[1], 5)
    two.until(lambda: bool(two.of("place")), asking=False)
    one.idle(), two.idle()
    # Words with a space between them: the pictures' base64 may spell any word, but no space.
    heard_one, heard_two = json.dumps(one.heard), json.dumps(two.heard)
    assert "the sea" in heard_one and "the city" not in heard_one
    assert "the city" in heard_two and "the sea" not in heard_two
    assert one.session.token != two.session.token


def test_a_page_sees_its_place_in_line_and_how_long_it_takes(sessions, calls, monkeypatch):
    pages = [Page(sessions) for _ in range(3)]
    gate = threading.Event()
    make = ShotStreamPipeline.shot
    monkeypatch.setattr(ShotStreamPipeline, "shot", lambda *a, **o: (gate.wait(10), make(*a, **o))[1])
    for page in pages:
        page.session.shoot(STORY, LINES[0], 5)
    pages[2].until(lambda: pages[2].of("place")[-1]["place"] == 2, asking=False)
    told = calls(pages[2].session, "told_place")
    gate.set()
    for page in pages:
        page.until(lambda page=page: page.of("place")[-1]["place"] is None)
    assert [place for place, _ in told] == [1, 0, None] and told[0][1] > 0


def test_thirty_pages_shoot_two_shots_each_and_leave_nothing(sessions):
    """In turns, nobody twice before everybody once; then memory is where it was."""
    warm = Page(sessions)
    warm.shoot(LINES[0], frames=1)
    gc.collect()
    before = psutil.Process().memory_info().rss
    pages = [Page(sessions) for _ in range(30)]
    for page in pages:
        for line in LINES[:2]:
            page.session.shoot(STORY, line, 1)
    while any(page.story["making"] or page.story["queue"] for page in pages if page.heard) or not pages[-1].heard:
        for page in pages:
            page.until(lambda: True)
        time.sleep(0.01)
    assert all(len(page.prints) == 2 and None not in page.prints for page in pages)
    for page in pages:
        sessions.end(page.session)
    pages.clear()
    del page
    gc.collect()
    assert psutil.Process().memory_info().rss < 1.05 * before


def test_a_session_lives_on_without_its_page_and_then_ends(sessions, monkeypatch):
    other = Page(sessions)

    def leave() -> weakref.ref:
        page = Page(sessions)
        token = page.session.token
        page.shoot(LINES[0], frames=5)
        prints = page.prints
        page.heard.clear(), sessions.of(token).greet()  # a reload, a blip, a sleeping laptop
        page.until(lambda: bool(page.of("story")))
        assert page.prints == prints
        page.session.shoot(STORY, LINES[1], 13)
        page.until(lambda: len(page.of("begin")) == 1, asking=False)
        monkeypatch.setattr(studio_sessions, "KEEP", -1)
        other.session.heard = time.monotonic() + 100
        sessions.sweep()  # in the middle of a shot
        assert len(sessions) == 1 and sessions.of(token) is None
        return weakref.ref(page.session._reel)

    reel = leave()
    other.shoot(LINES[0], frames=5)
    deadline = time.monotonic() + 60
    while reel() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
    assert reel() is None


def test_strangers_do_not_use_the_studio_up(sessions, page, monkeypatch):
    """Two thousand sessions opened and left, ten thousand requests whose answers nobody reads."""
    handles = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    refused = 0
    for _ in range(2000):
        try:
            sessions.open()
        except StoryError as error:
            refused += "the studio is full" in str(error)
    assert len(sessions) == studio_sessions.MAX_SESSIONS and refused == 2000 - studio_sessions.MAX_SESSIONS + 1
    for number in range(10_000):
        page.session.notice(str(number))
        if number % 20 == 0:
            page.ask("undo")
            page.session.tell_story()
    assert len(page.session.outbox.after(0)) <= 2 * messages.UNREAD
    for session in list(sessions._sessions.values()):
        session.heard -= 60 * (session is not page.session)
    sessions.open()  # those who told nothing make room
    assert len(sessions) == 2
    gc.collect()
    if handles:
        assert len(list(Path("/proc/self/fd").iterdir())) <= handles + 4


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "ran out of memory.*shorter shot"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), "ran out of memory"),
        (OSError(28, "No space left on device"), "No space left.*TMPDIR"),
        (RuntimeError("anything"), "Something went wrong"),
    ],
)
def test_an_accident_leaves_a_page_that_works(page, monkeypatch, error, words):
    page.shoot(LINES[0], frames=5)
    before = page.prints

    def fail(*arguments, **options):
        yield np.zeros((1, 32, 48, 3), np.uint8)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ShotStreamPipeline, "decoded", fail)
        page.session.shoot(STORY, LINES[1], 5)
        page.idle()
    assert re.search(words, page.notices) and page.prints == before
    page.shoot(LINES[1], frames=5)
    assert len(page.prints) == 2


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"caption": " "}, "the shot is empty"),
        ({"story": ""}, "the story is empty"),
        ({"caption": "a" * 10_000}, "10000 characters"),
        ({"caption": "red " * 400}, "tokens, the model reads 64"),
        ({"seconds": 60}, "this model was trained on 13 at most"),
        ({"seconds": "two"}, "no number of seconds"),
        ({"caption": None}, "the shot is null"),
        ({"seed": "-5"}, "the seed is '-5'"),
        ({"seed": "9" * 30}, "the seed is"),
        ({"before": 5}, "there is no shot 5"),
        ({"switches": {"weights": "/etc/passwd"}}, "this model has"),
    ],
)
def test_bad_wishes_are_refused_and_the_corrected_one_is_made(page, wish, words):
    good = {"story": STORY, "caption": LINES[0], "seconds": 0.25, "seed": "", "switches": {}}
    assert words in page.ask("shoot", **good | wish)["error"]
    page.act("shoot", **good)
    page.idle()
    assert len(page.prints) == 1


def test_unknown_words_are_named_with_the_nearest(page):
    page.shoot("The red bal dances <b>.", frames=5)
    assert "“bal” (nearest: ball" in page.notices and "“dances”" in page.notices
    assert page.chosen[0]["caption"] == "The red bal dances <b>."


def test_a_hundred_fast_clicks(page):
    refused = sum(
        "waiting already" in page.ask("shoot", story=STORY, caption=LINES[0], seconds=0.25).get("error", "")
        for _ in range(100)
    )
    assert refused >= 100 - 2 * request.MAX_QUEUE
    page.idle()
    assert len(page.prints) == 100 - refused


STUDIO = {"takes": [{"caption": "A ball.", "past": []}], "current": 0}
STUDIO |= {"versions": [{"global_caption": "A ball.", "strips": [[0]], "chosen": [0]}]}
AROUND = {"takes": [{"caption": "A ball.", "past": [0]}]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[]", "holds a list"),
        ("[" * 100_000, "nested too deep"),
        ("x" * (request.MAX_FILE + 1), "no story file"),
        (None, "no story file"),
        ({"shot1": 3}, "shot1 is a number"),
        ({"shot1": "A ball.", "settings": {"height": 4096}}, "this page shows 32 x 48"),
        ({"shot1": "A ball.", "settings": {"shot_frames": 961}}, "13 at most"),
        ({"shot1": "A ball.", "settings": {"steps": list(range(1000, 900, -1))}}, "100 steps, this page allows 16"),
        ({"shot1": "A ball.", "shot_settings": [{"budget": 64}]}, "shot1: 64 budget"),
        ({"shot1": "A ball.", "shot_settings": [{"weights": "/etc/passwd"}]}, "this model has"),
        ({"shot1": "A ball.", "frames": [961]}, "13 at most"),
        ({f"shot{i}": "A ball." for i in range(1, 200)}, "199 shots, this page tells 100"),
        ({"shot1": "red " * 100}, "tokens, the model reads 64"),
        ({"shot1": "A ball.", "studio": 3}, "not what the page saved"),
        ({"shot1": "A ball.", "studio": STUDIO | AROUND}, "not what the page saved"),
        (
            {"shot1": "A ball.", "studio": STUDIO | {"takes": [{"caption": "A ball.", "past": [-1]}]}},
            "not what the page",
        ),
        (
            {"shot1": "A ball.", "studio": STUDIO | {"takes": [{"caption": "A", "frames": 961, "past": []}]}},
            "13 at most",
        ),
        ({"shot1": "A ball.", "studio": STUDIO | {"versions": []}}, "holds no version"),
    ],
)
def test_hostile_story_files_are_refused_and_nothing_is_lost(page, text, words):
    page.shoot(LINES[0], frames=5)
    before = page.prints
    if isinstance(text, dict):
        text = json.dumps({"global_caption": STORY} | text)
    with pytest.raises(ShotStreamError, match=words) as complaint:
        page.session.load(text, "file.json")
    assert "\n" not in str(complaint.value)
    page.idle()
    assert page.prints == before


def test_a_film_and_its_shots_are_fetched(page, calls):
    page.shoot(LINES[0], LINES[1])
    chunks = calls(page.session.pipeline.transformer, "chunk")
    for number, frames in ((None, 26), (2, 13)):
        with av.open(io.BytesIO(page.session.film(number))) as film:
            assert sum(1 for _ in film.decode(video=0)) == frames
    told = page.session.frames(page.strips[1]["takes"][0])
    shot = page.session.project.version.film[1].footage
    assert [strip["jpeg"] for strip in told["strips"]] == [
        pictures.strip(shot.frames(0, 12)),
        pictures.strip(shot.frames(12)),
    ]
    assert [look["first"] for look in told["looks"]] == [0, 1, 9] and told["begin"]["shot"] == 2 and not chunks
    for wrong in (3, None, "1"):
        with pytest.raises(StoryError):
            page.session.frames(wrong)


# What the page may ask for


@pytest.mark.parametrize("message", [None, 3, [], "more", {}, {"token": 3}, {"token": ""}, {"do": "save"}])
def test_nothing_is_answered_without_a_token(sessions, page, message):
    assert act(sessions, message) is None


def test_only_known_actions_are_done(sessions, page):
    for do in (None, 3, "close", "__class__", "work", ["more"]):
        assert "unknown" in act(sessions, {"token": page.session.token, "n": 1, "do": do})["error"]


@pytest.mark.parametrize("do", sorted(ACTIONS))
def test_no_action_falls_over_bad_values(page, do):
    for bad in (None, -1, 0.0, 10**30, "1", 1.5, [1], True, {"a": 1}):
        names = (
            "number",
            "text",
            "name",
            "take",
            "seen",
            "what",
            "by",
            "before",
            "one",
            "caption",
            "story",
            "prepared",
        )
        answer = page.ask(do, **{name: bad for name in names})
        assert answer == {} or set(answer) == {"error"}, (do, bad)


def asked(app, path="/", method="GET", **headers) -> tuple[int, dict, bytes]:
    """An ASGI application's answer."""
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    asyncio.run(app(scope | {"headers": lines, "root_path": "", "scheme": "http"}, receive, send))
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


def test_the_page_answers_to_its_own_names_and_pages_only():
    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    page = guarded(app, ["studio.example"], None)
    for host in ("localhost:7860", "127.0.0.1", "[::1]:7860", "192.168.0.7:7860", "studio.example", "Studio.Example:1"):
        assert asked(page, host=host)[0] == 200, host
    for host in ("evil.example:7860", "", "127.0.0.1.evil.example", "localhost.evil.example:7860"):
        assert asked(page, host=host)[0] == 403, host
    assert b"--hosts evil.example" in asked(page, host="evil.example:7860")[2]
    assert asked(guarded(app, ["*"], None), host="evil.example")[0] == 200
    assert asked(page, host="localhost:7860", origin="http://localhost:7860")[0] == 200
    for origin in ("http://evil.example", "null", "http://localhost:1"):
        assert asked(page, host="localhost:7860", origin=origin)[0] == 403, origin
    for path in ("/gradio_api/upload", "/gradio_api/info", "/monitoring", "/docs", "/studios", "/gradio_api/file=a"):
        assert asked(page, path, host="localhost")[0] == 404, path  # of Gradio's routes only what its page needs
    locked = guarded(app, [], ("ada", "pass:word"))
    right = base64.b64encode(b"ada:pass:word").decode()
    assert asked(locked, host="localhost", authorization=f"Basic {right}")[0] == 200
    for wrong in ("", "Basic", "Basic !", "Bearer x", f"Basic {base64.b64encode(b'ada:word').decode()}"):
        status, headers, _ = asked(locked, host="localhost", authorization=wrong)
        assert status == 401 and b"www-authenticate" in headers


def test_host_names():
    assert list(map(host_name, ("A.b:1", "a", "[::1]:80", "[::1]", ""))) == ["a.b", "a", "::1", "::1", ""]


# Parts


def test_sessions_spread_over_the_devices(pipeline):
    sessions = Sessions([pipeline, pipeline])
    workers = [sessions.open().worker for _ in range(4)]
    assert workers.count(sessions.workers[0]) == workers.count(sessions.workers[1]) == 2
    sessions.close()


@pytest.mark.parametrize(("seconds", "frames"), [(None, None), (0, 1), (0.5, 9), (0.75, 13)])
def test_seconds_become_frames(pipeline, seconds, frames):
    assert request.frames_of(seconds, pipeline.settings) == frames


def test_examples_and_phrases_are_known_to_the_model(pipeline):
    said = request.examples(pipeline.text.tokenizer)
    phrases = request.known_phrases(pipeline.text.tokenizer)
    every = [said["story"], *said["shots"], *(phrase for kind in phrases.values() for phrase in kind)]
    assert all(phrases.values()) and not pipeline.text.unknown_words(" ".join(every))
    pipeline.text.check([f"{said['story']}shot0:{shot}" for shot in said["shots"]])
    assert request.known_phrases(object()) == {} and "van" in request.examples(object())["story"]


def test_the_card_compares_what_captions_leave_out_on_both_sides_of_a_cut():
    story, _ = running_story(3)
    before, _, after = story.takes
    crowned, reel, model = variants(story, 2)["hat"]["crown"].takes[2], Reel(), SimpleNamespace(name="toybox")
    wide, blown, near, wrong = (
        reel.append(render(story, take).numpy()) for take in (before, replace(before, event="wind"), after, crowned)
    )
    hat, stripe, tint = messages.scorecard(model, [wide], [near, wrong])
    assert hat == {"name": "hat", "earlier": "party hat", "read": ["party hat", "crown"]}
    assert (stripe["read"], tint["read"]) == (["middle"] * 2, ["warm"] * 2)
    assert messages.scorecard(model, [blown], [near])[0]["earlier"] == "none"  # the wind has taken it
    assert messages.scorecard(SimpleNamespace(name="wan-1.3b"), [wide], [near]) == []


def test_facts_are_facts(pipeline):
    said = messages.facts(pipeline)
    assert said["parameters"] == sum(p.numel() for p in pipeline.transformer.parameters())
    assert said["attention"].startswith("native") and said["device"].startswith("CPU")
    assert 0 < said["memory_needed"] < said["memory_used"] < said["memory_there"]


def test_pictures():
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
    assert Image.open(io.BytesIO(base64.b64decode(pictures.strip(frames)))).size == (12, 3 * 8)
    other = frames.copy()
    other[1] += 1
    assert pictures.first_difference(frames, other) == 1 and pictures.first_difference(frames, frames[:2]) == 2


def test_cards_say_what_is_asked_before_it_is_made():
    from shotstream_lite.story import Shot

    card = Take(Shot("A ball.", None, 2**60)).card()
    assert card["caption"] == "A ball." and card["seed"] == str(2**60) and "print" not in card


# Opening it


@pytest.fixture
def opened(pipeline, monkeypatch) -> Callable[..., Studio]:
    pytest.importorskip("gradio", reason="the studio needs Gradio: pip install '.[studio]'")
    monkeypatch.setattr(ShotStreamPipeline, "from_pretrained", lambda *names: pipeline)
    monkeypatch.setattr(studio_sessions, "devices", lambda: ["cpu"])
    monkeypatch.setattr(studio_sessions, "choose", lambda preset, device: Fit(Plan()))
    return lambda **options: launch("toybox", block=False, **options)


def fetched(url: str, body: dict | None = None) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    open_plainly = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    try:
        with open_plainly(urllib.request.Request(url, data), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize("proxy", ["", "http://127.0.0.1:9", "socks5://127.0.0.1:1080", "socks://127.0.0.1:1080"])
def test_the_page_opens_behind_any_proxy_and_serves_nothing_else(opened, monkeypatch, tmp_path, proxy):
    for name in ("http_proxy", "https_proxy", "all_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy)
    (tmp_path / "sea_side.json").write_text(json.dumps({"global_caption": STORY, "shot1": LINES[0], "frames": 5}))
    with opened(stories=tmp_path) as studio:
        url = studio.url
        assert url.startswith("http://127.0.0.1:") and b"gradio" in fetched(url)[1]
        assert b'id=\\"studio\\" src=\\"studio/\\"' in fetched(f"{url}config")[1]
        url += "studio/"  # the frame in Gradio's page
        assert b"studio.js" in fetched(url)[1]
        told = json.loads(fetched(f"{url}api/model")[1])
        assert (told["height"], told["longest"], told["stories"]) == (32, 13, ["sea_side"])
        assert fetched(f"{url}api/poll", {"token": "?"})[0] == 410
        token = json.loads(fetched(f"{url}api/begin", {})[1])["token"]
        for page in "ab":  # a duplicated tab: the latest has the story, the other is told so
            assert fetched(f"{url}api/poll", {"token": token, "after": None, "page": page})[0] == 200
        assert fetched(f"{url}api/poll", {"token": token, "after": 1, "page": "a"})[0] == 409
        said = {"token": token, "n": 1, "do": "shoot", "story": STORY, "caption": LINES[0], "seconds": 0.5}
        assert json.loads(fetched(f"{url}api/act", said)[1]) == {"cut": False}
        after, heard = 0, set()
        while "frames" not in heard:  # a shot is made
            news = json.loads(fetched(f"{url}api/poll", {"token": token, "after": after, "page": "b"})[1])["messages"]
            after, heard = news[-1]["seq"], heard | {m["kind"] for m in news}
        said = {"token": token, "n": 2, "do": "load", "prepared": "sea_side"}
        assert json.loads(fetched(f"{url}api/act", said)[1]) == {}
        kinds = {
            m["kind"] for m in json.loads(fetched(f"{url}api/poll", {"token": token, "after": None})[1])["messages"]
        }
        assert "story" in kinds
        for path in (
            "etc/passwd",
            "../pyproject.toml",
            "static/page.html",
            "queue/join",
            "upload",
            "gradio_api/upload",
            "docs",
        ):
            assert fetched(url + path)[0] == fetched(studio.url + path)[0] == 404, path
        assert fetched(f"{url}api/act", {"text": "x" * 3_000_000})[0] == 413
    with pytest.raises(urllib.error.URLError):
        fetched(url)


@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_hosts_of_ipv6(opened, capfd, host):
    """And its first port is taken already, which Gradio would find out by an error that it prints."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with ExitStack() as taken:
        with suppress(OSError):  # or somebody has it
            taken.enter_context(socket.create_server(("::1", guard.PORTS[0]), family=socket.AF_INET6))
        with opened(host=host) as studio:
            out, err = capfd.readouterr()
            assert re.fullmatch(r"http://\[::1\]:\d+/", studio.url) and studio.url in out and not err
            assert fetched(studio.url)[0] == fetched(f"{studio.url}studio/")[0] == 200


def test_in_a_notebook_gradio_shows_it_below_the_cell(opened, monkeypatch):
    shown: list = []
    monkeypatch.setattr(pytest.importorskip("IPython.display"), "display", shown.append)
    monkeypatch.setattr("shotstream_lite.studio.in_notebook", lambda: True)
    with opened(height=600) as studio:
        assert f'<iframe src="{studio.url}" width="100%" height="600"' in shown[0].data


def test_close_ends_what_was_opened(model_folder, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setattr(studio_sessions, "devices", lambda: ["cpu"])
    monkeypatch.setattr(studio_sessions, "choose", lambda preset, device: Fit(Plan()))
    threads = threading.active_count()
    studio = launch(model_folder, block=False)
    weights = weakref.ref(studio.sessions.workers[0].pipeline)
    page = Page(studio.sessions)
    page.shoot(LINES[0], frames=5)
    del page
    studio.close()
    studio.close()
    gc.collect()
    assert (
        weights() is None and threading.active_count() <= threads + 1
    )  # the captions' own thread goes with its encoder


def test_a_password_is_for_all_and_a_public_link_is_asked_for_through_the_proxy(opened, monkeypatch):
    from gradio import networking

    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(networking, "setup_tunnel", lambda **_: "https://" + urllib.request.getproxies()["https"][7:])
    with opened(auth="ada:pass", share=True) as studio:
        assert studio.url == "https://127.0.0.1:9" and "no_proxy" not in os.environ
        for path in ("", "config", "studio/", "studio/api/model", "gradio_api/heartbeat/x"):
            assert fetched(studio._app.local_url + path)[0] == 401, path


def test_gradio_gets_a_folder_of_its_own_where_the_usual_one_is_not_ours(monkeypatch, tmp_path):
    private_folder = pytest.importorskip("shotstream_lite.studio.app").private_folder
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    private_folder()
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    private_folder()
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert folder != tmp_path and folder.is_dir()
    folder.rmdir()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "70000"], "--port is 70000: write a number from 1 to 65535, or leave it out"),
        (["--host", "no.such.host.invalid"], "--host 'no.such.host.invalid' is no address of this machine"),
        (["--host", "192.0.2.1"], "choose another --port or --host"),
        (["--auth", "ada"], "--auth is no NAME:PASSWORD"),
        (["--stories", "nowhere"], "--stories nowhere: there are no story files"),
        (["--weights", "teacher"], "choose one that streams"),
    ],
)
def test_bad_options_are_one_line(opened, capsys, options, words):
    assert cli.main(["studio", *options]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_every_device_gets_the_model_as_it_fits_there(opened, monkeypatch, pipeline):
    loaded, plans = [], {"cuda:0": Plan(), "cuda:1": Plan(text_waits=True)}
    monkeypatch.setattr(studio_sessions, "devices", lambda: list(plans))
    monkeypatch.setattr(studio_sessions, "choose", lambda preset, device: Fit(plans[device]))
    load = lambda *where: loaded.append(where) or pipeline  # noqa: E731
    monkeypatch.setattr(ShotStreamPipeline, "from_pretrained", load)
    opened().close()
    assert loaded == [("toybox", "student", device, plan) for device, plan in plans.items()]


def test_what_gradio_raises_is_one_line_and_ends_the_models_work(opened, capsys, monkeypatch):
    ended: list = []
    monkeypatch.setattr(Sessions, "close", lambda self: ended.append(self))
    monkeypatch.setattr("gradio.Blocks.launch", lambda *_, **__: {}["startup-events"])
    assert cli.main(["studio"]) == 2 and len(ended) == 1
    said = capsys.readouterr().err
    assert "startup-events" in said and "choose another --port" in said and said.count("\n") == 1


def test_without_gradio_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("builtins.__import__", _without("shotstream_lite.studio.app"))
    assert cli.main(["studio"]) == 2
    assert "pip install 'shotstream_lite[studio]'" in capsys.readouterr().err


def _without(missing: str) -> Callable:
    original = __import__

    def load(name, *arguments, **options):
        if name == missing:
            raise ImportError(name)
        return original(name, *arguments, **options)

    return load
