"""`observe-r1 chat --web`: the same questions and answers on a page, which this machine alone can open."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from html import escape
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from observe_r1.cli.chat import said_of_cut
from observe_r1.cli.terminal import escaped, one_line
from observe_r1.config import ChatSettings
from observe_r1.errors import UserError
from observe_r1.run.chat import ChatModel
from observe_r1.threads import in_daemon_thread

if TYPE_CHECKING:
    from gradio import Blocks
    from gradio.data_classes import ImageData

_HOST = "127.0.0.1"
_NAMES = [_HOST, "localhost"]
"""A website elsewhere whose name leads to this machine is not answered."""
_BLOCK = re.compile(r"<(observe|think|answer)>(.*?)(?:</\1>|\Z)", re.DOTALL)
_OBEYED = str.maketrans({character: f"&#{ord(character)};" for character in "{}$`\\"})
"""What Gradio's templates could take for a command of theirs."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; worker-src 'self' blob:; font-src 'self' data:; "
    "frame-ancestors 'none'"
)
"""The page loads nothing from elsewhere and sends nothing there."""
_STYLE = """
.reply section { border-left: 4px solid var(--hue); padding: 0 0.9em; margin: 0 0 1em; }
.reply h3 { color: var(--hue); font-size: 0.85em; margin: 0 0 0.2em; }
.reply p { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
.observe { --hue: #0e7490; } .think { --hue: #a16207; } .reply .answer { --hue: #15803d; font-weight: 600; }
.dark .observe { --hue: #22d3ee; } .dark .think { --hue: #facc15; } .dark .reply .answer { --hue: #4ade80; }
.error { --hue: #b91c1c; } .dark .error { --hue: #f87171; } .outside { --hue: transparent; }
"""
_EXAMPLE = "How many red circles are there?"


class _StoppedError(Exception):
    """The page has closed, or somebody has pressed Stop."""


def serve(model: ChatModel, settings: ChatSettings) -> None:
    """Show the page until Ctrl-C; arguments and errors as those of `opened_page`."""
    with opened_page(model, settings) as address:
        print(f"{address} shows the page; Ctrl-C ends it", flush=True)
        with suppress(KeyboardInterrupt):
            Event().wait()


@contextmanager
def opened_page(model: ChatModel, settings: ChatSettings) -> Iterator[str]:
    """Show the page during the block, and yield its address.

    Args:
        model: Answers, one question at a time.
        settings: Of the chat.

    Raises:
        UserError: The port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # what is not the page's own asks this
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="observe-r1-chat-"))
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        import gradio as gr  # where it keeps uploads it reads only now

        page = _page(model, settings, Path(folder))
        port = settings.chat.port
        try:
            _, address, _ = page.launch(
                server_name=_HOST,
                server_port=port,
                share=False,
                inbrowser=False,
                inline=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                footer_links=[],
                max_file_size="32mb",
                app_kwargs={
                    "middleware": [Middleware(_OwnOnly), Middleware(TrustedHostMiddleware, allowed_hosts=_NAMES)]
                },
                theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
                css=_STYLE,
            )
        except OSError as error:
            taken = "no port from 7860 on is free" if port is None else f"port {port} is not free"
            raise UserError(f"chat.port: {taken}: give another one with --port") from error
        stack.callback(page.close, verbose=False)
        yield address


class _OwnOnly:
    """Tells the browser to load nothing from elsewhere, and refuses what a page from elsewhere sends.

    Args:
        app: Is asked what this page asks.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _is_from_elsewhere(Headers(scope=scope)):
            await PlainTextResponse("this page answers itself alone", status_code=403)(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = _POLICY
            await send(message)

        await self._app(scope, receive, told)


def _is_from_elsewhere(headers: Headers) -> bool:
    """Whether a request comes from another site's page: a browser sends some of those without asking first."""
    origin = headers.get("origin")
    return origin is not None and origin != f"http://{headers.get('host')}"


def _page(model: ChatModel, settings: ChatSettings, folder: Path) -> Blocks:
    import gradio as gr

    drawn = folder / "example.png"
    _draw_example(drawn)
    shown = next(iter(settings.chat.image), None)

    def answer(image: str | None, question: str) -> Iterator[str]:
        """Yield the answer so far as HTML."""
        yield from answers(model, image, question, settings.chat.max_new_tokens)

    with gr.Blocks(title="Observe-R1", analytics_enabled=False) as page:
        gr.Markdown(f"# Observe-R1\n{escape(one_line(settings.model.path))}")
        with gr.Row():
            with gr.Column():
                image = gr.Image(
                    shown, label="image", type="filepath", image_mode=None, sources=["upload", "clipboard"]
                )
                # Gradio's own opens the file, and fails with a traceback if that is no image.
                image.preprocess = _path_of  # type: ignore[method-assign, assignment]
                question = gr.Textbox(label="question", lines=2, autofocus=True)
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary")
                    stop = gr.Button("Stop")
                    example = gr.Button("Example")
            reply = gr.HTML(elem_classes="reply", label="answer")
        asked = gr.on([ask.click, question.submit], answer, [image, question], reply, api_name="answer")
        stop.click(None, cancels=[asked])
        example.click(lambda: (str(drawn), _EXAMPLE), None, [image, question], api_visibility="private")
    return page


def _path_of(uploaded: ImageData | None) -> str | None:
    return None if uploaded is None else uploaded.path


def answers(model: ChatModel, image: str | None, question: str, longest: int) -> Iterator[str]:
    """Yield the answer to a question, as far as it is generated, as HTML.

    Args:
        model: Answers.
        image: File of the image; None for none.
        question: What is asked.
        longest: Tokens after which the model's answers are cut off.
    """
    pieces: SimpleQueue[str | None] = SimpleQueue()
    stopped = Event()

    def write(piece: str) -> None:
        if stopped.is_set():
            raise _StoppedError
        pieces.put(piece)

    def ask() -> bool:
        try:
            return model.answer(question, [image] if image else [], write)
        finally:
            pieces.put(None)

    text = ""
    generated = in_daemon_thread(ask)
    try:
        while (piece := pieces.get()) is not None:
            text += piece
            yield as_html(text)
        try:
            if generated.result():
                yield as_html(text) + _section("error", "cut off", said_of_cut(longest))
        except UserError as error:
            yield as_html(text) + _section("error", "cannot be asked", one_line(str(error)))
    finally:
        stopped.set()


def as_html(text: str) -> str:
    """Return an answer, which may be unfinished, with a section for each block; whatever it says is only text."""
    parts, end = [], 0
    for block in _BLOCK.finditer(text):
        parts += [_section("outside", "", text[end : block.start()]), _section(block[1], block[1], block[2])]
        end = block.end()
    return "".join([*parts, _section("outside", "", text[end:])])


def _section(kind: str, title: str, text: str) -> str:
    if not text.strip():
        return ""
    harmless = escape(escaped(text.strip(), keep="\n\t")).translate(_OBEYED)
    return f'<section class="{kind}">' + f"<h3>{title}</h3>" * bool(title) + f"<p>{harmless}</p></section>"


def _draw_example(path: Path) -> None:
    """Draw two red circles and a blue square, as the demo's pictures are: its model can answer, too."""
    image = Image.new("RGB", (84, 84), (123, 117, 104))
    draw = ImageDraw.Draw(image)
    for x, y in ((14, 14), (70, 42)):
        draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=(220, 40, 40))
    draw.rectangle((33, 61, 51, 79), fill=(50, 80, 225))
    image.save(path)
