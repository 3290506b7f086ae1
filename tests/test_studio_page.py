"""The studio in a browser: the real page, the toybox's own weights, Debian's Chromium by Playwright.

What is measured is printed, and held to the promise made for two cores that nobody else uses.
"""

import json
import os
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the studio needs Gradio: pip install '.[studio]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="driving the page needs Playwright: pip install '.[test]'")

from shotstream_lite.story_files import parse_story  # noqa: E402
from shotstream_lite.studio import Studio, launch  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

SLOW = 1000 * int(os.environ.get("SHOTSTREAM_PATIENCE", "120"))  # ms that anything may take
FIRST_FRAME, WORST_FIRST_FRAME, STALL, CHANGE = 0.5, 1.0, 0.2, 0.7  # seconds, at most

JUMP = "Wide shot: the red ball jumps up and down."
WAVE = "Medium shot: the blue box waves hello."
SPIN = "Close-up: the red ball spins around."

# Every frame that is drawn, with its time and which one it is.
WATCH = """
window.drawn = [];
const draw = CanvasRenderingContext2D.prototype.drawImage;
CanvasRenderingContext2D.prototype.drawImage = function (...all) {
  draw.apply(this, all);
  window.drawn.push(performance.now() / 1000);
};
"""


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    with launch("toybox", block=False) as studio:
        yield studio


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """Somebody in front of the page."""

    def __init__(self, browser, url: str, **options) -> None:
        self.context = browser.new_context(bypass_csp=True, **({"viewport": {"width": 1366, "height": 650}} | options))
        self.context.add_init_script(WATCH)
        self.page = self.context.new_page()
        self.page.set_default_timeout(SLOW)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        self.page.goto(url, timeout=SLOW)
        self.page.wait_for_selector("body[data-ready]")

    def until(self, condition: str, value=None) -> None:
        self.page.wait_for_function(condition, arg=value)

    def shoot(self, text: str, seconds: float | None = None) -> None:
        if seconds is not None:
            self.page.uncheck("#roll")
            self.page.fill("#seconds", str(seconds))
        self.page.fill("#shot", text)
        self.page.press("#shot", "Enter")
        self.until("document.querySelector('#shot').value === ''")

    def made(self, count: int) -> None:
        """Waits for so many shots that are made and not stale, and until all is seen."""
        self.until("n => document.querySelectorAll('.strip[data-print]:not(.stale)').length === n", count)
        self.until("['idle', 'held'].includes(document.querySelector('#state').dataset.state)")

    def prints(self) -> list[str]:
        return self.page.eval_on_selector_all(".strip", "all => all.map(strip => strip.dataset.print)")

    def notice(self, words: str) -> None:
        self.until("words => document.querySelector('#notices').textContent.includes(words)", words)

    def saved(self) -> dict:
        return json.loads(self.page.evaluate("studio.act('save').then(answer => answer.text)"))

    def close(self) -> None:
        assert not self.errors
        self.context.close()


@pytest.fixture
def visit(browser, studio):
    visits: list[Visit] = []

    def come(**options) -> Visit:
        visits.append(Visit(browser, f"{studio.url}studio/", **options))
        return visits[-1]

    yield come
    for visitor in visits:
        visitor.close()


def test_directing_a_film_through_a_bad_line_and_a_reload(visit):
    here, hostile = visit(), "The red bal jumps. <img src=x onerror=alert(1)> <script>alert(2)</script>"
    here.page.click("#shoot")
    here.notice("the shot is empty")
    here.page.fill("#seed", "-5")
    here.page.fill("#shot", JUMP)
    here.page.click("#shoot")
    here.notice("the seed is '-5'")
    here.page.fill("#seed", "")
    here.shoot(JUMP)  # the same words, corrected
    here.until("drawn.length > 5")
    here.context.set_offline(True)
    here.page.fill("#shot", hostile)
    here.page.press("#shot", "Enter")
    here.page.fill("#shot", "typed meanwhile")
    here.page.wait_for_timeout(1000)
    here.context.set_offline(False)
    here.made(2)
    prints = here.prints()
    here.page.reload()  # the story and what was typed are still there
    here.page.wait_for_selector("body[data-ready]")
    here.made(2)
    assert here.prints() == prints and here.page.input_value("#shot") == "typed meanwhile"
    assert here.page.text_content("[data-shot='2'] .caption").endswith(hostile)
    assert here.page.locator("#timeline script, #timeline img[src='x']").count() == 0

    here.page.click("[data-shot='1'] .face")
    here.page.click("#retake")
    here.until("document.querySelectorAll('.strip.stale').length === 1")
    here.page.click("#undo")
    here.made(2)
    assert here.prints() == prints
    here.page.click("#new")
    here.until("!document.querySelector('.strip')")
    here.page.click("#undo")
    here.made(2)
    assert here.prints() == prints and here.page.evaluate("document.activeElement.id") == "undo"
    here.page.click("[data-shot='2'] .face")
    here.page.click("text=without the memory of earlier shots")
    here.until("!document.querySelector('#labels').hidden && document.querySelector('canvas').width > 300")
    assert here.page.locator("#labels span").all_text_contents() == ["as told", "without the memory of earlier shots"]
    with here.page.expect_download(timeout=SLOW) as film:
        here.page.click("#film")
    assert Path(film.value.path()).stat().st_size > 1000


