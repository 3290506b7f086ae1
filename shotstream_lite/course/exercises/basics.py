"""Exercises of the notebooks 00 to 03: lengths, noise, history, and what the model reads."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from shotstream_lite.course.exercises.verdict import NotYet, ask, ask_for, checker, expect_number, pairs
from shotstream_lite.course.recall import forgotten
from shotstream_lite.course.scenes import drawn_film, returning_story, running_story, variants
from shotstream_lite.flow import shift_sigmas
from shotstream_lite.history import counts, select
from shotstream_lite.story import Shot, Story, captions
from shotstream_lite.toybox.captions import WORDS, vocabulary, words
from shotstream_lite.toybox.renderer import render
from shotstream_lite.toybox.world import COLOURS, HEIGHT, SHAPES, WIDTH, ToyStory


@checker
def check_reads(answer: Callable[[str, Sequence[str]], list[str]]) -> str:
    """answer(global_caption, shots): for each shot the text that the model reads."""
    for opening, shots in (("A red ball.", ["It jumps."]), ("By the sea.", ["Wide shot.", "Close-up.", "It waves."])):
        shown = f"the global caption {opening!r} and the shots {shots}"
        given = ask_for("a list of texts", list, answer, opening, shots, shown=shown)
        wanted = captions(Story(opening, tuple(map(Shot, shots))), len(shots) - 1)
        if given == wanted:
            continue
        hint = "global caption, then shot and its number and a colon, then the shot's own caption"
        if len(given) != len(shots):
            hint = f"one text a shot, so {len(shots)} of them"
        elif given == [f"{opening}shot{i}:{shot}" for i, shot in enumerate(shots, start=1)]:
            hint = "the model counts shots from 0, though the file counts from 1"
        elif [str(text).replace(" ", "") for text in given] == [text.replace(" ", "") for text in wanted]:
            hint = "nothing stands between the three parts, no space either"
        elif not all(str(text).startswith(opening) for text in given):
            hint = "every shot begins with the global caption, or it would not know of the others"
        raise NotYet(f"for {shown} you give {given}, the model reads {wanted}: {hint}")
    return "two shots that are told the same differ in one figure only. The rest has to come from memory."


@checker
def check_storyteller(answer: Callable[[int], Story]) -> str:
    """answer(seed): a story of 5 to 8 shots in which somebody returns close up after two shots or more away."""
    told = {}
    for seed in range(6):
        shown = f"seed {seed}"
        told[seed] = ask(answer, seed, shown=shown)
        if not isinstance(told[seed], Story):
            raise NotYet(f"for {shown} your function gives {told[seed]!r:.60}, not a Story")
        _check_story(told[seed], shown)
        if ask(answer, seed, shown=shown) != told[seed]:
            raise NotYet(f"for {shown} you give two stories in two calls: draw everything from a generator of the seed")
    texts = {str(story.global_caption) + "".join(shot.caption for shot in story.shots) for story in told.values()}
    if len(texts) < 3:
        raise NotYet(f"for seeds 0 to 5 there are only {len(texts)} different stories: let the seed choose more")
    return "tell some of them, and look whether whoever returns is still the same."


def _check_story(story: Story, shown: str) -> None:
    if not 5 <= len(story.shots) <= 8:
        raise NotYet(f"for {shown} the story has {len(story.shots)} shots: write 5 to 8")
    for text in (story.global_caption, *(shot.caption for shot in story.shots)):
        if strange := sorted(set(words(text)) - set(vocabulary())):
            raise NotYet(f"for {shown} the toybox does not know {', '.join(strange)} in {text!r}: use its own words")
    cast = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    cast = [name for name in cast if name in story.global_caption.lower()]
    if len(cast) < 2:
        raise NotYet(f"for {shown} the global caption names {cast}: name two, such as a red ball and a blue box")
    if not any(_returns(name, story) for name in cast):
        raise NotYet(
            f"for {shown} nobody is seen, is away for two shots or more, and then returns in a close-up: "
            f"name who is there in each shot, by colour and shape as in the global caption"
        )


def _returns(name: str, story: Story) -> bool:
    seen = [i for i, shot in enumerate(story.shots) if name in shot.caption.lower()]
    back = [later for before, later in zip(seen, seen[1:], strict=False) if later - before > 2]
    return any(near in story.shots[i].caption.lower() for i in back for near in WORDS["close"])


@checker
def check_frame_count(answer: Callable[[float, int], int]) -> str:
    """answer(seconds, fps): the fewest frames, one more than a multiple of 4, that last at least so long."""
    for seconds, fps in ((2.0, 16), (1.0, 16), (0.05, 16), (5.0, 16), (2.0625, 16), (0.75, 24)):
        needed = math.ceil(seconds * fps - 1e-9)
        wanted = -(-(needed - 1) // 4) * 4 + 1
        hints = {
            needed: f"{needed} frames last long enough, but are not 4k+1",
            wanted - 4: "that is too short: round up",
            wanted + 4: "4 fewer would do",
        }
        expect_number(answer, seconds, fps, wanted=wanted, shown=f"{seconds} s at {fps} frames a second", hints=hints)
    return "every length is 4k+1 and long enough."


def open_pixels(story: ToyStory, index: int) -> dict[str, np.ndarray]:
    """For each attribute that captions leave out, the pixels it can change in shot `index`. Shape: bool [H, W]."""
    own = render(story, story.takes[index]).numpy()
    changed = {}
    for name, stories in variants(story, index).items():
        films = [render(other, other.takes[index]).numpy() for other in stories.values()]
        changed[name] = np.any([(film != own).any(axis=(0, 3)) for film in films], axis=0)
    return changed


@checker
def check_open_pixels(answer: Callable[[ToyStory, int], np.ndarray]) -> str:
    """answer(story, index): bool [H, W], the pixels of a shot that its caption does not settle."""
    story, _ = running_story()
    for index in (2, 0):
        shown = f"shot {index + 1} of the running story"
        mask = ask_for("an array", np.asarray, answer, story, index, shown=shown)
        if mask.shape != (HEIGHT, WIDTH):
            raise NotYet(f"for {shown} your mask has shape {mask.shape}, a frame has {(HEIGHT, WIDTH)}")
        mask = mask.astype(bool)
        by_name = open_pixels(story, index)
        truth = np.any(list(by_name.values()), axis=0)
        for name, pixels in by_name.items():
            if missed := np.argwhere(pixels & ~mask).tolist():
                row, column = missed[0]
                raise NotYet(
                    f"for {shown} you say captions settle the pixel in row {row}, column {column}, but another {name} "
                    f"changes it in some frame ({len(missed)} such pixels)"
                )
        if surplus := np.argwhere(mask & ~truth).tolist():
            row, column = surplus[0]
            raise NotYet(
                f"for {shown} you call the pixel in row {row}, column {column} open, but nothing that captions leave "
                f"out changes it ({len(surplus)} such pixels)"
            )
    return "those pixels are what memory is for."


@checker
def check_unshift(answer: Callable[[float, float], float]) -> str:
    """answer(sigma, shift): the noise level that `shift_sigmas` turned into sigma."""
    for raw, shift in ((0.5, 3.0), (0.25, 8.0), (1.0, 8.0), (0.0, 3.0), (0.9, 1.0)):
        sigma = float(shift_sigmas(torch.tensor(raw, dtype=torch.float64), shift))
        hints = {
            shift * sigma / (1 + (shift - 1) * sigma): "you shifted a second time instead of back",
            sigma / shift: "the denominator of the shift matters too",
            sigma / (shift + (shift - 1) * sigma): "look at the sign in your denominator",
        }
        shown = f"sigma {sigma:.4f} and shift {shift:g}"
        expect_number(answer, sigma, shift, wanted=raw, shown=shown, hints=hints)
    return "shifting and your function undo each other."


@checker
def check_heun(answer: Callable[[Callable, Tensor, float, float], Tensor]) -> str:
    """answer(flow, latents, sigma, following): the latents at noise level `following`, by Heun's method.

    `flow(latents, sigma)` is the model.
    """
    start = torch.tensor([[1.0, -0.5, 2.0]], dtype=torch.float64)
    calls: list[tuple[Tensor, float]] = []

    def flow(latents: Tensor, sigma: float) -> Tensor:
        calls.append((latents, float(sigma)))
        return latents * float(sigma)

    shown = "one step from sigma 1 to 0.5 with flow = latents * sigma"
    given = ask_for("a tensor", torch.as_tensor, answer, flow, start, 1.0, 0.5, shown=shown)
    euler = start - 0.5 * flow(start, 1.0)
    heun = start - 0.25 * (flow(start, 1.0) + flow(euler, 0.5))
    if given.shape != start.shape:
        raise NotYet(f"for {shown} you give shape {tuple(given.shape)}, the latents have {tuple(start.shape)}")
    wrong = {
        "that is Euler's step: look again from where it lands, and go by the mean of both flows": euler,
        "both flows are at sigma 1: the second belongs to the level where the step lands": start
        - 0.25 * (flow(start, 1.0) + flow(euler, 1.0)),
        "you walk away from the data: a step is (following - sigma) * flow": start
        + 0.25 * (flow(start, 1.0) + flow(start + 0.5 * flow(start, 1.0), 0.5)),
        "you take the flow where the step lands alone: Heun takes the mean of both ends": start
        - 0.5 * flow(euler, 0.5),
    }
    if not torch.allclose(given.double(), heun, atol=1e-9):
        why = next((why for why, value in wrong.items() if torch.allclose(given.double(), value)), "")
        raise NotYet(f"for {shown} you give {_short(given)}, Heun gives {_short(heun)}" + (f" ({why})" if why else ""))
    errors = []
    for steps in (16, 32):
        latents, levels = start, torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
        for sigma, following in zip(levels[:-1], levels[1:], strict=True):
            latents = ask_for(
                "a tensor", torch.as_tensor, answer, flow, latents, sigma, following, shown=f"a step of {steps}"
            )
        errors.append(float((latents - start * torch.tensor(-0.5).exp()).abs().max()))
    ratio = errors[0] / max(errors[1], 1e-12)
    if ratio < 3.2:
        raise NotYet(f"twice the steps make your error {ratio:.1f} times smaller; of second order it would be about 4")
    return f"twice the steps, {ratio:.1f} times less error: second order."


def _short(values: Tensor) -> str:
    return "[" + ", ".join(f"{v:.4f}" for v in values.flatten().tolist()) + "]"


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
def check_policy(answer: Callable[[Sequence[np.ndarray], Sequence[str], int], list[tuple[int, int]]]) -> str:
    """answer(shots, captions, budget): (shot, frame) of the frames to remember, oldest first.

    `captions` are those of all shots and, last, of the new one. Two frames have to show whom that one names, one is of
    the latest shot, and the past must be nearer in pixels than the library's policy "asked" leaves it.
    """
    returning = (returning_story(seed, away)[0] for seed, away in ((0, 2), (1, 5), (2, 8)))
    yours, theirs = [], []
    for story in (running_story(10)[0], *returning):
        shots, who = drawn_film(story)[:-1], story.takes[-1].cast[0]
        lines = [f"{t.camera}: the {t.cast[0].colour} {t.cast[0].shape}, {t.action}." for t in story.takes]
        shown = f"{len(shots)} shots, a budget of 6 and the new caption {lines[-1]!r}"
        picked = ask_for("a list of pairs (shot, frame)", pairs, answer, shots, lines, 6, shown=shown)
        _check_picked(picked, [len(shot) for shot in shots], shown)
        showing = sum(who in story.takes[shot].cast for shot, _ in picked)
        if showing < 2:
            raise NotYet(f"for {shown} {showing} of your frames show the {who.colour} {who.shape}: keep two at least")
        if picked[-1][0] < len(shots) - 1:
            raise NotYet(f"for {shown} you keep nothing of the latest shot, which knows the light and what has changed")
        yours.append(forgotten(shots, picked))
        theirs.append(forgotten(shots, select([len(shot) for shot in shots], 6, "asked", lines)))
    mine, library = np.mean(yours), np.mean(theirs)
    if mine >= library:
        raise NotYet(
            f"your frames leave the past {mine:.2f} grey levels away on average, the library's {library:.2f}: of the "
            f"frames that are left to you, take those that help most"
        )
    return f"the past is {mine:.2f} grey levels from what you keep, {library:.2f} from what the library keeps."


def _check_picked(picked: list[tuple[int, ...]], lengths: list[int], shown: str) -> None:
    if not 1 <= len(picked) <= 6:
        raise NotYet(f"for {shown} you keep {len(picked)} frames: keep 1 to 6")
    for pair in picked:
        if len(pair) != 2 or not 0 <= pair[0] < len(lengths) or not 0 <= pair[1] < lengths[pair[0]]:
            raise NotYet(f"for {shown} you keep {pair}: write (shot from 0, frame from 0), both inside the film")
    if picked != sorted(picked):
        raise NotYet(f"for {shown} you keep {picked}: oldest first, or positions and shots would not agree")
