"""A blind preference study a class runs on itself: two films of one story, unnamed, and a vote (paper Table 2).

Which film stands left, and which pair comes first, is shuffled for every voter by their name; each of the two films
stands left as often as the other. Votes are kept as JSON lines, one file a voter or one for all.
"""

import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import ipywidgets
import numpy as np
from PIL import Image

from shotstream_lite.course.widgets import Pictured, film_figure
from shotstream_lite.files import read_text
from shotstream_lite.stills import film_strip

SIDES = ("left", "right")
NEITHER = "no difference"


@dataclass(frozen=True, eq=False)
class Pair:
    """Two films of one story by their names, which no voter sees; `asked` is the text both were made from.

    Shape: films: uint8 [frames, H, W, 3] each.
    """

    name: str
    asked: str
    films: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Ballot:
    """What one voter is asked once: a pair, a question, and the names of the films on either side."""

    pair: Pair
    question: str
    left: str
    right: str


@dataclass(frozen=True)
class Vote:
    """An answer: `chosen` is the name of a film, or None for no difference."""

    voter: str
    pair: str
    question: str
    left: str
    right: str
    chosen: str | None


class Study:
    """Pairs, questions and all votes so far.

    Args:
        path: a file of JSON lines to which every vote is added at once, and whose votes are taken up; None keeps them
            in memory only.

    Raises ValueError for pairs that cannot be compared, a file that is none of ours, or one that cannot be written.
    """

    def __init__(self, pairs: Sequence[Pair], questions: Sequence[str], path: str | Path | None = None) -> None:
        if not pairs or not questions:
            raise ValueError("a study needs at least one pair of films and one question")
        names = {pair.name for pair in pairs}
        if len(names) < len(pairs):
            raise ValueError("two pairs have the same name: give each its own")
        for pair in pairs:
            if len(pair.films) != 2 or set(pair.films) != set(pairs[0].films):
                shown = f"pair {pair.name!r} holds {', '.join(pair.films)}"
                raise ValueError(f"{shown}: every pair needs the same two names, as {', '.join(pairs[0].films)}")
        self.pairs, self.questions = tuple(pairs), tuple(questions)
        self.path = Path(path) if path else None
        self.votes: list[Vote] = []
        if self.path:
            try:
                self.path.touch()
            except OSError as error:
                raise ValueError(f"{path}: votes cannot be written there ({error.strerror}): choose another") from None
            self.votes = read_votes(self.path)

    def ballots(self, voter: str) -> list[Ballot]:
        """What `voter` has still to answer, in their order. The same name gets the same order and sides again."""
        if not voter.strip():
            raise ValueError("the voter has no name: write one, so that a second visit goes on where the first stopped")
        dice = random.Random(voter)
        order = list(self.pairs)
        dice.shuffle(order)
        swaps = [number % 2 == 1 for number in range(len(order))]
        dice.shuffle(swaps)
        done = {(vote.pair, vote.question) for vote in self.votes if vote.voter == voter}
        left = []
        for pair, swap in zip(order, swaps, strict=True):
            sides = sorted(pair.films, reverse=swap)
            left += [Ballot(pair, question, *sides) for question in self.questions if (pair.name, question) not in done]
        return left

    def record(self, voter: str, ballot: Ballot, side: str) -> Vote:
        """Keeps an answer: "left", "right" or "no difference". Raises ValueError for another."""
        if side not in (*SIDES, NEITHER):
            raise ValueError(f"the answer is {side!r}: give one of {', '.join((*SIDES, NEITHER))}")
        chosen = None if side == NEITHER else getattr(ballot, side)
        vote = Vote(voter, ballot.pair.name, ballot.question, ballot.left, ballot.right, chosen)
        if self.path:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(vote)) + "\n")
        self.votes.append(vote)
        return vote


def read_votes(*paths: str | Path) -> list[Vote]:
    """The votes of one or more files, of a whole class for example. Raises ValueError with file and line."""
    votes = []
    for path in paths:
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            try:
                votes.append(Vote(**json.loads(line)))
            except (ValueError, TypeError):
                raise ValueError(f"{path}, line {number}: is no vote: remove the line or name another file") from None
    return votes


def shares(votes: Sequence[Vote], film: str) -> dict[str, list[float]]:
    """For each question the share of votes that `film` got, one number a pair; no difference is half a vote.

    Voters judge the same few stories, so a story and not a vote is what an interval resamples (`plots.bars` does).
    Raises ValueError if nobody has seen a film of that name.
    """
    if not any(film in (vote.left, vote.right) for vote in votes):
        seen = sorted({name for vote in votes for name in (vote.left, vote.right)})
        raise ValueError(f"no vote about {film!r}: the films voted on are {', '.join(seen) or 'none yet'}")
    points: dict[str, dict[str, list[float]]] = {}
    for vote in votes:
        if film in (vote.left, vote.right):
            point = 0.5 if vote.chosen is None else float(vote.chosen == film)
            points.setdefault(vote.question, {}).setdefault(vote.pair, []).append(point)
    return {question: [float(np.mean(p)) for p in by_pair.values()] for question, by_pair in points.items()}


class BlindStudy(Pictured):
    """The page of one voter: two films that loop, a question, three buttons. Where no kernel runs, stills."""

    def __init__(self, study: Study, voter: str) -> None:
        self.study, self.voter = study, voter
        self.waiting = study.ballots(voter)
        self._stills = _stills(self.waiting[0] if self.waiting else None)
        self.head, self.films = ipywidgets.HTML(), ipywidgets.HTML()
        self.buttons = [ipywidgets.Button(description=side) for side in ("left", NEITHER, "right")]
        for button in self.buttons:
            button.on_click(lambda pressed: self.vote(pressed.description))
        super().__init__([self.head, self.films, ipywidgets.HBox(self.buttons)])
        self._show()

    def vote(self, side: str) -> None:
        """Answers the ballot on the page and shows the next; does nothing after the last."""
        if self.waiting:
            self.study.record(self.voter, self.waiting[0], side)
            del self.waiting[0]
            self._show()

    def _show(self) -> None:
        for button in self.buttons:
            button.disabled = not self.waiting
        if not self.waiting:
            self.head.value, self.films.value = (
                "<b>Thank you, that was all.</b> Now count: see <code>shares</code>.",
                "",
            )
            return
        ballot = self.waiting[0]
        left = f"{len(self.waiting)} still to answer"
        self.head.value = f"<b>{escape(ballot.question)}</b> ({left})<br>Asked for: {escape(ballot.pair.asked)}"
        shown = zip(SIDES, (ballot.left, ballot.right), strict=True)
        figures = "".join(film_figure(ballot.pair.films[name], side) for side, name in shown)
        self.films.value = f'<div style="display:flex">{figures}</div>'

    def picture(self) -> tuple[bytes, str]:
        """As `Pictured.picture`: the films of the voter's first ballot, left above right."""
        return self._stills, "two films in rows, as the first voter sees them"


def _stills(ballot: Ballot | None) -> bytes:
    """PNG of a ballot's films, left above right; a blank if there is none."""
    films = [ballot.pair.films[ballot.left], ballot.pair.films[ballot.right]] if ballot else []
    picture = Image.fromarray(film_strip(films, columns=8)) if films else Image.new("RGB", (2, 2), "white")
    picture.thumbnail((960, 960))
    file = io.BytesIO()
    picture.quantize(128).save(file, "PNG", optimize=True)
    return file.getvalue()