def test_it_fits_a_screen_a_phone_and_a_projector(visit):
    here = visit()
    here.shoot(JUMP, seconds=0.5)
    here.made(1)
    for part in ("canvas", "#shoot", "#timeline .strip"):
        box = here.page.locator(part).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 650, part
    here.page.keyboard.press("Tab")
    here.page.evaluate("document.activeElement.blur()")
    here.page.keyboard.press("p")
    assert here.page.locator("#shot").is_hidden() and here.page.locator("#saying").is_visible()
    assert here.page.evaluate("parseFloat(getComputedStyle(document.querySelector('#saying')).fontSize)") >= 28
    here.page.keyboard.press("Escape")
    assert here.page.locator("#shot").is_visible()
    here.page.keyboard.press("ArrowLeft")
    here.until("document.querySelector('#state').dataset.state === 'paused'")
    here.page.keyboard.press(" ")
    here.made(1)
    here.page.set_viewport_size({"width": 390, "height": 844})
    assert here.page.evaluate("document.documentElement.scrollWidth") <= 390
    order = ["#stage", "#prompt", "#story", "#timeline", "#memory"]
    tops = [here.page.locator(part).bounding_box()["y"] for part in order]
    assert tops == sorted(tops) and tops[0] < 200


def test_names_and_contrast(visit):
    """No control without a name, and no text under 4.5:1, by light and by dark."""
    for scheme in ("light", "dark"):
        here = visit(color_scheme=scheme)
        here.shoot(JUMP, seconds=0.5)
        here.made(1)
        here.page.click("[data-shot='1'] .face")
        assert here.page.evaluate(NAMELESS) == []
        assert here.page.evaluate(FAINT) == []


NAMELESS = """() => [...document.querySelectorAll('button, input, textarea, canvas, [role=img]')]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length))
  .map((one) => one.outerHTML.slice(0, 99))"""
FAINT = """() => {
  const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (colour) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = rgb(getComputedStyle(one).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() && !one.disabled &&
      [...one.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())).map((one) => {
    const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), one.outerHTML.slice(0, 80)];
  }).filter(([ratio]) => ratio < 4.5);
}"""


TURN = """(words) => new Promise((done) => {
  const look = setInterval(() => {
    if (drawn.length < 12) return;
    clearInterval(look);
    document.querySelector('#shot').value = words;
    document.querySelector('#turn').click();
    done();
  }, 5);
})"""  # when twelve frames are seen, however slow this test's own line to the browser is


def test_press_change_and_stop(visit, capsys):
    """From the press to the picture, a change seen in the middle, and a stop that keeps what was seen.

    The times are printed; SHOTSTREAM_TIMES=1 asks ten shots and holds them to the studio's aims; stalls and changes
    miss theirs.
    """
    count = 10 if os.environ.get("SHOTSTREAM_TIMES") else 3
    here = visit()
    here.shoot(JUMP)
    here.made(1)
    firsts, stalls, changes, exact = [], [], [], 0
    for number in range(count):
        here.page.fill("#shot", SPIN)
        pressed = here.page.evaluate(
            "drawn.length = 0; document.querySelector('#shoot').click(); performance.now() / 1000"
        )
        here.page.evaluate(TURN, WAVE)
        here.until("n => studio.player.measured.change.length > n", number)
        here.page.wait_for_timeout(37 * number % 200)
        here.page.keyboard.press("Escape")
        here.made(number + 2)
        times = here.page.evaluate("drawn")
        shot = parse_story(json.dumps(here.saved())).shots[-1]
        exact += len(times) == shot.settings.get("keep", shot.frames) and shot.turns[0].caption == WAVE
        firsts.append(times[0] - pressed)
        stalls.append(max(later - earlier for earlier, later in zip(times, times[1:], strict=False)))
    changes = here.page.evaluate("studio.player.measured.change")
    told = {"press to first frame": firsts, "longest stall": stalls, "change to its first frame": changes}
    with capsys.disabled():
        print()
        for name, seconds in told.items():
            print(f"{name}: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s of {count}")
        print(f"stops that kept exactly what was seen: {exact} of {count}")
    assert exact == count
    if os.environ.get("SHOTSTREAM_TIMES"):  # on a quiet machine; others at work make any time a matter of luck
        assert statistics.median(firsts) < FIRST_FRAME and max(firsts) < WORST_FIRST_FRAME
        assert statistics.median(stalls) < STALL and statistics.median(changes) < CHANGE


def test_a_second_without_a_line_loses_nothing(visit, capsys):
    """Every frame of the shot is seen, once; SHOTSTREAM_TIMES=1 cuts the line ten times."""
    count, here, whole = 10 if os.environ.get("SHOTSTREAM_TIMES") else 2, visit(), 0
    for number in range(count):
        before = here.prints()
        here.page.evaluate("drawn.length = 0")
        here.shoot((JUMP, SPIN, WAVE)[number % 3])
        here.until("n => drawn.length > n", 4 * number)
        here.context.set_offline(True)
        here.page.wait_for_timeout(1000)
        here.context.set_offline(False)
        here.made(number + 1)
        shot = parse_story(json.dumps(here.saved())).shots[-1]
        here.until("n => drawn.length >= n", shot.frames)
        seen = len(here.page.evaluate("drawn"))
        whole += here.prints()[:-1] == before and seen == shot.frames
    with capsys.disabled():
        print(f"\ncuts of the line that lost nothing: {whole} of {count}")
    assert whole == count


def test_the_page_lives_in_gradios(browser, studio):
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.set_default_timeout(SLOW)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(studio.url, timeout=SLOW)
    frame = page.frame_locator("#studio")
    frame.locator("body[data-ready]").wait_for()
    frame.locator("#shot").fill(JUMP)
    frame.locator("#shot").press("Enter")
    frame.locator(".strip[data-print]").wait_for()
    assert page.locator("#studio").bounding_box() == {"x": 0, "y": 0, "width": 1366, "height": 768}
    assert all(url.startswith((studio.url, "blob:", "data:")) for url in asked), asked  # nothing from elsewhere
    page.close()
