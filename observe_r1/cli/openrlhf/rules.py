"""Flags of OpenRLHF that become settings in a way of their own: the rules that `flags` names."""

import json
from typing import Any

from observe_r1.cli.openrlhf.kinds import Translation, integer
from observe_r1.errors import UserError


def save_path(translation: Translation, words: list[str]) -> None:
    """Name the run folder."""
    translation.take("run.output", words[0])
    translation.say(f"this is the run folder; the final model will be in {words[0]}/model")


def save_steps(translation: Translation, words: list[str]) -> None:
    """Set the steps between checkpoints; -1 meant none in the original, but here some are always written."""
    if words[0] == "-1":
        translation.say(f"no effect: checkpoints are always written, run.save_every = {translation['run.save_every']}")
    else:
        translation["run.save_every"] = words[0]


def shuffle(translation: Translation, words: list[str]) -> None:
    """Keep the file's order: in the original the flag switches shuffling off."""
    translation["data.order"] = "ladder"
    translation.say("keeps the file's order, as it did in the original (data.order: ladder)")


def tensorboard(translation: Translation, words: list[str]) -> None:
    """Switch TensorBoard on; events go into the run folder."""
    translation["run.tensorboard"] = True
    translation.say(f"events go to the run folder's tensorboard/, not to {words[0]}")


def wandb(translation: Translation, words: list[str]) -> None:
    """Switch Weights & Biases on; the word is a secret key, so it is not used and never printed."""
    translation["run.wandb"] = "observe-r1"
    translation.say("the key is not used: `wandb login` or WANDB_API_KEY signs in")


def wandb_project(translation: Translation, words: list[str]) -> None:
    """Name the project, if Weights & Biases is on."""
    if translation["run.wandb"] is None:
        translation.say("no effect without --use_wandb")
    else:
        translation["run.wandb"] = words[0]


def remote_rm_url(translation: Translation, words: list[str]) -> None:
    """Reward with the given files and servers only."""
    names = words[0].split(",")
    for name in names:
        if not name.endswith(".py") and not name.startswith(("http://", "https://")):
            raise UserError(f"--{translation.flag}: {name!r} is neither a Python file (.py) nor an http(s) address")
    translation["rewards.functions"] = dict.fromkeys(names, 1.0)
    translation.say(
        "these are the whole reward, as in the original; accuracy is still computed for the bonus and the weight"
        " (leave the flag out to reward accuracy and format, as the release's own reward file does)"
    )


def estimator(translation: Translation, words: list[str]) -> None:
    """Choose the estimator, and whiten over the rollout if the original does."""
    translation["objective.estimator"] = words[0]
    translation["objective.whiten"] = words[0] in ("rloo", "reinforce_baseline")


def use_bonus(translation: Translation, words: list[str]) -> None:
    """Switch the bonus on at the original's default, unless a recipe already has one."""
    translation["objective.bonus"] = translation["objective.bonus"] or 0.2


def bonus_size(translation: Translation, words: list[str]) -> None:
    """Set the size of the bonus if it is on: without `--use_bonus` it means nothing in the original."""
    if translation["objective.bonus"]:
        translation["objective.bonus"] = words[0]
    else:
        translation.say("no effect without --use_bonus")


def standard_deviation(translation: Translation, words: list[str]) -> None:
    """Refuse to drop the standard deviation for the estimators that are whitened over the batch."""
    if translation["objective.whiten"]:
        raise UserError(
            f"--{translation.flag}: not available for rloo and reinforce_baseline; dr_grpo only subtracts the mean"
        )
    translation.say("no effect: only used with rloo and reinforce_baseline")


def clip(translation: Translation, words: list[str]) -> None:
    """Clip the ratio as far below as above."""
    translation["objective.clip_low"] = translation["objective.clip_high"] = words[0]


def top_p(translation: Translation, words: list[str]) -> None:
    """Truncate the distribution; the ratio then uses the policy's own old log-probabilities, as in OpenRLHF."""
    translation["rollout.top_p"] = words[0]
    if words[0] not in ("1", "1.0"):
        translation["objective.old_logprobs"] = "policy"
        translation.say("sets objective.old_logprobs: policy, as OpenRLHF does; the sampler's are truncated")


def is_correction(translation: Translation, words: list[str]) -> None:
    """Weight each token by its probability under the policy over that under the sampler."""
    translation["objective.old_logprobs"] = "policy"
    translation["objective.importance_cap"] = 5.0


def is_threshold(translation: Translation, words: list[str]) -> None:
    """Cap these weights from above; here they have no lower bound."""
    if translation["objective.importance_cap"] is None:
        translation.say("no effect without --enable_vllm_is_correction")
    else:
        translation["objective.importance_cap"] = words[1]
        translation.say(f"token weights are truncated at {words[1]}; there is no lower bound here")


