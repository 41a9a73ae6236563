"""Look at every page of the built documentation in a browser, narrow and dark, wide and light.

Usage: check_site.py SITE. A page fails for a serious finding of axe, an error in the console, a request to
any server, or text that is wider than the window; the whole fails where the search finds nothing.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

LOOKS = (("dark", 390), ("light", 1400))
FALLBACKS = ("404.html",)


def faults(page: Page, address: str, seen: dict[str, list[str]]) -> list[str]:
    """Return what is wrong with one page."""
    for said in seen.values():
        said.clear()
    page.goto(address)
    page.wait_for_load_state("load")
    found = Axe().run(page).response["violations"]
    wrong = [
        f"{one['id']}: {one['nodes'][0]['html'][:150]} ({len(one['nodes'])} of them)"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    beyond = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    if beyond > 0:
        wrong.append(f"{beyond} pixels wider than the window")
    return wrong + [f"{what} {text}" for what, said in seen.items() for text in said]


def searched(page: Page, address: str, word: str) -> int:
    """Return how many pages the search finds."""
    found = page.locator(".md-search-result__item")
    for attempt in range(1, 9):  # a busy machine takes its time to make the index
        page.goto(address)
        page.wait_for_timeout(1_500 * attempt)
        page.fill("[data-md-component=search-query]", word)
        page.wait_for_timeout(2_000 * attempt)
        if found.count():
            break
    return found.count()


def main(site: Path) -> int:
    """Look at all pages, tell what is wrong, and return the exit code."""
    pages = sorted(path for path in site.rglob("*.html") if path.name not in FALLBACKS)
    wrong = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--allow-file-access-from-files"]
        )
        for scheme, width in LOOKS:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            seen: dict[str, list[str]] = {"asks for": [], "the console says": []}
            page.on(
                "request",
                lambda asked, seen=seen: (
                    None
                    if asked.url.startswith(("file:", "data:", "blob:"))
                    else seen["asks for"].append(asked.url)
                ),
            )
            page.on(
                "console",
                lambda said, seen=seen: (
                    seen["the console says"].append(said.text) if said.type == "error" else None
                ),
            )
            for path in pages:
                for fault in faults(page, path.as_uri(), seen):
                    print(f"{path.relative_to(site)} ({scheme}, {width} px): {fault}")
                    wrong += 1
            found = searched(page, (site / "index.html").as_uri(), "propagator")
            print(f"{len(pages)} pages, {scheme} at {width} px; the search finds {found} pages")
            wrong += found < 3
        browser.close()
    return int(wrong > 0 or len(pages) < 20)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
