"""Settings that have no effect beside the others: whoever asks for one of these on the command line is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_TRACKERS = ("run.tensorboard", "run.wandb", "run.trackio", "run.mlflow")

Values = Mapping[str, Any]
"""Settings by dotted name; a command need not have all of them."""


@dataclass(frozen=True, slots=True)
class _Need:
    settings: tuple[str, ...]
    """Without effect unless the need is met."""
    met: Callable[[Values], bool]
    words: str
    """What they need."""


def _is(name: str, value: Any) -> Callable[[Values], bool]:
    return lambda values: values.get(name) == value


def _given(name: str) -> Callable[[Values], bool]:
    return lambda values: bool(values.get(name))


def _scored_by(*marks: str) -> Callable[[Values], bool]:
    return lambda values: any(mark in name for name in values.get("rewards.functions", ()) for mark in marks)


_NEEDS = (
    _Need(("rollout.vllm",), _is("rollout.engine", "vllm"), "rollout.engine vllm"),
    _Need(("rollout.max_rows", "rollout.cuda_graphs"), _is("rollout.engine", "embedded"), "rollout.engine embedded"),
    _Need(
        (
            *("rollout.engine", "rollout.vllm", "rollout.max_rows", "rollout.cuda_graphs", "model.dtype"),
            *("model.device", "model.trust_remote_code", "cluster.gpus", "cluster.address", "data.max_prompt_tokens"),
        ),
        lambda values: values.get("server.url") is None or bool(values.get("model.against")),
        "a model that does not answer at server.url (model.against)",
    ),
    _Need(("rollout.max_rounds", "rollout.max_age"), _given("rollout.dynamic_sampling"), "rollout.dynamic_sampling"),
    _Need(("model.lora_alpha", "model.lora_targets"), _given("model.lora_rank"), "model.lora_rank above 0"),
    _Need(("data.adaptive_floor",), _is("data.order", "adaptive"), "data.order adaptive"),
    _Need(("objective.sigma",), _given("objective.dynamic_weight"), "objective.dynamic_weight"),
    _Need(("objective.bonus_min_length",), _given("objective.bonus"), "objective.bonus above 0"),
    _Need(("objective.kl_in", "objective.kl_estimator"), _given("objective.kl_coef"), "objective.kl_coef above 0"),
    _Need(
        ("run.track_groups", "run.track_every", "run.track_bytes"),
        lambda values: any(values.get(name) for name in _TRACKERS),
        f"a tracker ({', '.join(_TRACKERS)})",
    ),
    _Need(("rewards.call_timeout",), _scored_by(".py", "://"), "a file or a server of rewards in rewards.functions"),
    _Need(
        ("data.columns",),
        lambda values: "rewards.functions" not in values or _scored_by(".py")(values),
        "a file of rewards in rewards.functions",
    ),
    _Need(("rewards.workers",), _scored_by(".py"), "a file of rewards in rewards.functions"),
    _Need(("rewards.retries",), _scored_by("://"), "a server of rewards in rewards.functions"),
)


def unmet_need(name: str, values: Values) -> str | None:
    """Return what the setting `name` needs to have an effect, in words; None if it has one.

    Args:
        name: Dotted.
        values: All settings of the command.
    """
    return next((need.words for need in _NEEDS if name in need.settings and not need.met(values)), None)
