"""A ladder built with vLLM as the sampler, for real: one engine after the other in one process."""

import gc
import json
import weakref

import pytest
from PIL import Image

from observe_r1.cli import ladder as ladder_commands
from observe_r1.cli.main import main
from observe_r1.config import DataSettings, ModelSettings
from observe_r1.demo.tiny_model import Sizes, make_tiny_model
from observe_r1.ladder.inference import random_stream
from observe_r1.ladder.questions import read_questions
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.records import Sampling
from observe_r1.rollout import vllm
from observe_r1.rollout.embedded import EmbeddedEngine


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, images):
    """Write a question for each number of images."""
    rows = []
    for number, count in enumerate(images):
        Image.new("RGB", (56, 56), (40 * number, 0, 0)).save(path.parent / f"{number}.png")
        content = [{"type": "image", "image": f"{number}.png"}] * count + [{"type": "text", "text": f"{number}?"}]
        message = json.dumps([{"role": "user", "content": content}])
        rows.append({"id": f"q{number}", "message": message, "answer": str(number)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def started(monkeypatch):
    """References to the models that vLLM loaded, each gone when the next is loaded."""
    start, models = vllm.start_vllm, []

    def watched(*arguments):
        assert not [model for model in models if model()]
        started = start(*arguments)
        models.append(weakref.ref(started.engine.model_executor.driver_worker.worker.get_model()))
        return started

    monkeypatch.setattr(vllm, "start_vllm", watched)
    gc.disable()
    yield models
    gc.enable()


def test_a_build_screens_and_measures_with_vllm(tmp_path, monkeypatch, capsys, started):
    """Where only the likeliest token counts, responses are the embedded engine's; 9 images are too many."""
    monkeypatch.setattr(ladder_commands, "write_ladder_report", lambda folder: [])
    model = make_tiny_model(tmp_path / "model", sizes=Sizes(heads=3, kv_heads=1), scale=2.0)
    questions = write(tmp_path / "q.jsonl", [1, 0, 9, 1, 2])
    out = tmp_path / "out"
    argv = ["ladder", "build", questions, "--output", out, "--model", model, "--screen.models", model]
    argv += ["--rollout.engine", "vllm", "--data.max_prompt_tokens", 400, "--rollout.max_new_tokens", 12]
    argv += ["--rollout.group_size", 2, "--rollout.batch", 3, "--rollout.top_k", 1, "--screen.max_new_tokens", 8]
    argv += [
        "--arrange.min_complexity",
        0,
        "--data.format_prompt",
        "observe",
        "--model.device",
        "cpu",
        "--run.threads",
        1,
    ]
    argv = list(map(str, argv))
    assert main(argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "questions.jsonl row 3: rollout.vllm: vLLM refuses the prompt: At most 8 image" in error
    assert main([*argv, "--skip-bad"]) == 2  # nothing that such a model says is right
    assert "4 measured, 4 of them unsolved" in capsys.readouterr().err
    assert len(started) == 3 and not [model for model in started if model()]
    vlm = load_model(ModelSettings(path=str(model), device="cpu"), frozen=True)
    data = DataSettings(path="-", max_prompt_tokens=400)
    examples = read_questions(out / "screened.jsonl")
    assert [example.id for example in examples] == ["q0", "q1", "q3", "q4"]
    prompts = [encode_prompt(example, vlm.processor, data, random_stream(example)) for example in examples]
    greedy = EmbeddedEngine(vlm).generate(prompts, Sampling(temperature=0, max_new_tokens=12))
    expected = [(e.id, n, one.text, len(one.ids)) for e, (one,) in zip(examples, greedy, strict=True) for n in (0, 1)]
    found = [(row["id"], row["number"], row["text"], row["tokens"]) for row in read(out / "responses.jsonl")]
    assert found == expected
