"""The page of sliders, in a browser: its formulas are the library's own, and every control works."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from shotstream_lite.cache import ShotCache
from shotstream_lite.flow import FEW_STEPS, add_noise, euler_sigmas, few_step
from shotstream_lite.history import POLICIES, counts, frame_indices, select
from shotstream_lite.rollout import chunk_sizes, rollout
from shotstream_lite.rope import SHOT_PHASE, rope_frequencies, rope_table, rotate
from shotstream_lite.transformer import causal_mask

sync_api = pytest.importorskip("playwright.sync_api", reason="driving the page needs Playwright: pip install '.[test]'")

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "pages" / "explore.html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
SHOWN = POLICIES.keys() - {"asked"}  # it reads captions, and the page has none


@pytest.fixture(scope="module")
def page():
    """The page as a file, without a server or a network; `page.said` has what it complains of and asks for."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1366, "height": 768}, color_scheme="dark", reduced_motion="reduce")
        page.said = []
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("request", lambda request: page.said.append(request.url))
        page.goto(PAGE.as_uri())
        yield page
        browser.close()


def of_page(page, formula: str, cases: list) -> list:
    """What a formula of the page gives for each case, a list of arguments."""
    return page.evaluate(f"(cases) => cases.map((given) => F.{formula}(...given))", cases)


def close(given, wanted) -> None:
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(given, dtype=torch.float64), wanted, atol=1e-6, rtol=1e-6)


def test_phases_are_those_of_rope(page):
    for dim in (32, 64, 128):
        for given, wanted in zip(of_page(page, "ropeFrequencies", [[dim]])[0], rope_frequencies(dim), strict=True):
            close(given, wanted)
        places = [(0, 0, SHOT_PHASE), (7, 2, SHOT_PHASE), (20, 5, 1.0), (3, 1, 0.0)]
        for (frame, shot, phase), angles in zip(
            places, of_page(page, "temporalAngles", [[f, s, dim, p] for f, s, p in places]), strict=True
        ):
            first, there = (
                rope_table(torch.tensor([f]), torch.tensor([s]), 1, 1, dim, phase) for f, s in ((0, 0), (frame, shot))
            )
            close([[math.cos(a), math.sin(a)] for a in angles], torch.view_as_real(there[0, 0, 0, : len(angles)]))
            same = torch.zeros(1, 1, 1, dim)
            same[..., : 2 * len(angles) : 2] = 1  # equal frames: all pairs of time point the same way
            looks = (rotate(same, first) * rotate(same, there)).sum() / len(angles)
            close(of_page(page, "alike", [[angles]])[0], looks)


def test_noise_levels_are_those_of_flow(page):
    for shift in (1.0, 3.0, 8.0, 12.0):
        for steps in (1, 4, 50):
            close(of_page(page, "eulerSigmas", [[steps, shift]])[0], euler_sigmas(steps, shift))
        for raw in (FEW_STEPS, tuple(range(1000, 0, -125))):
            close(of_page(page, "fewStep", [[raw, shift]])[0], few_step(raw, shift))
    clean, noise = torch.linspace(-1, 1, 12), torch.linspace(2, -2, 12)
    noisy = add_noise(clean.view(1, 1, 12, 1, 1), noise.view(1, 1, 12, 1, 1), 0.74)
    close(of_page(page, "addNoise", [[clean.tolist(), noise.tolist(), 0.74]])[0], noisy.flatten())


def test_masks_are_those_of_the_transformer(page):
    cases = [[context, frames, chunk] for context in (0, 2, 6, 8) for frames in (1, 5, 9, 21) for chunk in (1, 3, 9)]
    assert of_page(page, "causalMask", cases) == [causal_mask(*case).tolist() for case in cases]
    assert of_page(page, "chunkSizes", [case[1:] for case in cases]) == [chunk_sizes(*case[1:]) for case in cases]


def test_the_rollout_passes_as_the_library_does(page):
    class Passes:
        """Stands for a transformer and notes what it is asked for."""

        def chunk(self, cache, latents, timestep, start):
            frames = latents.shape[2]
            reads = cache.tokens(start, frames).stop // cache.frame_tokens
            sigma = float(timestep) / 1000
            noted.append({"start": start, "frames": frames, "sigma": sigma, "clean": sigma == 0, "reads": reads})
            return torch.zeros_like(latents)

    for context, frames, chunk in ((6, 9, 3), (0, 5, 2), (2, 21, 4), (6, 1, 3)):
        noted: list[dict] = []
        table = torch.zeros(1, context + frames, 1, 2)
        cache = ShotCache([], [], None, table, (1, 1, 1, 1), context, frames)
        sigmas = few_step(shift=3.0)
        list(rollout(Passes(), cache, torch.zeros, sigmas, chunk_sizes(frames, chunk)))
        given = of_page(page, "rollout", [[context, frames, chunk, few_step(shift=3.0).tolist()]])[0]
        close([one.pop("sigma") for one in given], [one.pop("sigma") for one in noted])
        assert given == noted


def test_history_is_that_of_the_library(page):
    evenly = [[length, count] for length in range(1, 82) for count in range(13)]
    assert of_page(page, "frameIndices", evenly) == [frame_indices(*case) for case in evenly]
    films = [[length] * shots for length in (1, 5, 45) for shots in (0, 1, 2, 3, 7, 10)]
    cases = [[lengths, budget, policy] for lengths in films for budget in (0, 1, 6, 7, 12) for policy in SHOWN]
    assert of_page(page, "select", cases) == [[list(pair) for pair in select(*case)] for case in cases]
    assert of_page(page, "counts", [[5, 6], [0, 6], [8, 6]]) == [counts(5, 6), counts(0, 6), counts(8, 6)]
    assert set(page.evaluate("Object.keys(F.policies)")) == set(SHOWN)


SEEN = "(id) => document.querySelector(`#${id} svg`).innerHTML + document.querySelector(`#${id} output`).textContent"


def test_every_control_answers_the_keyboard_and_says_in_words_what_is_seen(page):
    for section in ("history", "masks", "rope", "noise"):
        for control in page.locator(f"#{section} [name]").all():
            if not control.is_visible():
                continue
            before = page.evaluate(SEEN, section)
            control.focus()
            page.keyboard.press(control.evaluate("(one) => one.selectedIndex ? 'ArrowUp' : 'ArrowDown'"))
            seen = page.evaluate(SEEN, section)
            assert seen != before and "undefined" not in seen and "NaN" not in seen, control.get_attribute("name")
        for button in page.locator(f"#{section} button").all():
            button.press("Enter")
            for name, value in json.loads(button.get_attribute("data-set")).items():
                assert page.locator(f"#{section} [name={name}]").input_value() == str(value)
    assert page.locator("#masks output").inner_text().startswith("Chunk 7 is made")
    assert "no remembered frame" in of_story(page, shots=9) and "1 of them shows" in of_story(page, shots=8)


def of_story(page, shots: int) -> str:
    page.evaluate("document.querySelectorAll('#history button')[0].click()")
    page.locator("#history [name=shots]").fill(str(shots))
    return page.locator("#history output").inner_text()


def test_nothing_is_fetched_and_everything_fits(page):
    """Without a server: no request but for the page itself, no complaint, and no sideways scrolling on a phone."""
    assert [said for said in page.said if not said.startswith(("file:", "data:"))] == []
    assert PAGE.stat().st_size < 60_000
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
