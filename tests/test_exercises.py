"""Every checker rejects plausible wrong answers and says why; the notebooks' own solutions pass."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from shotstream_lite.course.exercises import basics, memory, rivals, training, use
from shotstream_lite.course.exercises.verdict import NotYet, ask, checker
from shotstream_lite.course.plane import cloud_clean
from shotstream_lite.course.scenes import running_story
from shotstream_lite.flow import add_noise, shift_sigmas, to_clean
from shotstream_lite.history import counts, select
from shotstream_lite.measures import consistency
from shotstream_lite.rollout import rollout
from shotstream_lite.story import Shot, Story
from shotstream_lite.transformer import causal_mask

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def open_of(names):
    """The pixels that only some attributes change."""
    return lambda story, index: np.any([basics.open_pixels(story, index)[name] for name in names], axis=0)


def heun(signs=1, second=None, mean=True):
    def step(model, x, sigma, following):
        first = model(x, sigma)
        landed = x + signs * (following - sigma) * first
        again = model(landed, following if second is None else sigma)
        return x + signs * (following - sigma) * ((first + again) / 2 if mean else again)

    return step


def particles(sign=1, critic=True, noisy=True, rate=0.05):
    def step(points, sigma, noise, teacher):
        sigma = sigma if noisy else 0.02
        seen = (1 - sigma) * points + sigma * noise
        real, fake = teacher(seen, sigma), cloud_clean(seen, sigma, points) if critic else points
        return points - sign * rate * (fake - real) / (points - real).abs().mean(1, keepdim=True)

    return step


def without_clean_pass(always_start=None, renoise=True, steps=4):
    def tell(transformer, cache, noise, sigmas, chunks):
        made, start = [], 0
        for frames in chunks:
            x = noise((*cache.latent_shape[:2], frames, *cache.latent_shape[2:]))
            for step, sigma in list(enumerate(sigmas))[:steps]:
                clean = to_clean(x, transformer.chunk(cache, x, 1000 * sigma, start), sigma)
                if step + 1 < len(sigmas):
                    x = add_noise(clean, noise(clean.shape), sigmas[step + 1]) if renoise else clean
            made.append(clean)
            start = start + frames if always_start is None else always_start
        return made

    return tell


def memory_guided(numbers="first", start="without", sign=1, whole=False):
    def flow_of_shot(flow, context, noisy, shot_ids, strength):
        m = context.shape[2]
        first = torch.tensor([0] * m + [1] * noisy.shape[2]) if numbers == "first" else shot_ids
        given = flow(torch.cat((context, noisy), 2), shot_ids)
        blank = flow(torch.cat((0 * context, noisy), 2), first)
        made = (blank if start == "without" else given) + sign * strength * (given - blank)
        return made if whole else made[:, :, m:]

    return flow_of_shot


def forcing_mask(copy=False, ahead=False, noisy_past=False):
    def mask(context, frames, chunk):
        right = training.teacher_forcing_mask(context, frames, chunk)
        number, shot = torch.arange(frames) // chunk, slice(context, context + frames)
        if copy:
            right[context + frames :, shot] |= number[:, None] == number
        if ahead:
            right[shot, shot] = True
        if noisy_past:
            right[context + frames :, context + frames :] |= number[:, None] > number
        return right

    return mask


def cleaned_first(denoise, clean, chunks):
    for chunk in chunks:
        film = denoise(chunk)
        clean(film)
        yield film


def thumbnails(shots):
    return np.stack([shot[:, ::8, ::8].mean(0).ravel() for shot in shots])


def five_shots(*lines, opening="A red ball and a blue box, by the sea."):
    return lambda seed: Story(opening, tuple(Shot(line) for line in lines))


def director(give):
    def direct(take, script):
        wishes, pieces = sorted(script.items()), []
        for piece in take:
            pieces.append(piece)
            wishes = give(take, wishes)
        return np.concatenate(pieces)

    return direct


def at_once(take, wishes):
    for _, caption in wishes:
        take.turn(caption)
    return []


def late(take, wishes):
    for _, caption in [wish for wish in wishes if wish[0] < take.frames_made]:
        take.turn(caption)
    return [wish for wish in wishes if wish[0] >= take.frames_made]


def again(take, wishes):
    for _, caption in [wish for wish in wishes if wish[0] <= take.frames_made]:
        take.turn(caption)
    return wishes


def first_of_several(take, wishes):
    due = [wish for wish in wishes if wish[0] <= take.frames_made]
    for _, caption in due[:1]:
        take.turn(caption)
    return wishes[len(due) :]


BALL, BOX = "Close-up: the red ball waves.", "Close-up: the blue box waves."

WRONG = {
    basics.check_frame_count: [
        (lambda s, fps: round(s * fps), "4k\\+1"),
        (lambda s, fps: int(s * fps) // 4 * 4 + 1, "not|round up|it is"),
        (lambda s, fps: math.ceil(s * fps / 4) * 4 + 1 + 4, "4 fewer|it is"),
        (lambda s, fps: math.ceil(s * fps) + 1, "it is"),
    ],
    basics.check_open_pixels: [
        (open_of(["hat"]), "another stripe changes it"),
        (open_of(["hat", "stripe", "emblem"]), "another tint"),
        (lambda story, index: np.zeros((128, 224), bool), "another hat"),
        (lambda story, index: np.zeros((45, 128, 224), bool), "shape"),
    ],
    basics.check_unshift: [
        (lambda s, shift: float(shift_sigmas(torch.tensor(s), shift)), "second time"),
        (lambda s, shift: s / shift, "denominator"),
        (lambda s, shift: s / (shift + (shift - 1) * s), "sign"),
    ],
    basics.check_heun: [
        (lambda model, x, s, f: x + (f - s) * model(x, s), "Euler"),
        (heun(second="same level"), "both flows are at sigma 1"),
        (heun(signs=-1), "away from the data"),
        (heun(mean=False), "alone"),
        (lambda *inputs: heun()(*inputs) if inputs[3] == 0.5 else "x", "a step of 16 your function gives .x., not"),
    ],
    basics.check_paper_counts: [
        (counts, "released code"),
        (lambda n, budget: [budget // n + budget % n, *[budget // n] * (n - 1)] if n else [], "comes last"),
        (lambda n, budget: [budget // n] * n if n else [], "whole budget"),
        (lambda n, budget: [budget // n] * n, "ZeroDivisionError|whole budget"),
    ],
    basics.check_policy: [
        (lambda shots, lines, budget: [(i, 0) for i in range(len(shots))], "keep 1 to 6"),
        (lambda shots, lines, budget: select([len(s) for s in shots], budget), "0 of your frames show the red ball"),
        (lambda shots, lines, budget: [(0, 0), (0, 44), (2, 0)], "nothing of the latest shot"),
        (lambda shots, lines, budget: select([len(s) for s in shots], budget, "asked", lines), "grey levels"),
        (lambda shots, lines, budget: [(0, 44), (0, 0)], "oldest first"),
        (lambda shots, lines, budget: [(1, 45)], "both inside"),
    ],
    training.check_normaliser: [
        (lambda pred, real: (pred - real).abs().mean(), "one number"),
        (lambda pred, real: (pred - real).abs().sum((1, 2, 3, 4), keepdim=True), "not their sum"),
        (lambda pred, real: (pred - real).square().mean((1, 2, 3, 4), keepdim=True).sqrt(), "root mean square"),
        (lambda pred, real: (pred - real).abs().mean((1, 2, 3, 4)), "keep the dimensions"),
        (lambda pred, real: (pred - real).mean((1, 2, 3, 4), keepdim=True), "sign|it is"),
        (lambda pred, real: None if pred.any() else real.abs().mean((1, 2, 3, 4), keepdim=True), "gives nothing back"),
    ],
    training.check_particle_step: [
        (particles(critic=False), "larger bump"),
        (particles(sign=-1), "sign"),
        (particles(noisy=False), "other bump"),
        (particles(rate=0.0005), "other bump"),
    ],
    memory.check_cache_bytes: [
        (lambda layers, heads, dim, tokens, size: layers * heads * dim * tokens * size, "so are values"),
        (lambda layers, heads, dim, tokens, size: 2 * layers * dim * tokens * size, "head"),
        (lambda layers, heads, dim, tokens, size: 2 * layers * heads * dim * tokens, "bytes"),
    ],
    memory.check_without_clean_pass: [
        (lambda *inputs: list(rollout(*inputs)), "still a pass at timestep 0"),
        (without_clean_pass(always_start=0), "start at \\[0\\]"),
        (without_clean_pass(renoise=False), "off by"),
        (without_clean_pass(steps=3), "12"),
    ],
    memory.check_relative_angle: [
        (lambda f, k, pair, pairs: (f + k / 6) * 10000 ** (-pair / pairs), "not to the position"),
        (lambda f, k, pair, pairs: f * 10000 ** (-pair / pairs) - k / 6, "not back"),
        (lambda f, k, pair, pairs: f * 10000 ** (-pair / pairs), "cuts"),
        (lambda f, k, pair, pairs: f * 10000 ** (-2 * pair / pairs) + k / 6, "pairs, not channels"),
    ],
    memory.check_phase_schedule: [
        (lambda n: n / 6, "for 19 shots apart"),
        (lambda n: 1 / 6, "within a shot"),
        (lambda n: float("nan"), "a finite number"),
        (lambda n: min(n, 1) / 6, "look alike"),
        (lambda n: 3 * (1 - math.exp(-n)), "trained with 1/6"),
        (lambda n: math.pi * abs(math.sin(n / 6 / math.pi)) if n != 1 else 1 / 6, "less than"),
    ],
    training.check_error_after: [
        (lambda fresh, gain, shots: fresh * gain**shots, "adds its own"),
        (lambda fresh, gain, shots: fresh * shots, "the gain"),
        (lambda fresh, gain, shots: fresh * sum(gain**i for i in range(shots + 1)), "one shot too many"),
        (lambda fresh, gain, shots: fresh / (1 - gain), "settles"),
    ],
    training.check_anchored: [
        (select, "reach half"),
        (lambda lengths, budget: select(lengths[:1], budget), "nothing of the newest"),
        (lambda lengths, budget: [(len(lengths) - 1, 0), *[(0, 0)] * 5], "oldest first"),
        (lambda lengths, budget: [(i, 0) for i in range(len(lengths))], "keep 1 to 6"),
        (lambda lengths, budget: [(len(lengths), 0)], "count from 0"),
    ],
    memory.check_caption_rows: [
        (lambda context, shot, frames: [*context, *[shot] * frames], "shot numbers"),
        (lambda context, shot, frames: [0] * (len(context) + frames), "characters mix"),
        (lambda context, shot, frames: context, "the context too"),
        (lambda context, shot, frames: [*range(len(context)), *[len(context)] * frames], "it is"),
    ],
    memory.check_memory_guidance: [
        (
            lambda flow, context, noisy, ids, w: flow(torch.cat((context, noisy), 2), ids)[:, :, -noisy.shape[2] :],
            "plain",
        ),
        (memory_guided(numbers="kept"), "numbered like a first one"),
        (memory_guided(start="model", sign=-1), "not away from it"),
        (memory_guided(start="model"), "begin at"),
        (memory_guided(whole=True), "shot alone"),
    ],
    training.check_mean_passes: [
        (lambda chunks, steps: 1 + chunks * steps + chunks - 1, "exit step"),
        (lambda chunks, steps: chunks * (steps + 1) / 2 + chunks - 1, "global cache"),
        (lambda chunks, steps: 1 + chunks * (steps + 1) / 2 + chunks, "no clean pass"),
        (lambda chunks, steps: 1 + chunks * (steps + 1) / 2, "clean passes"),
    ],
    training.check_update_passes: [
        (lambda u, c, s: u * (c * (s + 3) / 2) + u + 3, "own update needs a rollout"),
        (lambda u, c, s: (u + 1) * (c * (s + 3) / 2 + 1) + u + 3, "last chunk's clean pass"),
        (lambda u, c, s: (u + 1) * (c * (s + 3) / 2) + u + 2, "asked twice"),
        (lambda u, c, s: (u + 1) * (c * (s + 3) / 2), "teacher and critic"),
    ],
    training.check_rollout_stream: [
        (cleaned_first, "before it is handed out"),
        (lambda denoise, clean, chunks: map(denoise, chunks), "each is cleaned before"),
        (lambda denoise, clean, chunks: chunks, "yield what"),
        (lambda denoise, clean, chunks: [denoise(chunk) for chunk in chunks], "you make a fourth"),
        (lambda denoise, clean, chunks: (clean() for _ in chunks), "stops with TypeError"),
    ],
    training.check_teacher_forcing_mask: [
        (lambda context, frames, chunk: causal_mask(context, frames, chunk), "twice"),
        (forcing_mask(copy=True), "copy its answer"),
        (forcing_mask(ahead=True), "never looks ahead"),
        (forcing_mask(noisy_past=True), "nobody but the same chunk"),
        (lambda context, frames, chunk: causal_mask(context, 2 * frames, chunk), "may look at|may not look at"),
    ],
    use.check_no_cuts: [
        (lambda shots: 0.0, "never 0"),
        (lambda shots: math.exp(-(shots - 1)), "share of the film"),
        (lambda shots: math.exp(-1), "n - 1 cuts"),
        (lambda shots: 1 / shots, "1 - NSD"),
    ],
    use.check_metric: [
        (lambda shots, who: 1.0, "does as well as"),
        (lambda shots, who: consistency(thumbnails(shots)), "again and again|stands still"),
        (lambda shots, who: float(np.abs(np.diff(np.float32(shots), axis=1)).mean()), "shaken"),
        (lambda shots, who: float(np.mean([np.float32(shot).std() for shot in shots])), "beats|as well as"),
        (lambda shots, who: float("nan"), "finite"),
    ],
    basics.check_reads: [
        (lambda opening, shots: [f"{opening}shot{i}:{s}" for i, s in enumerate(shots, start=1)], "from 0"),
        (lambda opening, shots: [f"{opening} shot{i}: {s}" for i, s in enumerate(shots)], "no space"),
        (lambda opening, shots: [f"shot{i}:{s}" for i, s in enumerate(shots)], "begins with the global"),
        (lambda opening, shots: [opening + "".join(f"shot{i}:{s}" for i, s in enumerate(shots))], "one text|and its"),
    ],
    basics.check_storyteller: [
        (five_shots(BALL, BOX, BOX, BALL), "write 5 to 8"),
        (five_shots(BALL, BOX, BALL, BOX, BALL), "away for two shots"),
        (five_shots(BALL, BOX, BOX, BOX, "Close-up: it yodels."), "does not know"),
        (five_shots(BALL, BOX, BOX, BOX, "Wide shot: the red ball waves."), "close-up"),
        (five_shots(BALL, BOX, BOX, BOX, BALL), "only 1 different"),
        (five_shots(BALL, BOX, BOX, BOX, BALL, opening="A story by the sea."), "name two"),
    ],
    use.check_tokens: [
        (lambda h, w, frames: (h // 8) * (w // 8) * ((frames - 1) // 4 + 1), "patch"),
        (lambda h, w, frames: (h // 16) * (w // 16) * frames, "share a latent"),
        (lambda h, w, frames: (h // 16) * (w // 16) * (frames // 4), "latent of its own"),
    ],
    use.check_waiting: [
        (lambda parts, working, free: set(), "too much"),
        (lambda parts, working, free: set(parts), "is enough"),
        (lambda parts, working, free: {max(parts, key=parts.get)}, "is enough|too much"),
        (lambda parts, working, free: {"decoder"}, "names of the parts"),
    ],
    use.check_turn_frame: [
        (lambda made, chunk: made, "not made anew"),
        (lambda made, chunk: -(-made // (4 * chunk)) * 4 * chunk, "3 frames earlier|first latent"),
        (lambda made, chunk: (made + 3) // (4 * chunk) * 4 * chunk + 4 * chunk - 3, "not made twice"),
    ],
    use.check_director: [
        (director(at_once), "too early|may be lost"),
        (director(late), "too late"),
        (director(again), "once"),
        (director(first_of_several), "last one counts"),
        (lambda take, script: np.concatenate(list(take)), "take.turn"),
    ],
    rivals.check_pairs: [
        (lambda shot, latents: 4 * sum(3 * (shot * latents + end) for end in range(3, latents + 1, 3)), "clean pass"),
        (lambda shot, latents: 5 * sum(3 * end for end in range(3, latents + 1, 3)), "earlier shots"),
        (lambda shot, latents: 5 * latents * latents * (shot + 1), "after it"),
        (lambda shot, latents: 5 * sum(3 * (shot * latents + end) for end in range(0, latents, 3)), "itself"),
    ],
    rivals.check_own_rule: [
        (lambda cuts, start: list(range(start)), "at most 6"),
        (lambda cuts, start: list(range(cuts[-1], start)), "nothing is left of the shot"),
        (lambda cuts, start: [cut - 1 for cut in cuts[1:]][-6:], "belong to it"),
        (lambda cuts, start: [*range(cuts[-1], start), *(cut - 1 for cut in cuts[1:])], "oldest first"),
        (lambda cuts, start: [*range(cuts[-1], start + 3)], "are there"),
    ],
}


@pytest.mark.parametrize(
    ("check", "answer", "why"),
    [(check, answer, why) for check, answers in WRONG.items() for answer, why in answers],
    ids=[f"{check.__name__}-{i}" for check, answers in WRONG.items() for i in range(len(answers))],
)
def test_a_wrong_answer_is_told_what_is_wrong_and_with_which_input(check, answer, why):
    verdict = check(answer)
    assert not verdict.right
    assert re.search(why, verdict.says), verdict.says
    assert re.search(r"for |at |after |with |your frames", verdict.says)
    assert repr(verdict).startswith("Not yet: ")


@pytest.mark.parametrize("check", WRONG, ids=lambda check: check.__name__)
@pytest.mark.parametrize("given", ["a guess", 3, [], [0.5], {}, torch.zeros(2)], ids=str)
def test_an_answer_of_another_kind_is_no_reason_to_stop(check, given):
    verdict = check(lambda *inputs, **options: given)
    assert not verdict.right
    assert re.search(r"for |at |after |with |your frames", verdict.says)


def test_every_checker_meets_three_wrong_answers():
    assert all(len(answers) >= 3 for answers in WRONG.values())


def solutions():
    """(notebook, cell id, code) of every solution."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if "solution" in cell["metadata"].get("tags", []):
                yield pytest.param(path, "".join(cell["source"]), id=cell["id"])