def param_dtype(translation: Translation, words: list[str]) -> None:
    """Choose the compute type by its short name."""
    names = {"bf16": "bfloat16", "fp32": "float32"}
    if words[0] not in names:
        raise UserError(f"--{translation.flag} {words[0]!r}: only {' and '.join(names)} are available")
    translation["model.dtype"] = names[words[0]]


_SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine_with_min_lr": {"optimizer.schedule": "cosine"},
    "cosine": {"optimizer.schedule": "cosine", "optimizer.min_lr_ratio": 0.0},
    "linear": {"optimizer.schedule": "linear", "optimizer.min_lr_ratio": 0.0},
    "constant_with_warmup": {"optimizer.schedule": "constant"},
    "constant": {"optimizer.schedule": "constant", "optimizer.warmup": 0.0},
}


def schedule(translation: Translation, words: list[str]) -> None:
    """Choose the schedule by its name in transformers."""
    if words[0] not in _SCHEDULES:
        raise UserError(f"--{translation.flag} {words[0]!r}: only {', '.join(_SCHEDULES)} are available")
    for setting, value in _SCHEDULES[words[0]].items():
        translation[setting] = value


def max_len(translation: Translation, words: list[str]) -> None:
    """Limit prompt and response together: the prompt gets what the response leaves."""
    total = integer(translation, words[0])
    response = 0
    if "rollout.max_new_tokens" in translation.known:
        response = integer(translation, translation["rollout.max_new_tokens"])
    if total <= response:
        raise UserError(
            f"--{translation.flag} {total} limits prompt and response together, and rollout.max_new_tokens = {response}"
            " leaves nothing for the prompt: also give --max_new_tokens"
        )
    translation.take("data.max_prompt_tokens", total - response)


def train_batch_size(translation: Translation, words: list[str]) -> None:
    """Turn a number of responses into a number of groups."""
    responses = integer(translation, words[0])
    group_size = 1
    if "rollout.group_size" in translation.known:
        group_size = integer(translation, translation["rollout.group_size"])
    if responses < 1 or responses % max(group_size, 1):
        raise UserError(
            f"--train_batch_size {responses} counts responses and must hold whole groups: use a multiple of"
            f" {group_size} (rollout.group_size)"
        )
    translation["optimizer.minibatch"] = responses // max(group_size, 1)


def max_epochs(translation: Translation, words: list[str]) -> None:
    """Passes over the data in supervised fine-tuning, over each rollout in reinforcement learning."""
    if "rollout.prompts" not in translation.known:
        translation["run.epochs"] = words[0]
    elif integer(translation, words[0]) == 1:
        translation.say("each rollout is used once, as always here")
    else:
        raise UserError(
            f"--max_epochs {words[0]} would use each rollout several times, which is not supported;"
            " use 1 (passes over the data are run.epochs)"
        )


def gamma(translation: Translation, words: list[str]) -> None:
    """Take no discount."""
    if words[0] not in ("1", "1.0"):
        raise UserError(f"--gamma {words[0]}: rewards are not discounted here; use 1")
    translation.say("rewards are never discounted")


def freeze_prefix(translation: Translation, words: list[str]) -> None:
    """Freeze parameters by their names in transformers 5."""
    translation["model.freeze"] = [_present_name(prefix) for prefix in words]


def freeze_visual(translation: Translation, words: list[str]) -> None:
    """Also freeze the image tower."""
    translation["model.freeze"] = [*dict.fromkeys([*translation["model.freeze"], "model.visual"])]


def target_modules(translation: Translation, words: list[str]) -> None:
    """Name the layers that get adapters."""
    translation["model.lora_targets"] = [] if words == ["all-linear"] else words


def processor_kwargs(translation: Translation, words: list[str]) -> None:
    """Read the pixel bounds from JSON."""
    try:
        values = json.loads(words[0])
    except json.JSONDecodeError as error:
        raise UserError(
            f"--processor_kwargs {words[0]!r}: broken JSON: {error.msg} (character {error.pos + 1})"
        ) from error
    known = ("min_pixels", "max_pixels")
    if not isinstance(values, dict) or not values.keys() <= set(known):
        raise UserError(f"--processor_kwargs {words[0]!r}: only {' and '.join(known)} are accepted")
    for name, value in values.items():
        translation[f"model.{name}"] = value


def _present_name(prefix: str) -> str:
    """Return a prefix of Qwen-VL's parameter names, as the original knew them, by its name in transformers 5."""
    if prefix.startswith("visual"):
        return f"model.{prefix}"
    inside = prefix.removeprefix("model")
    if prefix == "model" or (inside.startswith(".") and not inside.startswith((".visual", ".language_model"))):
        return f"model.language_model{inside}"
    return prefix
