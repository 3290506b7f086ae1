"""Takes the README's pictures of the studio: `python demos/studio_pictures.py`. Needs Chromium and Playwright."""

import json
import shutil
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from shotstream_lite.studio import launch

HERE = Path(__file__).parent
STORY = json.loads((HERE / "stories" / "seaside_friends.json").read_text(encoding="utf-8")) | {"seed": 0}
SIZES = {"studio.png": (1280, 900, 1.0), "studio_phone.png": (390, 844, 2.0)}
PATIENCE = 600_000  # ms


def tell(page: Page) -> None:
    """Loads the story, and takes the picture while its last shot plays."""
    page.wait_for_selector("body[data-ready]")
    page.evaluate("text => studio.load({ name: 'story.json', text })", json.dumps(STORY))
    page.wait_for_function("document.querySelector('#saying').textContent.startsWith('Shot 5')")
    page.wait_for_function("document.querySelectorAll('.cell.own').length")


def main() -> None:
    with launch("toybox", block=False) as studio, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (width, height, dots) in SIZES.items():
            screen = {"width": width, "height": height}
            page = browser.new_page(viewport=screen, device_scale_factor=dots, bypass_csp=True)
            page.set_default_timeout(PATIENCE)
            page.goto(f"{studio.url}studio/", timeout=PATIENCE)
            tell(page)
            page.screenshot(path=HERE / "pictures" / name, full_page=True)
            page.close()


if __name__ == "__main__":
    main()
