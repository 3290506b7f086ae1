"""The blind study hides names, balances sides, keeps votes, and counts them a pair at a time."""

import base64
import json

import numpy as np
import pytest

from shotstream_lite.course.study import NEITHER, BlindStudy, Pair, Study, read_votes, shares

QUESTIONS = ("Which follows the text?", "Which looks better?")


def film(level):
    return np.full((5, 16, 24, 3), level, np.uint8)


def pairs(count=6):
    return [Pair(f"story {i}", f"shot <{i}>", {"secret A": film(40), "secret B": film(200)}) for i in range(count)]


def test_who_always_clicks_left_prefers_nothing_and_who_knows_is_counted():
    study = Study(pairs(), QUESTIONS)
    for voter in ("Ada", "Ben", "Cy"):
        page = BlindStudy(study, voter)
        for _ in range(12):
            page.vote("left")
    assert [np.mean(values) for values in shares(study.votes, "secret A").values()] == [0.5, 0.5]
    knows = BlindStudy(study, "Dora")
    while knows.waiting:
        knows.vote("left" if knows.waiting[0].left == "secret B" else "right")
    hers = [vote for vote in study.votes if vote.voter == "Dora"]
    assert shares(hers, "secret B") == {question: [1.0] * 6 for question in QUESTIONS}


def test_order_and_sides_differ_by_voter_and_come_back_with_the_name():
    study = Study(pairs(), QUESTIONS)
    orders = {voter: [(b.pair.name, b.left) for b in study.ballots(voter)] for voter in ("Ada", "Ben", "Cy")}
    assert len({str(order) for order in orders.values()}) == 3
    assert orders["Ada"] == [(b.pair.name, b.left) for b in study.ballots("Ada")]
    assert {(b.pair.name, b.question) for b in study.ballots("Ada")} == {
        (p.name, q) for p in pairs() for q in QUESTIONS
    }


def test_the_page_tells_no_names_shows_films_and_ends():
    page = BlindStudy(Study(pairs(1), QUESTIONS[:1]), "Ada")
    first = page.films.value
    assert "secret" not in page.head.value + first and first.count("<video") == 2
    assert "shot &lt;0&gt;" in page.head.value and "1 still" in page.head.value
    assert base64.b64decode(page._repr_mimebundle_()["image/png"]).startswith(b"\x89PNG")
    page.buttons[1].click()
    assert page.study.votes[0].chosen is None and all(button.disabled for button in page.buttons)
    page.vote("left")
    assert len(page.study.votes) == 1 and "Thank you" in page.head.value


def test_no_difference_is_half_a_vote_and_votes_are_averaged_within_a_pair():
    study = Study(pairs(2), QUESTIONS[:1])
    for voter, sides in (("Ada", ("secret A", "secret A")), ("Ben", (None, "secret B"))):
        for ballot, chosen in zip(sorted(study.ballots(voter), key=lambda b: b.pair.name), sides, strict=True):
            study.record(voter, ballot, NEITHER if chosen is None else "left" if ballot.left == chosen else "right")
    assert shares(study.votes, "secret A") == {QUESTIONS[0]: [0.75, 0.5]}


def test_votes_are_kept_and_a_second_visit_goes_on(tmp_path):
    path = tmp_path / "votes.jsonl"
    page = BlindStudy(Study(pairs(), QUESTIONS, path), "Ada")
    for _ in range(5):
        page.vote("right")
    again = BlindStudy(Study(pairs(), QUESTIONS, path), "Ada")
    left, waiting = ([(b.pair.name, b.question, b.left) for b in p.waiting] for p in (page, again))
    assert len(left) == 7 and left == waiting
    assert len(BlindStudy(again.study, "Ben").waiting) == 12
    assert read_votes(path, path) == page.study.votes * 2
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0])["voter"] == "Ada"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda folder: Study([], QUESTIONS), "at least one pair"),
        (lambda folder: Study(pairs(1) * 2, QUESTIONS), "same name"),
        (lambda folder: Study([*pairs(1), Pair("x", "", {"a": film(0), "b": film(1)})], QUESTIONS), "'x' holds a, b"),
        (lambda folder: Study(pairs(), QUESTIONS, folder / "none" / "v.jsonl"), "choose another"),
        (lambda folder: Study(pairs(), QUESTIONS, folder), "it is a folder"),
        (lambda folder: BlindStudy(Study(pairs(), QUESTIONS), " "), "no name"),
        (lambda folder: BlindStudy(Study(pairs(), QUESTIONS), "Ada").vote("both"), "'both'"),
        (lambda folder: shares([], "student"), "none yet"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(make, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        make(tmp_path)


def test_a_damaged_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text('{"voter": "Ada"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="votes.jsonl, line 1"):
        Study(pairs(), QUESTIONS, path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="votes.jsonl: not UTF-8"):
        Study(pairs(), QUESTIONS, path)
