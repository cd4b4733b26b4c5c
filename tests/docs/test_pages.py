"""Every block of the README and the docs: commands and Python run as they are written, page by page.

Each page has a folder of its own with what a user brings along, under the names that the pages use: questions, an
image, a tiny model in place of each real one. Our commands run there by copy and paste, with small sizes. Those that
need GPUs, the Hub or a second machine are parsed by the command's own parser, recipes and checks of the settings
included. Commands of other programs are checked against those programs' own options (`doc_pages`).
"""

import io
import json
import re
import shutil
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

import pytest
import yaml
from doc_pages import PAGES, ROOT, Block, blocks, check_other, commands, spans

from observe_r1.cli import options
from observe_r1.cli.commands import COMMANDS
from observe_r1.cli.main import main
from observe_r1.cli.options import parse_settings
from observe_r1.config import TrainSettings, flat, nest, setting_names, validate, validate_each
from observe_r1.demo.dataset import make_item, write_questions
from observe_r1.demo.scene import render
from observe_r1.registry import REGISTRY, resolve

KINDS = {"bash", "slurm", "python", "yaml", "json", "jsonl", "csv", "text", "dockerfile"}
SMALL = {
    "data.max_samples": 6,
    "evaluation.max_samples": 4,
    "evaluation.samples": 1,
    "rollout.prompts": 2,
    "rollout.group_size": 8,
    "rollout.samples": 2,
    "rollout.max_rounds": 1,
    "optimizer.minibatch": 2,
    "run.steps": 1,
    "rollout.max_new_tokens": 32,
    "chat.max_new_tokens": 32,
    "arrange.min_complexity": 0,
    "arrange.size": 8,
}
"""No command that runs here is larger than this; smaller ones stay as they are."""
HERE = {"model.device": "cpu", "model.dtype": "float32", "run.threads": 1, "rollout.dynamic_sampling": False}
ELSEWHERE = {
    "rollout.engine": lambda engine: engine == "vllm",
    "cluster.gpus": lambda gpus: gpus is not None,
    "cluster.address": lambda address: address is not None,
    "model.quantize": lambda kind: kind != "none",
    "export.push": lambda name: name is not None,
    "push.repo": lambda name: name is not None,
    "server.url": lambda address: address is not None,
    "chat.web": bool,
    "run.trackio": lambda project: project is not None,
    "report.serve": bool,
    "data.sources": lambda names: any(":" in name for name in names),
    "screen.benchmarks": lambda names: any(":" in name for name in names),
}
"""Settings whose values need a GPU, several processes, a server or the Hub, or do not end: these are parsed only."""
MODELS = ("MODEL", "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen2.5-VL-3B-Instruct")
AFTER_RUNS = {
    "evaluation.md": ["observe_r1"],
    "report.md": ["observe_r1", "grpo"],
    "training.md": ["observe_r1", "grpo"],
}
"""Pages that take finished runs for granted, and which in `runs/`."""


def shrunk(kind, values, *rest, **named):
    """`config.validate`, with sizes that a test can bear."""
    names, given = setting_names(kind), flat(values)
    for name, most in SMALL.items():
        if name not in names or (name.startswith("evaluation.") and given.get("evaluation.path") is None):
            continue
        if given.get(name) in (None, "") or float(given[name]) > most:
            given[name] = most
    given |= {name: value for name, value in HERE.items() if name in names}
    return validate(kind, nest(given), *rest, **named)


@pytest.fixture(scope="module")
def brought(world, tmp_path_factory):
    """A folder with what users bring along, and with the demo's folder, small."""
    folder = tmp_path_factory.mktemp("brought")
    demo = folder / "runs" / "demo"
    demo.mkdir(parents=True)
    for name in ("sft", "tiny", "train", "warm"):
        (demo / name).symlink_to(world / name)
    write_questions(demo / "held_out", "held_out", seed=0, count=12)
    shown = make_item("held_out", 0, 576)  # by docs/index.md
    render(shown.scene).save(demo / "held_out" / "images" / f"{shown.id}.png")
    for name in MODELS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(world / "warm" / "model")
    rows = (world / "train" / "train.jsonl").read_text().replace("images/", f"{world}/train/images/")
    rows = "".join(rows.splitlines(keepends=True)[:12])
    for name in ("questions.jsonl", "held_out.jsonl", "a.jsonl", "b.jsonl", "ladder.jsonl", "neuraladder.jsonl"):
        (folder / name).write_text(rows)
    (folder / "demonstrations.jsonl").write_text(
        (world / "sft" / "sft.jsonl").read_text().replace("images/", f"{world}/sft/images/")
    )
    (folder / "figures").mkdir()
    image = next((world / "train" / "images").iterdir())
    for name in ("figures/7.png", "diagram.png"):
        shutil.copy(image, folder / name)
    shutil.copy(ROOT / "examples" / "rewards" / "observation_length.py", folder / "my_reward.py")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(options, "validate", shrunk)
        patched.setitem(SMALL, "data.max_samples", 24)
        assert main(["ladder", "build", "tiny/ladder"]) == 0
        assert main(["train", "tiny/observe_r1", "--run.output", "runs/demo/rl"]) == 0
    (folder / "shared").mkdir()
    (folder / "shared" / "ladder").symlink_to(demo / "ladder")
    return folder


