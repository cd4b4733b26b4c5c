"""Every flag of the original command, translated to a setting or answered in one line."""

from collections.abc import Mapping

from observe_r1.cli.original_rules import (
    Flag,
    Translation,
    bonus_size,
    estimator,
    freeze_prefix,
    gamma,
    gone,
    max_epochs,
    processor_kwargs,
    refused,
    remote_rm_url,
    save_path,
    save_steps,
    shuffle,
    switch,
    tensorboard,
    to,
    train_batch_size,
    use_bonus,
)

ORIGINAL_DEFAULTS = {
    "objective.bonus": 0.0,
    "objective.dynamic_weight": False,
    "objective.kl_coef": 0.01,
    "data.order": "random",
}
"""What the original does without `--use_bonus`, `--use_dyna_weight`, `--init_kl_coef` and `--shuffle`."""

WITHOUT_RECIPE = (
    "no bonus, no dynamic weight and a shuffled order unless a flag asks for them; a KL term of 0.01 unless"
    " --init_kl_coef says otherwise"
)


def translate(given: Mapping[str, list[str]], translation: Translation, *, alone: bool) -> None:
    """Add to `translation` the flags `given`, by name, each with the words that followed it.

    `alone` says that no recipe was given: what only a flag switches on in the original is then off without.
    Errors: `UserError` for a flag that is refused, a bad value, a setting that the command does not have.
    """
    if alone and "objective.bonus" in translation.known:
        translation.changes |= ORIGINAL_DEFAULTS
        translation.remarks[WITHOUT_RECIPE] = ["the original's flags without a recipe"]
    for translation.flag, flag in FLAGS.items():
        if translation.flag in given:
            flag.rule(translation, given[translation.flag])


_ONE_PROCESS = "sampling and training run in this one process"
_VLLM = "sampling is in this process; rollout.engine: vllm samples with vLLM, whose arguments rollout.vllm takes"

FLAGS = {
    "prompt_data": to("data.path"),
    "prompt_data_probs": to("data.probs"),
    "dataset": to("data.path"),
    "dataset_probs": to("data.probs"),
    "input_key": to("data.input_key"),
    "label_key": to("data.label_key"),
    "apply_chat_template": refused(
        "message-format data always goes through the model's chat template; leave the flag out", "none"
    ),
    "shuffle": Flag(("data.order",), "ladder: it kept the file's order in the original, too", shuffle, "none"),
    "max_samples": to("data.max_samples"),
    "pretrain": to("model.path"),
    "save_path": Flag(("run.output",), "the final model is in its folder model/", save_path),
    "ckpt_path": gone("checkpoints stand in the run folder"),
    "save_steps": Flag(("run.save_every",), "-1 leaves the default", save_steps),
    "save_hf_ckpt": gone("the final model always is a Hugging Face checkpoint", "none"),
    "load_checkpoint": switch("run.resume", True),
    "use_tensorboard": Flag(("run.tensorboard",), "true; events go into the run folder", tensorboard),
    "remote_rm_url": Flag(("rewards.functions",), "these alone, each with weight 1", remote_rm_url),
    "advantage_estimator": Flag(
        ("objective.estimator", "objective.whiten"),
        "rloo and reinforce_baseline are whitened, as there",
        estimator,
    ),
    "use_bonus": Flag(("objective.bonus",), "0.2, if it is off; without flag and recipe it is off", use_bonus, "none"),
    "bonus_reward_coef": Flag(("objective.bonus",), "if the bonus is on", bonus_size),
    "bonus_constraint": to("objective.bonus_min_length"),
    "use_dyna_weight": switch("objective.dynamic_weight", True),
    "diff_coef": to("objective.sigma"),
    "n_samples_per_prompt": to("rollout.group_size"),
    "rollout_batch_size": to("rollout.prompts"),
    "micro_rollout_batch_size": gone("rollout.max_rows bounds the responses decoded at once"),
    "train_batch_size": Flag(("optimizer.minibatch",), "these responses / rollout.group_size", train_batch_size),
    "micro_train_batch_size": gone("optimizer.tokens_per_pack bounds one forward and backward pass"),
    "max_epochs": Flag((), "train: must be 1, each rollout is learned from once; sft: run.epochs", max_epochs),
    "num_episodes": to("run.epochs"),
    "temperature": to("rollout.temperature"),
    "prompt_max_len": to("data.max_prompt_tokens"),
    "generate_max_len": to("rollout.max_new_tokens"),
    "actor_learning_rate": to("optimizer.lr"),
    "init_kl_coef": to("objective.kl_coef"),
    "kl_estimator": to("objective.kl_estimator"),
    "use_kl_loss": switch("objective.kl_in", "loss"),
    "lambd": gone("it belongs to gae, which needs a critic"),
    "gamma": Flag((), "no effect: rewards are never discounted; refused unless 1", gamma),
    "normalize_reward": gone("it did nothing in the original either, with a reward file or server", "none"),
    "freeze_prefix": Flag(("model.freeze",), "parameters by their present names", freeze_prefix, "several"),
    "processor_kwargs": Flag(("model.min_pixels", "model.max_pixels"), "JSON of these two", processor_kwargs),
    "lora_rank": to("model.lora_rank"),
    "lora_alpha": to("model.lora_alpha"),
    "bf16": switch("model.dtype", "bfloat16"),
    "flash_attn": gone("the attention is chosen for the device", "none"),
    "gradient_checkpointing": switch("model.gradient_checkpointing", True),
    "zero_stage": gone(_ONE_PROCESS),
    "actor_num_nodes": gone(_ONE_PROCESS),
    "actor_num_gpus_per_node": gone(_ONE_PROCESS),
    "ref_num_nodes": gone(_ONE_PROCESS),
    "ref_num_gpus_per_node": gone(_ONE_PROCESS),
    "colocate_all_models": gone(_ONE_PROCESS, "none"),
    "vllm_num_engines": gone(_VLLM),
    "vllm_tensor_parallel_size": gone(_VLLM),
    "vllm_enable_sleep": gone(_VLLM, "none"),
    "vllm_gpu_memory_utilization": gone(_VLLM),
    "vllm_sync_backend": gone(_VLLM),
    "enable_prefix_caching": gone("each prompt is always computed once for all its responses", "none"),
}
"""Every flag of the original's launch scripts and README, in the order in which their rules apply."""
