"""The tables of the guides: other trainers' names, our settings beside them, the errors of the troubleshooting page."""

import ast
import dataclasses
import re

import pytest
from doc_pages import ROOT
from trl import GRPOConfig, ModelConfig, ScriptArguments
from trl.scripts.grpo import GRPOScriptArguments

from observe_r1.config import TrainSettings, setting_names, validate

GUIDES = ["coming-from-trl", "coming-from-easyr1", "coming-from-ms-swift"]
NAMES = setting_names(TrainSettings)


def rows(name):
    """The cells of every table row of a page, heads left out."""
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()[2:]]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines]


@pytest.mark.parametrize("guide", GUIDES)
def test_the_settings_of_a_guide_exist_and_take_the_values_shown(guide):
    found = [span for row in rows(guide) for span in re.findall(r"`([^`]+)`", row[1])]
    assert len(found) > 40
    for span in found:
        setting, _, value = span.partition(": ")
        assert setting in NAMES, span
        if value:
            section, leaf = setting.split(".")
            base = {"model": {"path": "m"}, "data": {"path": "d"}}
            base |= {"objective": {"importance_cap": 2, "old_logprobs": "policy"}} if setting == "rollout.ahead" else {}
            base |= {"cluster": {"gpus": 2, "layout": "apart"}} if section in ("cluster", "rollout") else {}
            base[section] = base.get(section, {}) | {leaf: value}
            validate(TrainSettings, base, guide)


@pytest.mark.parametrize("guide", GUIDES)
def test_the_other_tables_name_our_settings_too(guide):
    for row in rows(guide):
        for span in re.findall(r"`((?:model|data|rollout|objective|optimizer|run|cluster)\.\w+)`", row[1] + row[-1]):
            assert span in NAMES or span == "model.visual", span


def test_trl_has_the_names_of_its_guide():
    kinds = (GRPOConfig, ModelConfig, ScriptArguments, GRPOScriptArguments)
    fields = {field.name: field.default for kind in kinds for field in dataclasses.fields(kind)}
    named = [span for row in rows("coming-from-trl") for span in re.findall(r"`([^`]+)`", row[0])]
    named.remove("optimizer.minibatch")
    assert len(named) > 50
    assert {name.partition("=")[0] for name in named} <= fields.keys()
    said = {
        "num_generations": 8,
        "max_completion_length": 512,
        "beta": 0.0,
        "num_train_epochs": 3.0,
        "loss_type": "dapo",
    }
    said |= {"adam_beta1": 0.9, "adam_beta2": 0.999, "vllm_importance_sampling_mode": "sequence_mask"}
    said |= {"scale_rewards": "group", "gradient_checkpointing": True, "shuffle_dataset": True, "warmup_steps": 0}
    assert {name: fields[name] for name in said} == said and fields["lr_scheduler_type"] == "linear"


def test_the_errors_of_the_troubleshooting_page_are_ours():
    """Every message quoted in the first column is part of a text in our code."""
    texts = []
    for path in (ROOT / "observe_r1").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    said = [span for row in rows("troubleshooting") for span in re.findall(r"`([^`]+)`", row[0])]
    quoted = [span for span in said if " " in span and not span.startswith("observe-r1 ")]
    assert len(quoted) > 15
    for span in quoted:
        assert any(span in text for text in texts), span