@pytest.mark.parametrize(("path", "code"), list(solutions()))
def test_the_solution_of_a_notebook_passes_its_checker(path, code):
    modules = (basics, memory, rivals, training, use)
    names = {check.__name__: check for check in WRONG}
    scope = {name: value for module in modules for name, value in vars(module).items() if name in names}
    *body, last = code.strip().splitlines()
    exec("\n".join(body), scope)  # a solution brings its own imports; its last line asks the checker
    verdict = eval(last, scope)
    assert verdict.right, verdict.says


def test_every_checker_has_a_solution_in_a_notebook():
    asked = {line.values[1].strip().splitlines()[-1].partition("(")[0] for line in solutions()}
    assert {check.__name__ for check in WRONG} <= asked


def test_nothing_given_back_and_errors_are_said_in_a_sentence():
    @checker
    def check(answer):
        ask(answer, 3, shown="the number 3")
        return "good."

    assert "gives nothing back" in check(lambda n: ...).says
    assert "gives nothing back" in check(lambda n: None).says
    assert "for the number 3 your function stops with ZeroDivisionError" in check(lambda n: n / 0).says
    assert repr(check(lambda n: n)) == "Right: good."
    with pytest.raises(NotYet):
        ask(lambda: None, shown="nothing")


def test_open_pixels_hold_more_than_the_hat():
    story, _ = running_story()
    by_name = basics.open_pixels(story, 0)
    assert {"hat", "stripe", "tint", "sun", "landmarks", "flag"} == set(by_name)
    assert all(pixels.any() for pixels in by_name.values())
