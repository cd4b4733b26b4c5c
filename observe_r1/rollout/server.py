"""A model at a server elsewhere, asked through the chat completions of OpenAI's API: vLLM, SGLang, hosted models.

It gives texts and their lengths, no tokens and no log-probabilities: enough to grade, not to train on.
"""

import json
import os
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from itertools import islice
from math import sqrt
from typing import Any, Literal, TypeVar

from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from observe_r1.config import ProcessorSettings, QuestionSettings, ServerSettings
from observe_r1.data.format_prompts import checked_format_prompt
from observe_r1.data.images import opened_image
from observe_r1.errors import UserError
from observe_r1.json_server import JsonServer, beginning
from observe_r1.records import Example, Message, Sampling
from observe_r1.registry import nearest
from observe_r1.rollout.engine import RefusedPromptError, Reply
from observe_r1.threads import in_daemon_thread

KEY = "OBSERVE_R1_SERVER_KEY"
"""The environment variable that holds the server's key, which stands in no file."""
_LONGEST = 1 << 26
"""Bytes of an answer, at most."""
_OF_THE_PROMPT = (400, 413, 422)
"""Statuses by which a server refuses one prompt: too long, too many images."""
_OF_THE_KEY = (401, 403)
_ENOUGH = 8
"""Questions to which no model that samples is likely to give equal responses."""
_NO_LIST = (404, 405, 500, 501)
_DIALECTS: dict[str, dict[str, Any]] = {
    "vllm": {"repetition_penalty": 1.0, "min_p": 0.0, "top_k": 0, "include_stop_str_in_output": True},
    "sglang": {"repetition_penalty": 1.0, "min_p": 0.0, "top_k": -1, "no_stop_trim": True},
}
"""Servers that begin with the checkpoint's own generation settings, and what makes them sample as our engines do."""


@dataclass(frozen=True, slots=True, eq=False)
class ServerPrompt:
    """An `Example` as a server takes it."""

    messages: str
    """The chat as JSON, its images inside."""
    text: str
    """What its turns say."""
    stream: int
    """As `Prompt.stream`."""


@dataclass(frozen=True, slots=True)
class ServerReply:
    """One response of a server; fields as those of `Completion`."""

    text: str
    tokens: int
    finish: Literal["stop", "length"]


def encode_chat(example: Example, *, settings: QuestionSettings, stream: int, model: ProcessorSettings) -> ServerPrompt:
    """Return `example` as a server takes it, with the format prompt if the question itself asks for no format.

    Args:
        example: The question and its images, not yet opened.
        settings: `data`: the format prompt.
        stream: Which draw this is (`Prompt.stream`).
        model: Larger images than its `max_pixels` are shrunk; the rest is the server's matter.

    Raises:
        UserError: An image cannot be opened, or the question asks for another format already.
    """
    messages = checked_format_prompt(example, settings)
    turns = []
    images = iter(example.images)
    for message in messages:
        content: list[dict[str, Any]] = []
        for part in message["content"]:
            if part["type"] == "image":
                most = min(part.get("max_pixels", model.max_pixels), model.max_pixels)
                with opened_image(next(images), example.origin, settings) as image:
                    content.append({"type": "image_url", "image_url": {"url": _data_url(image, most)}})
            elif content and content[-1]["type"] == "text":  # some servers put a line break between two
                content[-1]["text"] += part["text"]
            else:
                content.append({"type": "text", "text": part["text"]})
        bare = len(content) == 1 and content[0]["type"] == "text"
        turns.append({"role": message["role"], "content": content[0]["text"] if bare else content})
    return ServerPrompt(json.dumps(turns), "\n".join(map(_text, messages)), stream)


def _text(message: Message) -> str:
    return "".join(part.get("text", "") for part in message["content"])


def _data_url(image: Image.Image, most: int) -> str:
    """Return an image of at most `most` pixels as a `data:` URL."""
    if (scale := sqrt(most / (image.width * image.height))) < 1:
        image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


class _Message(BaseModel):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    completion_tokens: int = Field(ge=0)


class _Answer(BaseModel):
    model: str = ""
    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: _Usage


