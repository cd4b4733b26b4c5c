"""Self-contained HTML pages and Markdown from the templates beside this file.

Models and strangers wrote what they show. In HTML all of it is escaped, and the content security policy of each page
allows its own scripts alone, by their digests, and nothing from elsewhere.
"""

import base64
import re
from functools import cache
from hashlib import sha256
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

REPORT = "report.html"
"""The name of the page of a run, where nobody gives another."""
_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""What HTML does not allow even as a character reference, carriage returns, and overrides of the writing direction."""

_MARKDOWN_SIGNS = re.compile(r"([!-/:-@\[-`{-~])")
_PLAIN_NAME = re.compile(r"[\w./:#+-]+", re.ASCII)


def render_template(template: str, **values: Any) -> str:
    """Return `templates/<template>` filled with `values`, as text that UTF-8 can hold.

    Templates that end in `.html.j2` escape every value. Markdown has `literal` for text within a line and `indented`
    for a code block.
    """
    return _environment().get_template(template).render(values)


def clean(text: str) -> str:
    """Return `text` with control characters, direction overrides, lone surrogates and noncharacters as U+FFFD."""
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def clipped(text: str, length: int) -> str:
    """Return the first `length` characters of `text`, and how many are left out."""
    rest = len(text) - length
    return f"{text[:length]}… ({rest:,} more characters)" if rest > 0 else text


def printable(text: str, length: int) -> str:
    """Return the first `length` characters of `text` as one line, without invisible marks.

    Such marks can reverse the direction of writing, for example.
    """
    line = " ".join(clipped(text, length).split())
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def literal(text: str) -> str:
    """Return `text` as one line of Markdown that shows it literally, also in a table cell."""
    line = printable(text, 200)
    return f"`{line}`" if _PLAIN_NAME.fullmatch(line) else _MARKDOWN_SIGNS.sub(r"\\\1", line)


def _indented(text: str) -> str:
    """Return `text` as a Markdown code block, which no content can end."""
    return "".join(f"    {line}\n" for line in clean(text).splitlines())


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.{int(value < 99.95)}f}"


def _times(number: int | None) -> str:
    return "several times" if number is None else "once" if number == 1 else f"{number:,} times"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _finalize(value: Any) -> Any:
    return clean(value) if type(value) is str else value  # the output of a macro has another type


@cache
def _script(template: str) -> dict[str, str]:
    """Return a script as its page has it, and the digest by which the page's policy allows it."""
    text = render_template(template)
    return {"text": text, "digest": f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("observe_r1.report"),
        autoescape=select_autoescape(disabled_extensions=("md.j2",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalize,
    )
    environment.filters |= {
        "clip": clipped,
        "literal": literal,
        "indented": _indented,
        "number": _number,
        "share": _share,
        "times": _times,
    }
    environment.globals["script"] = _script
    return environment