@pytest.fixture
def place(brought, tmp_path, monkeypatch):
    """The folder in which a page's commands run; commands there are small."""
    shutil.copytree(brought, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(REGISTRY, "estimator", dict(REGISTRY["estimator"]))
    monkeypatch.setattr(options, "validate", shrunk)
    monkeypatch.setattr("observe_r1.api.validate", shrunk)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.setattr("observe_r1.rewards.serving.RewardServing.serve_forever", lambda self: None)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_is_true(page, place):
    namespace = {}
    for name in AFTER_RUNS.get(page.name, ()):
        shutil.copytree("runs/demo/rl", f"runs/{name}")
    for block in blocks(page):
        try:
            hold(block, namespace)
        except BaseException as error:
            error.add_note(f"{page.relative_to(ROOT)}, line {block.line}:\n{block.text}")
            raise


def hold(block: Block, namespace: dict) -> None:
    """Run or parse one block."""
    assert block.kind in KINDS, "begin the block with ``` and its kind: bash, text, json, …"
    match block.kind:
        case "bash":
            for command in commands(block.text):
                with ExitStack() as stack:
                    if command.output:
                        stack.enter_context(redirect_stdout(stack.enter_context(Path(command.output).open("w"))))
                    run(command.words)
        case "python":
            if file := re.match(r"# (\w+\.py)\n", block.text):
                Path(file[1]).write_text(block.text)
            with redirect_stdout(io.StringIO()) as said:
                exec(block.text, namespace)
            for shown in re.findall(r"print\(.*\)  # (-?[\d. ]+)$", block.text, re.MULTILINE):
                assert shown in said.getvalue()
        case "yaml":
            hold_yaml(yaml.safe_load(block.text))
        case "json" | "jsonl":
            rest = block.text.strip()
            while rest:
                _, end = json.JSONDecoder().raw_decode(rest)
                rest = rest[end:].strip()
        case "text":
            assert not re.search(r"^\s*(\$ |observe-r1 [a-z]+ )", block.text, re.MULTILINE), "a command is bash"


def run(words: list[str]) -> None:
    """Run one of our commands, or parse it where it needs more than there is here; check any other."""
    if words[0].removeprefix(".venv/bin/") != "observe-r1":
        return check_other(words)
    words = [word.replace("/shared/", "shared/") for word in words[1:]]
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
    assert name, f"observe-r1 has no command {words[0]!r}"
    command, rest = COMMANDS[name], words[len(name.split()) :]
    if command.settings:
        settings = flat(parse_settings(resolve(command.settings), rest, verb=name).model_dump())
        if any(setting in settings and needs(settings[setting]) for setting, needs in ELSEWHERE.items()):
            return None
    elif name == "demo":
        from observe_r1.demo.steps import _parser

        return _parser().parse_args(rest)  # minutes; tests/demo runs it small
    assert main(words) == 0, words
    return None


def hold_yaml(values) -> None:
    """A recipe's settings are ours; a manifest has a kind (tests/cli/test_scaling_page.py checks its fields)."""
    if "apiVersion" not in values and "services" not in values:
        values = {key: value for key, value in values.items() if key != "extends"}
        validate_each(TrainSettings, {"model": {"path": "m"}, "data": {"path": "d"}} | values, "page")


VERBS = {name.split()[0] for name in COMMANDS}
SETTINGS = {
    setting
    for command in COMMANDS.values()
    if command.settings
    for setting in (*setting_names(resolve(command.settings)), *command.short)
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_settings_in_the_running_text_exist(page):
    if page.name == "coming-from-openrlhf.md":  # full of other people's; made from the table that is tested
        return
    for span in spans(page):
        ours = re.match(r"observe-r1 ([a-z][\w-]*)", span)
        assert not ours or ours[1] in VERBS, span
        for option in re.findall(r"(?<![\w-])--([a-z]+\.[a-z]\w*)", span):
            assert option in SETTINGS or not ours, span


def test_nothing_else_takes_its_place(tmp_path):
    """A block of no kind, a pipe, an unknown program, an unknown option: each fails."""
    page = tmp_path / "page.md"
    page.write_text(
        "Text:\n\n    observe-r1 train\n\n```\nls\n```\n\n```bash\nobserve-r1 data judge \\\n  --gold 1 # yes\n```\n"
    )
    assert [block.kind for block in blocks(page)] == ["indented", "", "bash"]
    assert commands(blocks(page)[2].text)[0].words == ["observe-r1", "data", "judge", "--gold", "1"]
    for line in ("observe-r1 data judge | tee log", "cd x && ls", "echo 'unclosed"):
        with pytest.raises(ValueError):
            commands(line)
    for line in (
        "make nonsense",
        "pip install -e '.[nonsense]'",
        "uv pip install --nonsense x",
        "rm -rf /",
        "ray strat",
    ):
        with pytest.raises(AssertionError):
            check_other(commands(line)[0].words)
    for kind in ("indented", ""):
        with pytest.raises(AssertionError, match="begin the block"):
            hold(Block(kind, "x", 1), {})
    with pytest.raises(AssertionError, match="a command is bash"):
        hold(Block("text", "observe-r1 train x\n", 1), {})