class _Model(BaseModel):
    id: str
    owned_by: str = ""


class _Models(BaseModel):
    data: list[_Model]


_Parsed = TypeVar("_Parsed", _Answer, _Models)


class _RefusedError(UserError):
    """The server does not take this prompt."""


class ChatServer:
    """A model that a server has loaded; keeps the promises of `Answering`.

    Each response is a request of its own, so that its length is known, and `server.at_once` of them are under way at a
    time. A request is sent again, with back-off, while the server is busy, silent or away.

    Args:
        settings: `server`: its address, the model's name there, and how patient to be.
        model: As the command names it: its name at the server if `settings` have none, and unless it is a folder whose
            model the server calls otherwise.
        is_folder: Whether `model` is a folder on this machine.
        note: Is told what the user should know.

    Raises:
        UserError: The server does not answer, wants another key, or does not have the model.
    """

    def __init__(self, settings: ServerSettings, model: str, *, is_folder: bool, note: Callable[[str], None]) -> None:
        assert settings.url is not None
        self._settings = settings
        self._note = note
        self._server = JsonServer(
            "server",
            settings.url,
            silence=settings.timeout,
            limit=2 * settings.timeout,  # silence, which is asked again about, comes first
            retries=settings.retries,
            at_once=settings.at_once,
            longest=_LONGEST,
            settings=("server.timeout", "server.retries"),
        )
        self._key = _key()
        known = {each.id: each for each in self._models()}
        self.model = settings.model or model
        """Its name at the server."""
        if known and self.model not in known and not self._takes(self.model):
            if settings.model or not is_folder or len(known) > 1:
                listed = ", ".join(sorted(known)[:8]) + ", …" * (len(known) > 8)
                raise UserError(
                    f"{self._server.name} has no model {self.model!r}: give its name there, --server_model: {listed}"
                    f"{nearest(self.model, known)}"
                )
            (self.model,) = known
            note(f"{self._server.name} calls its only model {self.model!r}: that one is asked")
        self._dialect = _DIALECTS.get(known[self.model].owned_by, {}) if self.model in known else {}
        self._kept: dict[tuple[ServerPrompt, int], ServerReply] = {}
        """Responses of a batch in which the server refused a prompt; the batch is asked again without that one."""
        self._told: set[str] = set()
        self.finished = 0

    def generate(
        self,
        prompts: Sequence[ServerPrompt],
        sampling: Sampling,
        on_group: Callable[[int, Sequence[Reply]], None] | None = None,
    ) -> list[list[ServerReply]]:
        """Return `sampling.n` responses per prompt; see `Engine.generate`.

        Raises:
            RefusedPromptError: The server does not take one of the prompts.
            UserError: The server cannot be reached any more, or answers something else.
        """
        jobs = ((index, number) for index in range(len(prompts)) for number in range(sampling.n))
        groups: list[dict[int, ServerReply]] = [{} for _ in prompts]
        refused: dict[int, str] = {}
        running: dict[Future[ServerReply], tuple[int, int]] = {}
        while True:
            for index, number in islice(jobs, self._settings.at_once - len(running)):
                running[in_daemon_thread(self._reply, prompts[index], number, sampling)] = (index, number)
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                index, number = running.pop(future)
                try:
                    groups[index][number] = self._kept[prompts[index], number] = future.result()
                except _RefusedError as error:
                    refused[index] = str(error)
                    continue
                self.finished += 1
                if on_group is not None and len(groups[index]) == sampling.n:
                    on_group(index, [groups[index][each] for each in range(sampling.n)])
        if refused:
            first = min(refused)
            raise RefusedPromptError(first, refused[first])
        self._kept.clear()
        texts = [{reply.text for reply in group.values()} for group in groups]
        if sampling.temperature and sampling.n > 1 and len(texts) >= _ENOUGH and all(len(each) == 1 for each in texts):
            self._note_once(
                "same",
                f"gave {sampling.n} equal responses to each of {len(texts)} questions at temperature "
                f"{sampling.temperature:g}: it may not sample (docs/evaluation.md)",
            )
        return [[group[number] for number in range(sampling.n)] for group in groups]

    def _reply(self, prompt: ServerPrompt, number: int, sampling: Sampling) -> ServerReply:
        if (before := self._kept.get((prompt, number))) is not None:
            return before
        fields = json.dumps(self._fields(prompt, number, sampling))
        body = f'{fields[:-1]}, "messages": {prompt.messages}}}'.encode()
        status, content = self._ask("POST", "/chat/completions", body)
        if status in _OF_THE_PROMPT:
            raise _RefusedError(f"{self._server.name} refuses it with status {status}: {_reason(content)}")
        answer = self._parsed(_Answer, status, content)
        choice, tokens = answer.choices[0], answer.usage.completion_tokens
        finish: Literal["stop", "length"] = "length" if choice.finish_reason == "length" else "stop"
        if finish == "length" and tokens < sampling.max_new_tokens:
            self._note_once(
                "cut",
                f"cut a response at {tokens:,} tokens, before rollout.max_new_tokens = {sampling.max_new_tokens:,}: "
                "it has a limit of its own (docs/evaluation.md)",
            )
        if choice.message.reasoning or choice.message.reasoning_content:
            self._note_once(
                "reasoning",
                "keeps the reasoning apart from the response, which is judged without it and is not well-formed: start "
                "it without its parser for reasoning",
            )
        return ServerReply(choice.message.content or "", tokens, finish)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return status and content of an answer; a refusal without the key, which some servers repeat."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        status, content = self._server.ask(method, path, body, headers)
        if self._key and status >= 400:
            content = content.replace(self._key.encode(), b"...")
        return status, content

    def _fields(self, prompt: ServerPrompt, number: int, sampling: Sampling) -> dict[str, Any]:
        """Return what a request asks for besides the chat."""
        digest = blake2b(f"{sampling.seed}/{prompt.stream}/{number}".encode(), digest_size=4).digest()
        asked = {"model": self.model, "temperature": sampling.temperature, "top_p": sampling.top_p}
        asked |= {"max_tokens": sampling.max_new_tokens, "stop": sampling.stop or None, **self._dialect}
        asked |= {"top_k": sampling.top_k} if sampling.top_k else {}
        asked |= {"seed": int.from_bytes(digest) >> 1} if sampling.temperature else {}
        asked |= self._settings.fields or {}
        return {name: value for name, value in asked.items() if value is not None}

    def _note_once(self, kind: str, what: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._note(f"{self._server.name} {what}")

    def _takes(self, name: str) -> bool:
        """Whether the server answers for a model that it does not list: some load any model that they are asked for."""
        chat = {"model": name, "messages": [{"role": "user", "content": "?"}], "max_tokens": 1}
        status, content = self._ask("POST", "/chat/completions", json.dumps(chat).encode())
        try:
            taken = 200 <= status < 300 and _Answer.model_validate_json(content).model.startswith(name)
        except ValidationError:
            return False
        if taken:
            self._note(f"{self._server.name} does not list {name!r}, but answers for it")
        return taken

    def _models(self) -> list[_Model]:
        """Return the models that the server lists; none if it lists none."""
        status, content = self._ask("GET", "/models")
        return [] if status in _NO_LIST else self._parsed(_Models, status, content).data

    def _parsed(self, kind: type[_Parsed], status: int, content: bytes) -> _Parsed:
        if status in _OF_THE_KEY:
            raise UserError(
                f"{self._server.name} answered with status {status}: {_reason(content)}: put its key into the "
                f"environment variable {KEY}"
            )
        try:
            return kind.model_validate(self._server.parsed(status, content))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "answer"
            raise UserError(
                f"{self._server.name} must answer as OpenAI's API does: {place}: {first['msg']}: {beginning(content)}"
            ) from error


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the environment variable {KEY} holds characters that no key has: set it again")
    return key


def _reason(content: bytes) -> str:
    """Return what a server says is wrong, on one line."""
    try:
        said = json.loads(content)
        message = said["detail"] if "detail" in said else said.get("error", said)["message"]
        return " ".join(str(message).split())[:400]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return beginning(content)
