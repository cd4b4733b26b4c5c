"""`benchmarks/gpu.py` without a GPU: every stage runs on a tiny model, and nothing that was measured is lost."""

import json
import os
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import gpu
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from racing import gpu_kernels
from racing.counting import Work, costs
from racing.gpu_training import given_script
from racing.models import QWEN2_5_VL_3B, VOCABULARY
from torch.nn import functional as F
from torch.nn.attention import flex_attention
from transformers import Qwen2_5_VLForConditionalGeneration

from observe_r1.demo.tiny_model import build_config

ROOT = Path(__file__).parents[1]
FULL = gpu.Case("update", Path(), Path(), "cpu", tiny=False)


def run(*command, **environment):
    """Run Python with one thread and the benchmarks on its path; return exit code and output."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'benchmarks'}:{ROOT}"} | environment
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    output = tmp_path_factory.mktemp("gpu") / "gpu.json"
    code, said = run(ROOT / "benchmarks" / "gpu.py", "--tiny", "--device", "cpu", "--output", output)
    assert code == 0, said
    return json.loads(output.read_text())["stages"], said


def test_every_stage_runs(tiny_run):
    stages, said = tiny_run
    assert {name: stage["status"] for name, stage in stages.items()} == dict.fromkeys(gpu.STAGES, "done")
    assert len(stages["update"]["seconds"]) == 3 and len(stages["update"]["profile"]["longest"]) == 30
    assert said.count("| TRL, ") == 2 and said.count("times as long as ours") == 2


def test_both_sides_take_the_same_update(tiny_run):
    stages, _ = tiny_run
    ours = stages["update"]
    for theirs in (stages["offloaded"], *(stages["trl"][way] for way in ("as shipped", "fused windows"))):
        for name in ("loss", "grad_norm"):
            assert theirs[name] == pytest.approx(ours[name], rel=0.01)  # bfloat16, and TRL's is its second update
        for name in ("response_tokens", "prompt_tokens"):
            assert theirs[name] == ours[name]
    assert stages["frozen"]["grad_norm"] < ours["grad_norm"]
    assert stages["trl"]["as shipped"]["tflop"] > 2 * ours["tflop"] > 2 * stages["frozen"]["tflop"]


def test_kernels_and_sampler_agree_with_their_references(tiny_run):
    stages, _ = tiny_run
    ours = [stages["attention"][name]["ours"] for name in ("4/2 heads of 16", "2/2 heads of 20")]
    for figures in (*ours, stages["tower"]["attention"]["ours"], stages["tower"]["patch_embedding"]["product"]):
        assert 0 < figures["error"] < gpu_kernels.AGREES
    for name in ("8 × 8", "16 × 8"):
        assert 0 < stages["decoding"][name]["mean_difference"] < 0.01


STAGES = """
import os, time
def good(case): case.note(before=1)
def wrong(case): case.note(before=2); raise ValueError("no such kernel")
def hangs(case):
    case.note(before=3)
    if os.fork() == 0: os.execvp("sleep", ["sleep", "600.5"])
    time.sleep(600)
