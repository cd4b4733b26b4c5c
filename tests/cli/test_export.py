"""`observe-r1 export`: what others load asks and answers as the run's own model does."""

import json
import os
import socket
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
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


def test_vllm_serves_it(whole, picture, tmp_path):
    """With the template and the generation settings in the folder: the request has neither."""
    (tmp_path / "sitecustomize.py").write_text(
        "from observe_r1.torch_compat import ensure_importable\nensure_importable()\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    paths = [str(tmp_path), str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    own |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(whole),
        "--host",
        "127.0.0.1",
    ]
    command += [
        "--port",
        str(port),
        "--max-model-len",
        "512",
        "--dtype",
        "float32",
        "--enforce-eager",
        "--served-model-name",
        "ours",
    ]
    image = f"data:image/png;base64,{b64encode(picture.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": QUESTION}]
    question = {"model": "ours", "messages": [{"role": "user", "content": content}], "logprobs": True}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log, start_new_session=True)
        try:
            served = _asked(f"http://127.0.0.1:{port}/v1/chat/completions", question, server)
        finally:
            os.killpg(server.pid, 9)
            server.wait()
    assert served["usage"]["completion_tokens"] <= 8
    example = Example(
        id="", messages=({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]},),
        images=(str(picture),), answer="",
    )  # fmt: skip
    prompt = encode_prompt(example, load_processor(ModelSettings(path=str(whole))), QuestionSettings())
    assert served["usage"]["prompt_tokens"] == len(prompt.ids), "the template did not ask for the format"
    assert served["choices"][0]["message"]["content"] == answered(whole, picture)


def _asked(address, question, server):
    request = Request(address, json.dumps(question).encode(), {"Content-Type": "application/json"})
    until = time.monotonic() + 240
    while True:
        assert server.poll() is None, "the server has ended"
        try:
            with urlopen(request, timeout=120) as response:
                return json.load(response)
        except ConnectionError:
            raise
        except OSError as error:
            assert getattr(error, "code", None) is None and time.monotonic() < until, error
            time.sleep(0.5)


def test_the_card_tells_of_the_run(run, world, tmp_path, capsys):
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
    assert f"| accuracy | {100 * figures['mean']:.1f} % [" in card
    assert "4 questions, 95 % intervals" in card
    assert "1 step on `train.jsonl`" in card
    assert str(tmp_path.parent) not in card and str(Path.home()) not in card, "a path of this machine"
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert main(["export", str(world / "warm"), "--to", str(tmp_path / "other"), "--evaluation", str(evaluation)]) == 2
    assert "has the figures of" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


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
    capsys.readouterr()
    assert main(["export", str(world / "warm"), "--to", str(tmp_path / "other"), "--weights", "adapter"]) == 2
    assert "trained without LoRA" in capsys.readouterr().err


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
