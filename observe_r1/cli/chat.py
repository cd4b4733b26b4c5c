"""`observe-r1 chat`: questions typed in the terminal, answers in colour as they are generated."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from observe_r1.cli.start import heavy_imports
from observe_r1.cli.terminal import escaped, one_line
from observe_r1.config import ChatSettings
from observe_r1.data.chat import parse_chat
from observe_r1.data.images import PrivateImageError, open_image
from observe_r1.data.places import IMAGE_KINDS
from observe_r1.errors import UserError
from observe_r1.registry import beside
from observe_r1.run import Ended
from observe_r1.run.progress import Progress

if TYPE_CHECKING:
    from observe_r1.run.chat import ChatModel

_STYLES = {"observe": "cyan", "think": "yellow", "answer": "bold green"}
"""Of what stands between each pair of tags."""
_TAG = re.compile(rf"</?(?:{'|'.join(_STYLES)})>")
_LONGEST_TAG = len("</observe>")
_HELP = "type a question; /image FILE[,FILE] shows other images, /image alone none; Ctrl-C stops an answer, Ctrl-D ends"


def run(settings: ChatSettings, view: Progress) -> Ended:
    """Answer the question of `chat.ask`, or those that are typed.

    Args:
        settings: Of the chat.
        view: Shows that the model loads; entered already.

    Raises:
        UserError: An image cannot be opened, the model cannot be loaded, or the question of `chat.ask` cannot be asked.
    """
    check_images(settings.chat.image, "--image")
    with heavy_imports():
        from observe_r1.run.chat import ChatModel
    view.now(f"loading {settings.model.path}")
    model = ChatModel(settings)
    view.close()
    options = settings.chat
    if options.web:
        from observe_r1.cli.chat_web import serve  # with what the extra brings

        serve(model, settings)
        return Ended(0, "")
    if options.ask is not None:
        _answer(model, options.ask, options.image, options.max_new_tokens)
        return Ended(0, "")
    _converse(model, options.image, options.max_new_tokens)
    return Ended(0, "")


def check_images(images: Sequence[str], place: str) -> None:
    """Check that images are there and can be shown, before anything is loaded.

    Args:
        images: Files or http(s) addresses.
        place: Who names them, for errors.

    Raises:
        UserError: One is missing, no image, or cannot be fetched.
    """
    if not images:
        return
    turn = {"role": "user", "content": [{"type": "image", "image": image} for image in images]}
    for name, source in zip(images, parse_chat([turn], place, Path.cwd()).images, strict=True):
        try:
            open_image(source, place)
        except PrivateImageError as error:
            raise UserError(f"{error.refused}: download it and name the file") from error
        except UserError as error:
            raise UserError(f"{error}{_meant(Path(name))}") from error


def _meant(image: Path) -> str:
    """Name the image that is meant, if the file is not there."""
    return "" if os.path.exists(image) else beside(image, lambda path: path.suffix.lower() in IMAGE_KINDS)  # noqa: PTH110 (Path's may raise)


def _converse(model: ChatModel, images: tuple[str, ...], longest: int) -> None:
    """Answer question after question until the input ends."""
    print(_HELP, file=sys.stderr)
    while True:
        try:
            question = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        command, _, names = question.partition(" ")
        if command == "/image":
            images = _shown(images, tuple(name.strip() for name in names.split(",") if name.strip()))
        elif question.startswith("/"):
            print(f"{one_line(command)} is no command: {_HELP}", file=sys.stderr)
        elif question:
            try:
                _answer(model, question, images, longest)
            except UserError as error:
                print(f"observe-r1: {one_line(str(error))}", file=sys.stderr)
            except KeyboardInterrupt:
                print("\nstopped", file=sys.stderr)


def _shown(before: tuple[str, ...], images: tuple[str, ...]) -> tuple[str, ...]:
    """Return the images that the next questions are about, and say so; those of `before` where one cannot be opened."""
    try:
        check_images(images, "/image")
    except UserError as error:
        print(f"observe-r1: {one_line(str(error))}", file=sys.stderr)
        images = before
    print(f"shown: {one_line(', '.join(images)) or 'no image'}", file=sys.stderr)
    return images


def _answer(model: ChatModel, question: str, images: tuple[str, ...], longest: int) -> None:
    drawn = ColouredAnswer(Console(highlight=False, soft_wrap=True))
    try:
        cut_off = model.answer(question, images, drawn.write)
    finally:
        drawn.end()
    if cut_off:
        print(said_of_cut(longest), file=sys.stderr)


def said_of_cut(longest: int) -> str:
    """Return what is said of an answer that was cut off after `longest` tokens."""
    return f"cut off after {longest:,} tokens: --chat.max_new_tokens lets answers be longer"


class ColouredAnswer:
    """Draws an answer while it is generated: each block in its own colour, and what a terminal would obey as escapes.

    Args:
        console: To draw on.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._style = ""
        self._held = ""
        """The last characters, which may be the beginning of a tag."""

    def write(self, text: str) -> None:
        """Draw the next characters of the answer."""
        self._held += text
        while tag := _TAG.search(self._held):
            name = tag[0].strip("</>")
            closes = tag[0].startswith("</")
            self._draw(self._held[: tag.start()])
            self._style = _STYLES[name]
            self._draw(tag[0])
            if closes:
                self._style = ""
            self._held = self._held[tag.end() :]
        begun = self._held.rfind("<", max(0, len(self._held) - _LONGEST_TAG + 1))
        ready = len(self._held) if begun < 0 else begun
        self._draw(self._held[:ready])
        self._held = self._held[ready:]

    def end(self) -> None:
        """Draw what was held back, and end the line."""
        self._draw(self._held)
        self._held = ""
        self._console.print()

    def _draw(self, text: str) -> None:
        if text:
            self._console.print(Text(escaped(text, keep="\n\t"), style=self._style), end="")