def killed(case): case.note(before=4); os.kill(os.getpid(), 9)
def model(case): pass
"""
RUN = """
import multiprocessing, sys, gpu
gpu.STAGES = {name: (f"stages_of_test:{name}", 3) for name in ("wrong", "hangs", "killed", "good", "model")}
gpu.CPU_PATIENCE, gpu.LEAST = 1, 2
gpu.start_context = lambda: multiprocessing.get_context("forkserver")
if __name__ == "__main__": sys.exit(gpu.main())
"""


def test_a_stage_that_fails_or_hangs_is_recorded_and_the_next_one_runs(tmp_path):
    (tmp_path / "stages_of_test.py").write_text(STAGES)
    (tmp_path / "main.py").write_text(RUN)
    output = tmp_path / "gpu.json"
    path = f"{tmp_path}:{ROOT / 'benchmarks'}:{ROOT}"
    command = (tmp_path / "main.py", "--device", "cpu", "--output", output)
    code, said = run(*command, PYTHONPATH=path)
    stages = json.loads(output.read_text())["stages"]
    assert code == 1
    assert {name: stage["status"] for name, stage in stages.items()} == {
        "wrong": "failed with exit code 1",
        "hangs": "stopped after 3 s",
        "killed": "failed with exit code -9",
        "good": "done",
        "model": "done",
    }
    assert [stages[name]["before"] for name in ("wrong", "hangs", "killed", "good")] == [2, 3, 4, 1]
    assert "ValueError: no such kernel" in stages["wrong"]["last_output"] and "no such kernel" in said
    assert "in hangs" in stages["hangs"]["last_output"]  # where it hung
    assert "600.5" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout

    code, said = run(*command, "--only", "good", "--seconds", "1", PYTHONPATH=path)
    stages = json.loads(output.read_text())["stages"]
    assert (code, "good: left out" in said) == (1, True)
    assert stages["good"] == {"status": "left out: no time left"}
    assert stages["killed"]["before"] == 4  # the others' results stay


def test_a_stage_alone_runs_with_the_model_that_it_needs():
    assert gpu.chosen(None) == list(gpu.STAGES)
    assert gpu.chosen(["tower"]) == ["tower"]
    assert gpu.chosen(["decoding", "device"]) == ["device", "model", "decoding"]


def test_the_summary_tells_what_there_is():
    update = {"status": "done", "seconds": [4.0, 2.0, 3.0], "response_tokens": 600, "gib": 5.0, "tflop": 300.0}
    slower = update | {"seconds": [9.0, 9.0]}
    stages = {
        "device": {"status": "done", "name": "X", "peak_tflops": 200.0},
        "tower": {"status": "running", "attention": {"ours": {"forward_ms": 1, "both_ms": 2, "error": 3}}},
        "update": update,
        "trl": {"status": "stopped after 150 s", "as shipped": slower},
    }
    lines = gpu.summary({"stages": stages}).splitlines()
    assert "| tower, attention, ours | 1 | 2 | 3 |" in lines
    assert "| update | 3 | 200 | 5.0 | 300 | 50% | 10% |" in lines
    assert "TRL, as shipped: an update takes 3.00 times as long as ours" in lines
    assert lines[-2:] == ["tower: running", "trl: stopped after 150 s"]
    assert gpu.summary({"stages": {}}).startswith("None")


def test_operations_of_the_3b_model_by_hand():
    config = build_config(QWEN2_5_VL_3B)
    config.text_config.vocab_size = VOCABULARY
    config.vision_config.fullatt_block_indexes = [7, 15, 23, 31]
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    given = given_script(FULL)
    assert int(given.lengths.sum()) == 7270
    prompt, patches = 1300, 60 * 84
    layer = 2048 * (2048 + 2 * 256 + 2048) + 3 * 2048 * 11008
    text = 2 * 36 * layer * (4 * prompt + 7270)
    pairs = sum(prompt**2 / 2 + sum(n * prompt + n * n / 2 for n in group) for group in given.lengths.tolist())
    attention = 4 * 36 * 16 * 128 * pairs
    head = 2 * 2048 * VOCABULARY * 7270
    block = 4 * 1280**2 + 3 * 1280 * 3420
    tower = 2 * patches * (32 * block + 1280 * 3 * 2 * 14 * 14) + 2 * patches // 4 * (5120 * 5120 + 5120 * 2048)
    tower += 4 * 1280 * patches * (4 * patches + 28 * 64)
    assert [round(part / 1e12, 1) for part in (text, attention, head, 4 * tower)] == [69.2, 4.1, 4.5, 28.1]
    counted = Work(costs(model, patches), prompt, given).update()[1]
    assert counted == pytest.approx(3 * (text + attention + head + 4 * tower), rel=1e-3)


def segments(attend):
    """Take the place of `varlen_attn`: `attend(q, k, v, mask)` segment by segment, causal from the end if it is so."""

    def varlen(query, key, value, q_ends, k_ends, q_longest, k_longest, window_size=(-1, -1), scale=None, **_):
        outputs = []
        spans = [list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)) for ends in (q_ends, k_ends)]
        for (q_start, q_end), (k_start, k_end) in zip(*spans, strict=True):
            assert q_end - q_start <= q_longest and k_end - k_start <= k_longest
            parts = (query[q_start:q_end], key[k_start:k_end], value[k_start:k_end])
            q, k, v = (states.transpose(0, 1)[None] for states in parts)
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
            if window_size == (-1, 0):
                mask = mask.tril(k.shape[2] - q.shape[2])
            outputs.append(attend(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)[0].transpose(0, 1))
        return torch.cat(outputs)

    return varlen


def test_gathered_keys_and_values_are_the_same_attention(monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", segments(F.scaled_dot_product_attention))
    case = gpu.Case("attention", Path(), Path(), "cpu", tiny=True)
    figures = gpu_kernels._gathered_attention(case, gpu_kernels.Heads(4, 2, 16))
    assert figures["agrees"] and figures["error"] < 0.01


@pytest.mark.parametrize("name", ["flex", "varlen"])
def test_each_attention_of_the_tower_stays_within_its_segments(name, monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", segments(F.scaled_dot_product_attention))
    attend = gpu_kernels._varlen_segments
    if name == "flex":
        attend = gpu_kernels._FlexSegments()
        attend.compiled = flex_attention.flex_attention
    query, key, value = torch.randn(3, 1, 2, 300, 16)
    ends = torch.tensor([0, 100, 130, 300], dtype=torch.int32)
    output, _ = attend(None, query, key, value, None, cu_seq_lens_q=ends, scaling=0.25, dropout=0.0)
    which = torch.arange(3).repeat_interleave(ends.diff())
    expected = F.scaled_dot_product_attention(query, key, value, which[:, None] == which, scale=0.25)
    torch.testing.assert_close(output, expected.transpose(1, 2))


def test_the_wheels_are_pinned_as_everywhere_and_need_nothing_else():
    lines = (ROOT / "benchmarks" / "gpu_wheels.txt").read_text().splitlines()
    (there,) = (line.partition(": ")[2].split() for line in lines if "have these" in line)
    wheels = [Requirement(line) for line in lines if not line.startswith("#")]
    pins = {pin.name: pin for pin in map(Requirement, (ROOT / "constraints.txt").read_text().splitlines()[1:])}
    assert [str(wheel) for wheel in wheels] == [str(pins[wheel.name]) for wheel in wheels]
    known = {wheel.name for wheel in wheels} | {Requirement(each).name for each in there}
    machine = {"python_version": "3.12", "python_full_version": "3.12.3", "extra": ""}
    for wheel in wheels:
        needs = map(Requirement, requires(wheel.name) or ())
        missing = {
            canonicalize_name(need.name) for need in needs if need.marker is None or need.marker.evaluate(machine)
        }
        assert missing <= known, wheel
