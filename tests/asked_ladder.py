"""A ladder measured by an engine that remembers what it was asked and answers 1, or as the model `second` 2."""

import json
from contextlib import closing, contextmanager
from functools import partial

import pytest
import torch
from PIL import Image

from observe_r1.cli import ladder as ladder_commands
from observe_r1.cli.main import main
from observe_r1.config import ModelSettings
from observe_r1.demo.tiny_model import make_tiny_model
from observe_r1.errors import UserError
from observe_r1.ladder import building, difficulty
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.processor import load_processor
from observe_r1.records import Completion
from observe_r1.rollout.engine import RefusedPromptError
from observe_r1.run import engines, progress
from observe_r1.run.interrupt import StopRequest

COUNT = 6


class Engine:
    version = finished = 0

    def __init__(self, path, log, longest):
        self.path, self.log, self.longest = path, log, longest

    def generate(self, prompts, sampling, on_group=None):
        assert sampling.max_new_tokens == self.longest
        for index, prompt in enumerate(prompts):
            if len(prompt.image_digests) > 1:
                raise RefusedPromptError(index, "rollout.vllm: too many images")
        self.log += [(self.path, prompt) for prompt in prompts]
        ids = torch.ones(50, dtype=torch.long)
        text = f"<think>I count.</think><answer>{1 + (self.path == 'second')}</answer>"
        groups = [[Completion(ids, ids.float(), text, 0, "stop")] * sampling.n for _ in prompts]
        for number, group in enumerate(groups):
            on_group(number, group)
        return groups

    def close(self):
        self.log.append((self.path, "closed"))


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return load_processor(ModelSettings(path=str(make_tiny_model(tmp_path_factory.mktemp("tiny") / "model"))))


@pytest.fixture
def log(monkeypatch, processor):
    """What models were asked, as `(path, prompt)`; the path `missing` names none."""
    asked = []

    def check(path, setting="model.path", settings=None):
        if path == "missing":
            raise UserError(f"{setting} = 'missing': no such folder")

    @contextmanager
    def load(path, settings):
        check(path)
        with closing(Engine(path, asked, settings.rollout.max_new_tokens)) as engine:
            yield engine, partial(encode_prompt, processor=processor)

    monkeypatch.setattr(building, "_check_model", check)
    monkeypatch.setattr(engines, "load_engine", load)
    monkeypatch.setattr(ladder_commands, "write_ladder_report", lambda folder: [])
    return asked


def prompts(log, path):
    return [entry for name, entry in log if name == path and entry != "closed"]


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def questions(tmp_path):
    """Rows of an image each; the answers alternate between 1 and 2, so that every other one is never answered."""
    rows = []
    for number in range(COUNT):
        Image.new("RGB", (56, 56), (number, 0, 0)).save(tmp_path / f"{number}.png")
        parts = [{"type": "image", "image": f"{number}.png"}, {"type": "text", "text": f"{number}: how many?"}]
        message = json.dumps([{"role": "user", "content": parts}])
        rows.append({"id": f"q{number}", "message": message, "answer": str(1 + number % 2)})
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "q.jsonl"


def build(questions, *options, verb="build"):
    sizes = ["--rollout.group_size=2", "--rollout.batch=2", "--run.threads=1"]
    if verb == "build":
        sizes += ["--model=measurer", "--arrange.min_complexity=0"]
    return main(["ladder", verb, str(questions), f"--output={questions.parent / 'out'}", *sizes, *options])


def refresh(questions, *options):
    return main(["ladder", "refresh", str(questions.parent / "out"), *options])


def stop_after_the_first_batch(monkeypatch):
    batches = []

    class Request(StopRequest):
        requested = property(lambda self: len(batches) > 0, lambda self, value: None)

    figures = difficulty.question_figures
    monkeypatch.setattr(difficulty, "question_figures", lambda *args: batches.append(args) or figures(*args))
    monkeypatch.setattr(progress, "StopRequest", Request)
