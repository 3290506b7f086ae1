"""Exercises of notebook 14: what a rule of memory costs, and a rule of one's own."""

from collections.abc import Callable, Sequence

from shotstream_lite.course.exercises.verdict import NotYet, ask_for, checker, expect_number, whole_numbers

REMEMBERED = 6  # latents of earlier shots


@checker
def check_pairs(answer: Callable[[int, int], int]) -> str:
    """answer(shot, latents): frame pairs of Self Forcing's shot number `shot`, from 0, in chunks of three."""
    for shot, latents in ((0, 3), (0, 12), (2, 6), (19, 21)):
        ends = [shot * latents + end for end in range(3, latents + 1, 3)]
        wanted = 5 * sum(3 * end for end in ends)
        hints = {
            4 * sum(3 * end for end in ends): "after the four steps comes a clean pass",
            5 * sum(3 * (end - 3) for end in ends): "a chunk sees itself, too",
            5 * sum(3 * end for end in range(3, latents + 1, 3)): "earlier shots are seen as well",
            5 * sum(ends): "three latents ask, and not one",
            5 * latents * (shot + 1) * latents: "a chunk does not see those after it",
        }
        expect_number(answer, shot, latents, wanted=wanted, shown=f"shot {shot} of {latents} latents", hints=hints)
    return "it grows with every shot. After twenty of them, how much of a film is worth looking at?"


@checker
def check_own_rule(answer: Callable[[Sequence[int], int], Sequence[int]]) -> str:
    """answer(cuts, start): the latents that the chunk at `start` remembers, oldest first.

    cuts: the first latent of every shot so far, the present one last. All of the shot's own, at most `REMEMBERED` of
    earlier ones, at least one of each of the latest `REMEMBERED` earlier shots.
    """
    films = (((0,), 0), ((0,), 6), ((0, 6), 6), ((0, 9, 12), 18), ((0, 6, 12, 18, 30, 33, 36, 48, 54), 60))
    for cuts, start in films:
        shown = f"shots that begin at {list(cuts)} and the chunk at {start}"
        given = ask_for("a list of whole numbers", whole_numbers, answer, cuts, start, shown=shown)
        own, earlier = [f for f in given if f >= cuts[-1]], [f for f in given if f < cuts[-1]]
        if given != sorted(set(given)):
            raise NotYet(f"for {shown} you give {given}: oldest first, each once")
        if given and (given[0] < 0 or given[-1] >= start):
            raise NotYet(f"for {shown} you give {given}: only latents from 0 to {start - 1} are there")
        if own != list(range(cuts[-1], start)):
            raise NotYet(f"for {shown} the shot's own latents {list(range(cuts[-1], start))} all belong to it")
        if len(earlier) > REMEMBERED:
            raise NotYet(f"for {shown} you remember {len(earlier)} latents of earlier shots: at most {REMEMBERED}")
        spans = list(zip(cuts, cuts[1:], strict=False))[-REMEMBERED:]
        for first, end in spans:
            if not any(first <= f < end for f in earlier):
                raise NotYet(f"for {shown} nothing is left of the shot that begins at {first}")
    return "that is a memory that costs the same in every shot. Now let it tell a film."
