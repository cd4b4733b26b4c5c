"""Headless Chromium for pages: the machine's own, or the one that `python -m playwright install` fetched."""

import shutil
from contextlib import contextmanager

from playwright.sync_api import sync_playwright

_FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()
_FLAGS += ["--disable-component-update", "--disable-sync"]


def launch(playwright):
    """Return a browser; `scripts/install.sh FOLDER test` sees to it that there is one."""
    own = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    return playwright.chromium.launch(executable_path=own, args=_FLAGS)


@contextmanager
def open_browser():
    """Yield a browser."""
    with sync_playwright() as playwright, launch(playwright) as browser:
        yield browser


class Tab:
    """A page in a window of its own, and all that it complained about: requests elsewhere than to `address` too."""

    def __init__(self, browser, address, *, page="", width=1280, dark=False):
        self.complaints = []
        scheme = "dark" if dark else "light"
        self._context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self._context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self._requested(request.url, address))
        self.page.goto(address + page)

    def _requested(self, url, address):
        if not url.startswith(("data:", address)):
            self.complaints.append(f"requested {url}")

    def count(self):
        """Questions and responses that the gallery says it has."""
        words = self.page.text_content("#count").split()
        return int(words[0]), int(words[2])

    def visible(self, selector):
        """How many elements of a kind can be seen."""
        return self.page.eval_on_selector_all(
            selector, "all => all.filter(each => each.getClientRects().length > 0).length"
        )

    def close(self):
        self._context.close()
