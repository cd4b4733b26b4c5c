"""Names that a user may write in a recipe, each resolved to `module:attribute` only when it is used.

A new estimator, reward, order or engine is one new file and one line here.
"""

from difflib import get_close_matches
from importlib import import_module
from typing import Any

from observe_r1.errors import UserError

REGISTRY: dict[str, dict[str, str]] = {
    "estimator": {
        "group_norm": "observe_r1.objective.advantages:group_norm",
        "dr_grpo": "observe_r1.objective.advantages:dr_grpo",
        "rloo": "observe_r1.objective.advantages:rloo",
        "reinforce_baseline": "observe_r1.objective.advantages:dr_grpo",
    },
    "kl estimator": {
        "k1": "observe_r1.objective.kl:k1",
        "k2": "observe_r1.objective.kl:k2",
        "k3": "observe_r1.objective.kl:k3",
    },
    "aggregation": {
        "token": "observe_r1.objective.aggregation:token_mean",
        "sequence": "observe_r1.objective.aggregation:sequence_mean",
        "constant": "observe_r1.objective.aggregation:constant_length",
    },
    "reward": {
        "accuracy": "observe_r1.rewards.accuracy:accuracy",
        "format": "observe_r1.rewards.format:format",
    },
    "order": {
        "ladder": "observe_r1.data.order:ladder",
        "random": "observe_r1.data.order:random",
        "adaptive": "observe_r1.data.adaptive_order:adaptive",
    },
    "optimizer": {
        "adamw": "observe_r1.policy.optimizers:adamw",
        "adamw_8bit": "observe_r1.policy.optimizers:adamw_8bit",
    },
    "engine": {
        "embedded": "observe_r1.rollout.embedded:EmbeddedEngine",
        "vllm": "observe_r1.rollout.vllm:VLLMEngine",
    },
    "source": {
        "chartqa": "observe_r1.ladder.sources.chartqa:SOURCE",
        "clevr_math": "observe_r1.ladder.sources.clevr_math:SOURCE",
        "geometry3k": "observe_r1.ladder.sources.geometry3k:SOURCE",
        "geoqa": "observe_r1.ladder.sources.geoqa:SOURCE",
        "logicvista": "observe_r1.ladder.sources.logicvista:SOURCE",
        "m3cot": "observe_r1.ladder.sources.m3cot:SOURCE",
        "mathv360k": "observe_r1.ladder.sources.mathv360k:SOURCE",
        "mathverse": "observe_r1.ladder.sources.mathverse:SOURCE",
        "mathvision": "observe_r1.ladder.sources.mathvision:SOURCE",
        "mathvista": "observe_r1.ladder.sources.mathvista:SOURCE",
        "mmk12": "observe_r1.ladder.sources.mmk12:SOURCE",
        "mmmu": "observe_r1.ladder.sources.mmmu:SOURCE",
        "multimodal_open_r1": "observe_r1.ladder.sources.multimodal_open_r1:SOURCE",
        "olympiadbench": "observe_r1.ladder.sources.olympiadbench:SOURCE",
        "polymath": "observe_r1.ladder.sources.polymath:SOURCE",
        "scemqa": "observe_r1.ladder.sources.scemqa:SOURCE",
        "scienceqa": "observe_r1.ladder.sources.scienceqa:SOURCE",
        "virl39k": "observe_r1.ladder.sources.virl39k:SOURCE",
        "we_math": "observe_r1.ladder.sources.we_math:SOURCE",
    },
}

_HINTS = {
    ("estimator", "gae"): "gae needs a critic, and critics are not supported; use group_norm",
    ("estimator", "grpo"): "GRPO's estimator is group_norm",
}


def nearest(name: str, known: list[str]) -> str:
    """Return ` (did you mean 'x'?)` for the known name closest to `name`, or an empty string."""
    close = get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check(kind: str, name: str) -> str:
    """Return `name` if it is registered under `kind`; raise `UserError` naming what is allowed otherwise."""
    known = sorted(REGISTRY[kind])
    if name not in known:
        hint = _HINTS.get((kind, name)) or f"known: {', '.join(known)}{nearest(name, known)}"
        raise UserError(f"unknown {kind} {name!r}: {hint}")
    return name


def load(kind: str, name: str) -> Any:
    """Import and return what `name` stands for under `kind`. Errors: `UserError` for an unknown name."""
    module, attribute = REGISTRY[kind][check(kind, name)].split(":")
    return getattr(import_module(module), attribute)
