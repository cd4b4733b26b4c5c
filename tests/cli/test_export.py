"""`observe-r1 export`: what others load asks and answers as the run's own model does."""

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from scripted_server import scripted
from transformers import AutoConfig, AutoProcessor, pipeline

from observe_r1.cli.main import main
from observe_r1.config import ModelSettings, QuestionSettings
from observe_r1.data.format_prompts import FORMAT_PROMPTS, apply_format_prompt
from observe_r1.demo.dataset import write_questions
from observe_r1.demo.tiny_model import Sizes, make_tiny_model
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.handover import asking
from observe_r1.model.processor import load_processor, render_chat
from observe_r1.records import Example

QUESTION = "How many red circles are there?"


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A run of one step, of a model whose heads are as wide as vLLM's kernels for CPUs want them."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = make_tiny_model(folder.parent / "tiny", sizes=Sizes(heads=3, kv_heads=1), scale=2.0)
    words = [
        "train",
        "--model.path",
        model,
        "--data.path",
        world / "train" / "train.jsonl",
        "--run.output",
        folder,
    ]
    sizes = [
        "--rollout.prompts",
        2,
        "--rollout.group_size",
        2,
        "--optimizer.minibatch",
        2,
        "--rollout.max_new_tokens",
        8,
    ]
    assert main(list(map(str, [*words, *sizes, "--run.steps", 1, "--model.device", "cpu", "--run.threads", 1]))) == 0
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert main(["export", str(run), "--to", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "whole"
    assert main(["export", str(run), "--to", str(folder), "--dtype", "float32"]) == 0
    return folder


@pytest.fixture(scope="module")
def picture(world):
    return sorted((world / "train" / "images").iterdir())[0]


def weights(folder):
    return {name: weight for path in folder.glob("*.safetensors") for name, weight in load_file(path).items()}


def test_weights_are_the_run_s_in_the_type_that_is_asked_for(run, exported, whole):
    trained = weights(run / "model")
    assert {each.dtype for each in trained.values()} == {torch.float32}
    written = weights(exported)
    assert written.keys() == trained.keys()
    assert all(torch.equal(written[name], trained[name].bfloat16()) for name in trained)
    assert AutoConfig.from_pretrained(exported).dtype == torch.bfloat16
    assert all(torch.equal(weight, trained[name]) for name, weight in weights(whole).items())


@pytest.mark.parametrize("place", ["system", "suffix"])
@pytest.mark.parametrize("name", ["observe", "think", "none"])
def test_the_template_asks_as_training_does(sound_model, name, place):
    processor = AutoProcessor.from_pretrained(sound_model)
    bare = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    asked = apply_format_prompt(tuple(bare), name, place)
    expected = render_chat(asked, processor, "here")
    template = asking(processor.chat_template, FORMAT_PROMPTS.get(name, ""), place)
    for chat in (bare, list(asked)):
        assert processor.apply_chat_template(chat, template, add_generation_prompt=True) == expected
    if place == "suffix":
        text = [{"role": "user", "content": QUESTION}]
        listed = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
        first, second = (processor.apply_chat_template(chat, template) for chat in (text, listed))
        assert first == second


def test_a_system_message_of_one_s_own_stays(sound_model):
    processor = AutoProcessor.from_pretrained(sound_model)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    template = asking(processor.chat_template, FORMAT_PROMPTS["observe"], "system")
    assert processor.apply_chat_template(chat, template) == processor.apply_chat_template(chat)


def answered(folder, picture):
    """Return what transformers' own pipeline answers."""
    ask = pipeline("image-text-to-text", model=str(folder), device="cpu")
    opened = Image.open(picture).convert("RGB")  # an address would be read by torchvision, which needs its own build
    chat = [{"role": "user", "content": [{"type": "image", "image": opened}, {"type": "text", "text": QUESTION}]}]
    return ask(text=chat, return_full_text=False)[0]["generated_text"]


def test_a_pipeline_answers_as_chat_does(whole, picture, capsys):
    text = answered(whole, picture)
    words = ["chat", str(whole), "--image", str(picture), "--ask", QUESTION, "--chat.max_new_tokens", "8"]
    assert main(words) == 0
    harmless = "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
    assert capsys.readouterr().out.strip() == harmless.strip()


@pytest.fixture(scope="module")
def served(whole, tmp_path_factory):
    """The address of vLLM's own server with the exported model, which it calls `ours`."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "sitecustomize.py").write_text(
        "from observe_r1.torch_compat import ensure_importable\nensure_importable()\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    paths = [str(folder), str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    own |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    words = ["--model", whole, "--host", "127.0.0.1", "--port", port, "--max-model-len", 512, "--dtype", "float32"]
    words += ["--enforce-eager", "--served-model-name", "ours"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *map(str, words)]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(server.pid, 9)
            server.wait()


def _wait_for(address, server):
    until = time.monotonic() + 240
    while True:
        assert server.poll() is None, "the server has ended"
        try:
            with urlopen(address, timeout=120):
                return
        except OSError as error:
            assert getattr(error, "code", None) is None and time.monotonic() < until, error
            time.sleep(0.5)


def _asked(address, question=None):
    body = None if question is None else json.dumps(question).encode()
    with urlopen(Request(address, body, {"Content-Type": "application/json"}), timeout=120) as response:
        return response.read()


def failing_after(most, served):
    """Return what passes questions on to a server, but no more than `most`."""
    left = itertools.count(most, -1)

    def answer(question):
        if question == "/v1/models":
            return 200, _asked(f"{served}/models")
        try:
            return (200, _asked(f"{served}/chat/completions", question)) if next(left) > 0 else (500, b"gone")
        except HTTPError as error:
            return error.code, error.read()

    return answer


def test_vllm_serves_it(whole, picture, served):
    """With the template and the generation settings in the folder: the request has neither."""
    image = f"data:image/png;base64,{b64encode(picture.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": QUESTION}]
    question = {"model": "ours", "messages": [{"role": "user", "content": content}], "logprobs": True}
    reply = json.loads(_asked(f"{served}/chat/completions", question))
    assert reply["usage"]["completion_tokens"] <= 8
    example = Example(
        id="", messages=({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]},),
        images=(str(picture),), answer="",
    )  # fmt: skip
    prompt = encode_prompt(example, load_processor(ModelSettings(path=str(whole))), QuestionSettings())
    assert reply["usage"]["prompt_tokens"] == len(prompt.ids), "the template did not ask for the format"
    # vLLM leaves out a character whose bytes are cut off at the end.
    assert reply["choices"][0]["message"]["content"] == answered(whole, picture).rstrip("\ufffd")


def test_an_evaluation_at_its_server_is_the_embedded_engine_s(whole, served, tmp_path, capsys):
    """Greedy and sampled, killed in between and moved to another address: the same questions, texts and lengths."""
    questions = write_questions(tmp_path / "data", "held_out", seed=0, count=5)
    common = [str(whole), str(questions), "--rollout.max_new_tokens", "8", "--rollout.batch", "2", "--samples", "2"]
    at_server = ["evaluate", *common, "--output", str(tmp_path / "served"), "--server"]
    with scripted(failing_after(4, served), "/v1") as relay:
        assert main([*at_server, relay.url, "--server.retries", "0"]) == 2
        assert "answered with status 500" in capsys.readouterr().err
    assert main([*at_server, served]) == 0
    assert "calls its only model 'ours'" in capsys.readouterr().err
    assert main(["evaluate", *common, "--output", str(tmp_path / "here")]) == 0

    def greedy(name):
        rows = [json.loads(line) for line in (tmp_path / name / "1/greedy/responses.jsonl").read_text().splitlines()]
        # vLLM leaves out half a character at the end, of which we keep what stands for it.
        return [(row["id"], row["text"].rstrip("\ufffd"), row["tokens"], row["finish"]) for row in rows]

    assert greedy("served") == greedy("here")
    assert "model: ours" in (tmp_path / "served" / "config.yaml").read_text()
    sampled = (tmp_path / "served" / "1/sampled/responses.jsonl").read_text()
    assert len(sampled.splitlines()) == 10
    assert main(["evaluate", *common, "--output", str(tmp_path / "again"), "--server", served]) == 0
    assert (tmp_path / "again" / "1/sampled/responses.jsonl").read_text() == sampled
    assert main([*at_server, served, "--server_model", "theirs"]) == 2
    assert "has no model 'theirs'" in capsys.readouterr().err


def test_the_card_tells_of_the_run_and_its_code_runs(run, world, picture, tmp_path, capsys, monkeypatch):
    held_out = write_questions(tmp_path / "data", "held_out", seed=0, count=4)
    evaluation = tmp_path / "evaluation"
    own, other = str(run / "model"), str(world / "warm" / "model")
    words = [
        "evaluate",
        own,
        str(held_out),
        "--against",
        other,
        "--output",
        str(evaluation),
        "--rollout.max_new_tokens",
        "8",
    ]
    assert main(words) == 0
    assert main(["export", str(run), "--to", str(tmp_path / "new"), "--evaluation", str(evaluation)]) == 0
    card = (tmp_path / "new" / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["pipeline_tag"] == "image-text-to-text" and "base_model" not in header
    figures = json.loads((evaluation / "summary.json").read_text())["models"][0]["figures"]["accuracy"]
    assert f"| accuracy | {100 * figures['mean']:.1f}% [" in card and "| +0.0% [" in card
    assert "| minus `warm/model` |" in card and "| tokens |" in card
    assert "each of 4 questions of `held_out.jsonl`, of up to 8 tokens; means with 95 %" in card
    assert "1 step on `train.jsonl`,\neach with 2 questions and 2 sampled responses to each." in card
    (python,) = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    shutil.copy(picture, tmp_path / "diagram.png")
    monkeypatch.chdir(tmp_path)
    exec(python, {})
    assert capsys.readouterr().out.strip()
    assert str(tmp_path.parent) not in card and str(Path.home()) not in card, "a path of this machine"
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert main(["export", str(world / "warm"), "--to", str(tmp_path / "other"), "--evaluation", str(evaluation)]) == 2
    assert "has the figures of" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_only_what_is_on_the_hub_is_linked_to(run, tmp_path, monkeypatch):
    """A folder or a file with a relative path looks like the name of a repository."""
    copy = shutil.copytree(run, tmp_path / "run")
    monkeypatch.chdir(tmp_path)

    def header(model, data):
        settings = yaml.safe_load((copy / "config.yaml").read_text())
        settings["model"]["path"], settings["data"]["path"] = model, data
        (copy / "config.yaml").write_text(yaml.safe_dump(settings))
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        assert main(["export", "run", "--to", "new"]) == 0
        return yaml.safe_load((tmp_path / "new" / "README.md").read_text().split("---\n")[1])

    local = header("run/model", "data/train.jsonl")
    assert "base_model" not in local and "datasets" not in local
    hub = header("Qwen/Qwen2.5-VL-3B-Instruct", "me/ladder@train,data/more.jsonl,me/second")
    assert (hub["base_model"], hub["datasets"]) == ("Qwen/Qwen2.5-VL-3B-Instruct", ["me/ladder", "me/second"])


def test_adapters_go_by_themselves(world, tmp_path, capsys):
    words = [
        "sft",
        "--model.path",
        world / "tiny",
        "--data.path",
        world / "sft" / "sft.jsonl",
        "--run.output",
        tmp_path / "run",
    ]
    assert main(list(map(str, [*words, "--run.steps", 1, "--model.lora_rank", 2, "--model.device", "cpu"]))) == 0
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "new"), "--weights", "adapter"]) == 0
    assert (tmp_path / "new" / "adapter_config.json").is_file()
    assert not list((tmp_path / "new").glob("model*.safetensors"))
    assert "fine-tuned from" in (tmp_path / "new" / "README.md").read_text()
    (tmp_path / "run" / "model" / "observe_r1.json").unlink()
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "none"), "--weights", "adapter"]) == 2
    assert "observe_r1.json cannot be read: No such file" in capsys.readouterr().err
    assert main(["export", str(world / "warm"), "--to", str(tmp_path / "other"), "--weights", "adapter"]) == 2
    assert "trained without LoRA" in capsys.readouterr().err


DAMAGES = {
    "config.yaml": "No such file or directory: name the folder of a training run",
    "metrics.jsonl": "No such file or directory: name the folder of a training run",
    "model/observe_r1.json": "observe_r1.json is missing from the model",
    "model/config.json": "config.json is missing from the model",
    "model/chat_template.jinja": "chat_template.jinja is missing from the model",
}


def test_a_step_that_a_killed_run_has_half_written_is_left_out(run, exported, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    with (copy / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 2, "rew')
    assert main(["export", str(copy), "--to", str(tmp_path / "model")]) == 0
    for name in ("README.md", "curves.png"):
        assert (tmp_path / "model" / name).read_bytes() == (exported / name).read_bytes()


@pytest.mark.parametrize(("gone", "line"), DAMAGES.items(), ids=DAMAGES.keys())
def test_what_cannot_be_read_is_not_said_to_be_unwritable(run, tmp_path, capsys, gone, line):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / gone).unlink()
    assert main(["export", str(copy), "--to", str(tmp_path / "new")]) == 2
    assert line in (said := capsys.readouterr().err) and "written" not in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "damaged", ["config.yaml", "metrics.jsonl", "model/observe_r1.json", "model/model.safetensors"]
)
def test_what_is_damaged_is_named(run, tmp_path, capsys, damaged):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / damaged).write_text('"{\n')
    assert main(["export", str(copy), "--to", str(tmp_path / "new")]) == 2
    said = capsys.readouterr().err
    assert Path(damaged).name in said and " back" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--best"], "it has no best model"),
        (["--to", "{here}"], "something is there already: give a new folder"),
        (["--push", "not a name"], "export.push = 'not a name'"),
    ],
)
def test_what_cannot_be_handed_over_is_one_line(run, tmp_path, capsys, options, line):
    (tmp_path / "mine").write_text("mine")
    words = ["export", str(run), "--to", str(tmp_path / "new"), *(each.format(here=tmp_path) for each in options)]
    if "--to" in options:
        words = words[:2] + words[4:]
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert line in printed and "Traceback" not in printed
    assert (tmp_path / "mine").read_text() == "mine"
