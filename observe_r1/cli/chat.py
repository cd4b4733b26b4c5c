"""`observe-r1 chat`: questions typed in the terminal, answers in colour as they are generated."""

import re
import sys

from rich.console import Console
from rich.text import Text

from observe_r1.cli.terminal import escaped, one_line
from observe_r1.config import ChatSettings
from observe_r1.errors import UserError
from observe_r1.run import Ended
from observe_r1.run.chat import ChatModel
from observe_r1.run.progress import Progress

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
        UserError: The model cannot be loaded, or the question of `chat.ask` cannot be asked.
    """
    view.now(f"loading {settings.model.path}")
    model = ChatModel(settings)
    view.close()
    options = settings.chat
    if options.web:
        from observe_r1.cli.chat_web import serve  # with what the extra brings

        serve(model, settings)
        return Ended(0, "")
    if options.ask is not None:
        _answer(model, options.ask, options.image)
        return Ended(0, "")
    _converse(model, options.image)
    return Ended(0, "")


def _converse(model: ChatModel, images: tuple[str, ...]) -> None:
    """Answer question after question until the input ends."""
    print(_HELP, file=sys.stderr)
    while True:
        try:
            question = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        command, _, names = question.partition(" ")
        if command == "/image":
            images = tuple(name.strip() for name in names.split(",") if name.strip())
            print(f"shown: {one_line(', '.join(images)) or 'no image'}", file=sys.stderr)
        elif question.startswith("/"):
            print(f"{one_line(command)} is no command: {_HELP}", file=sys.stderr)
        elif question:
            try:
                _answer(model, question, images)
            except UserError as error:
                print(f"observe-r1: {one_line(str(error))}", file=sys.stderr)
            except KeyboardInterrupt:
                print("\nstopped", file=sys.stderr)


def _answer(model: ChatModel, question: str, images: tuple[str, ...]) -> None:
    drawn = ColouredAnswer(Console(highlight=False, soft_wrap=True))
    try:
        model.answer(question, images, drawn.write)
    finally:
        drawn.end()


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
