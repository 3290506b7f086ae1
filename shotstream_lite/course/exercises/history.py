"""Notebook 03: the paper's own words, and a policy of one's own."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from shotstream_lite.course.classroom import drawn_film, forgotten, returning_story, running_story
from shotstream_lite.course.exercises.verdict import NotYet, ask_for, checker
from shotstream_lite.history import counts, select


@checker
def check_paper_counts(answer: Callable[[int, int], list[int]]) -> str:
    """answer(n_shots, budget): frames a shot by the paper's wording, the whole remainder to the newest shot."""
    for n_shots, budget in ((1, 6), (2, 6), (4, 6), (5, 6), (8, 6), (3, 2), (0, 6)):
        shown = f"{n_shots} earlier shots and a budget of {budget}"
        given = ask_for("a list of counts", list, answer, n_shots, budget, shown=shown)
        wanted = [budget // n_shots] * n_shots if n_shots else []
        if n_shots:
            wanted[-1] += budget % n_shots
        if given == wanted:
            continue
        hint = ""
        if len(given) != n_shots:
            hint = f": one count a shot, so {n_shots} of them"
        elif sum(given) != budget:
            hint = f": they should use the whole budget of {budget}"
        elif given == counts(n_shots, budget):
            hint = ": that is the released code, which hands the remainder out one by one"
        elif given == wanted[::-1]:
            hint = ": the newest shot comes last"
        raise NotYet(f"for {shown} you give {given}, the paper's wording gives {wanted}{hint}")
    return "and you have seen where wording and code part: with more shots than budget the wording keeps one shot only."


@checker
def check_policy(answer: Callable[[Sequence[np.ndarray], int], list[tuple[int, int]]]) -> str:
    """answer(shots, budget): (shot, frame) of the frames to remember, oldest first; must forget less than "dynamic"."""
    films = [drawn_film(running_story(shots)[0]) for shots in (9, 4)]
    films += [drawn_film(returning_story(seed)[0])[:-1] for seed in (0, 1)]
    yours, theirs = [], []
    for shots in films:
        shown = f"{len(shots)} shots and a budget of 6"
        picked = ask_for("a list of pairs (shot, frame)", _pairs, answer, shots, 6, shown=shown)
        _check_picked(picked, [len(shot) for shot in shots], shown)
        yours.append(forgotten(shots, picked))
        theirs.append(forgotten(shots, select([len(shot) for shot in shots], 6)))
    mine, library = np.mean(yours), np.mean(theirs)
    if mine >= library:
        worst = int(np.argmax(np.array(yours) - theirs))
        raise NotYet(
            f"your frames leave the past {mine:.2f} grey levels away on average, dynamic sampling {library:.2f}; the "
            f"worst for you is a film of {len(films[worst])} shots ({yours[worst]:.2f} against {theirs[worst]:.2f})"
        )
    return f"the past is {mine:.2f} grey levels from what you keep, {library:.2f} from what dynamic sampling keeps."


def _pairs(given: Iterable[Iterable[int]]) -> list[tuple[int, ...]]:
    return [tuple(int(i) for i in pair) for pair in given]


def _check_picked(picked: list[tuple[int, ...]], lengths: list[int], shown: str) -> None:
    if not 1 <= len(picked) <= 6:
        raise NotYet(f"for {shown} you keep {len(picked)} frames: keep 1 to 6")
    for pair in picked:
        if len(pair) != 2 or not 0 <= pair[0] < len(lengths) or not 0 <= pair[1] < lengths[pair[0]]:
            raise NotYet(f"for {shown} you keep {pair}: write (shot from 0, frame from 0), both inside the film")
    if picked != sorted(picked):
        raise NotYet(f"for {shown} you keep {picked}: oldest first, or positions and shots would not agree")
