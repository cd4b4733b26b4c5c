"""Every flag of the original command and of OpenRLHF to 0.11: the setting that it becomes, or the answer it gets."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from observe_r1.cli.openrlhf import rules
from observe_r1.cli.openrlhf.gpus import PLACED, place
from observe_r1.cli.openrlhf.kinds import Flag, Translation, gone, of_evaluation, only, pair, refused, switch, to
from observe_r1.errors import UserError

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

_PLACES = ("model.path", "data.path", "evaluation.path", "run.output")
"""Settings for which two values are an error: nobody means both."""


def translate(
    given: Mapping[str, list[str]],
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    known: Collection[str],
    read: Callable[[str, Any], Any],
    *,
    has_recipe: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Return what flags set, by dotted name, and what the user is told about them.

    Without a recipe, and with the model or the data given by a flag, this is a command of the original's: whatever only
    a flag switches on there is off without that flag. Otherwise settings that no flag names keep their values.

    Args:
        given: The flags by name, each with the words that follow it.
        settings: Defaults and recipe, by dotted name.
        options: Settings given by their own names, which override the flags.
        known: Every setting of the command.
        read: Reads a setting's value from text, as the value of an option is read.
        has_recipe: Whether the command line names a recipe.

    Raises:
        UserError: a flag is refused, has a bad value, or sets something that the command does not have.
    """
    translation = Translation(settings, options, known)
    is_original = not has_recipe and any(FLAGS[name].sets in (("model.path",), ("data.path",)) for name in given)
    if is_original and "objective.bonus" in known:
        translation.changes |= ORIGINAL_DEFAULTS
        translation.remarks[WITHOUT_RECIPE] = ["the original's flags without a recipe"]
    for translation.flag, flag in FLAGS.items():
        if translation.flag in given:
            flag.rule(translation, given[translation.flag])
    place(translation)
    changes = {name: read(name, value) for name, value in translation.changes.items()}
    for name, flag_name in translation.sources.items():
        if name in options and options[name] != changes[name]:
            if name in _PLACES:
                two = f"--{name} {options[name]} and --{flag_name} {translation.changes[name]}"
                raise UserError(f"{two} are two values for {name}: give one")
            translation.remarks.setdefault(f"overridden by --{name} {options[name]}", []).append(f"--{flag_name}")
    return changes, translation.notes


_KERNELS = gone("attention and kernels are chosen for the device", "none")
_CHECKPOINTS = gone("checkpoints are sharded as the weights are, and resume on any number of GPUs", "none")
_FSDP = gone("FSDP2 shards the policy: cluster.shard says over how many GPUs, and gradients are added in float32")
_FSDP_SWITCH = gone("FSDP2 always overlaps communication, and optimizer.offload frees a GPU's memory", "none")
_ONE_REFERENCE = gone("the reference model is on the policy's GPUs")
_NO_REWARD_MODEL = gone("rewards need no GPU here: a model that rewards runs in a server of its own")
_NO_SPLIT = gone("the policy's layers and sequences are not split: GPUs share its weights and batches")
_VLLM = "rollout.vllm takes vLLM's own arguments; its share of the memory is computed from what training needs"
_CRITIC = gone("there is no critic")
_CRITIC_SWITCH = gone("there is no critic", "none")
_MUON = gone("only used with muon")
_PROMPTS_OF_IMAGES = gone("a prompt has as many images as its row; rollout.vllm.limit_mm_per_prompt bounds vLLM's")
_SPLIT = only("train", "name another split in the path: NAME@SPLIT")
_PTX = gone("the original ignored it as well")
_TEMPLATE = refused("questions always go through the model's chat template; write the text into the questions")
_SFT_ROWS = "a demonstration is a chat in data.input_key; only its last turn, the assistant's, is trained on"
_STEPPED_VIEW = gone("every step is logged")

NAMES = {
    # data
    "prompt_data data.prompt_dataset": to("data.path"),
    "prompt_data_probs data.prompt_probs": to("data.probs"),
    "dataset data.dataset": to("data.path"),
    "dataset_probs data.dataset_probs": to("data.probs"),
    "prompt_split data.prompt_split train_split data.dataset_split dataset_split eval_split eval.split": _SPLIT,
    "input_key": to("data.input_key"),
    "label_key": to("data.label_key"),
    "output_key data.output_key": refused(_SFT_ROWS),
    "multiturn data.multiturn": refused(_SFT_ROWS, "none"),
    "pretrain_mode model.pretrain_mode_enable": refused("only the last turn, the assistant's, is trained on", "none"),
    "image_key data.image_key": only("images", "images are read from the column `images` or from the chat"),
    "max_images_per_prompt data.max_images_per_prompt limit_mm_per_prompt": _PROMPTS_OF_IMAGES,
    "apply_chat_template": refused(
        "message-format data always goes through the model's chat template; leave the flag out", "none"
    ),
    "data.apply_chat_template": gone("questions always go through the model's chat template", "none"),
    "input_template data.input_template": _TEMPLATE,
    "tokenizer_chat_template data.tokenizer_chat_template": refused("the chat template is the model's own"),
    "disable_fast_tokenizer data.disable_fast_tokenizer": gone("the tokenizer is the model's own", "none"),
    "dataloader_num_workers data.dataloader_num_workers": gone("images are read ahead in threads"),
    "shuffle": Flag(("data.order",), "ladder: it keeps the file's order, as in the original", rules.shuffle, "none"),
    "max_samples": to("data.max_samples"),
    "pretrain_data": _PTX,
    "pretrain_data_probs": _PTX,
    "pretrain_split": _PTX,
    "ptx_coef": _PTX,
    # run
    "save_path ckpt.output_dir": Flag(("run.output",), "the final model is in its folder model/", rules.save_path),
    "ckpt_path ckpt.path": gone("checkpoints are in the run folder"),
    "save_steps ckpt.save_steps": Flag(("run.save_every",), "-1 leaves the default", rules.save_steps),
    "save_hf_ckpt ckpt.save_hf": gone("the final model is always a Hugging Face checkpoint", "none"),
    "load_checkpoint ckpt.load_enable": switch("run.resume", True),
    "max_ckpt_num ckpt.max_num": to("run.keep"),
    "max_ckpt_mem ckpt.max_mem": gone("run.keep limits the number of checkpoints"),
    "disable_ds_ckpt ckpt.disable_ds": gone("a checkpoint is always written every run.save_every steps", "none"),
    "use_ds_universal_ckpt ds.use_universal_ckpt": _CHECKPOINTS,
    "use_tensorboard logger.tensorboard_dir": Flag(
        ("run.tensorboard",), "true; events go into the run folder", rules.tensorboard
    ),
    "use_wandb logger.wandb.key": Flag(("run.wandb",), "the project observe-r1; the key is not used", rules.wandb),
    "wandb_project logger.wandb.project": Flag(("run.wandb",), "with --use_wandb", rules.wandb_project),
    "wandb_org logger.wandb.org": gone("set WANDB_ENTITY for the command"),
    "wandb_group logger.wandb.group": gone("set WANDB_RUN_GROUP for the command"),
    "wandb_run_name logger.wandb.run_name": gone("the run is named after its folder"),
    "logging_steps logger.logging_steps": _STEPPED_VIEW,
    "perf": gone("speeds are in the metrics", "none"),
    "seed train.seed": to("run.seed"),
    "full_determinism train.full_determinism_enable": gone("run.seed determines order and sampling", "none"),
    "num_episodes train.num_episodes": to("run.epochs"),
    "max_global_steps": to("run.steps"),
    "max_epochs train.max_epochs": Flag(
        (), "train: must be 1, each rollout is used once; sft: run.epochs", rules.max_epochs
    ),
    # rewards and objective
    "remote_rm_url reward.remote_url": Flag(
        ("rewards.functions",), "these alone, each with weight 1", rules.remote_rm_url
    ),
    "reward_pretrain reward.model_name_or_path": refused(
        "reward models are not loaded: serve the model and give its address: --rewards.functions http://HOST:PORT=1"
    ),
    "agent_func_path train.agent_func_path": refused("multi-turn agents are not supported"),
    "normalize_reward reward.normalize_enable": gone(
        "it had no effect in the original either, with a reward file or server", "none"
    ),
    "reward_clip_range reward.clip_range": only("-10 10", "rewards are not clipped; a reward file can do it"),
    "overlong_buffer_len reward.overlong_buffer_len": refused("there is no length penalty; a reward file can add one"),
    "overlong_penalty_factor reward.overlong_penalty_factor": gone("only used with --overlong_buffer_len"),
    "stop_properly_penalty_coef reward.stop_properly_penalty_coef": refused(
        "truncated responses keep their rewards; --objective.mask_truncated leaves them out of the loss"
    ),
    "custom_experience_filter": refused("--rollout.dynamic_sampling replaces groups that teach nothing"),
    "dynamic_filtering algo.dynamic_filtering_enable": switch("rollout.dynamic_sampling", True),
    "dynamic_filtering_reward_range algo.dynamic_filtering_range": only(
        "0 1", "dynamic sampling replaces groups whose advantages are all zero"
    ),
    "store_extra_buffers": gone("leftover groups are always kept, up to rollout.max_age", "none"),
    "advantage_estimator algo.advantage.estimator": Flag(
        ("objective.estimator", "objective.whiten"),
        "rloo and reinforce_baseline are also whitened, as in OpenRLHF",
        rules.estimator,
    ),
    "no_advantage_std_norm algo.advantage.no_std_norm": Flag(
        (), "refused with rloo and reinforce_baseline; otherwise no effect", rules.standard_deviation, "none"
    ),
    "use_bonus": Flag(("objective.bonus",), "0.2 if it was off", rules.use_bonus, "none"),
    "bonus_reward_coef": Flag(("objective.bonus",), "only if the bonus is on", rules.bonus_size),
    "bonus_constraint": to("objective.bonus_min_length"),
    "use_dyna_weight": switch("objective.dynamic_weight", True),
    "diff_coef": to("objective.sigma"),
    "init_kl_coef algo.kl.init_coef": to("objective.kl_coef"),
    "kl_estimator algo.kl.estimator": to("objective.kl_estimator"),
    "use_kl_loss algo.kl.use_loss": switch("objective.kl_in", "loss"),
    "kl_target algo.kl.target": refused("the coefficient of the KL term, objective.kl_coef, is fixed"),
    "kl_horizon algo.kl.horizon": gone("only used with --kl_target"),
    "lambd algo.advantage.lambd": gone("only used with gae, which needs a critic"),
    "gamma algo.advantage.gamma": Flag((), "no effect: rewards are never discounted; refused unless 1", rules.gamma),
    "eps_clip actor.eps_clip": Flag(("objective.clip_low", "objective.clip_high"), "both", rules.clip),
    "eps_clip_low_high actor.eps_clip_low_high": pair("objective.clip_low", "objective.clip_high"),
    "dual_clip actor.dual_clip": refused("the ratio is clipped on one side of each advantage, as in PPO"),
    "policy_loss_type actor.policy_loss_type": only("ppo", "the ratio is taken token by token"),
    "entropy_loss_coef actor.entropy_coef": only("0", "the loss has no entropy term; the metrics have the entropy"),
    "aux_loss_coef actor.aux_loss_coef model.aux_loss_coef": only("0", "the loss has no balancing term"),
    "enable_vllm_is_correction algo.advantage.is_correction_enable": Flag(
        ("objective.old_logprobs", "objective.importance_cap"), "policy and 5", rules.is_correction, "none"
    ),
    "vllm_is_truncated_threshold algo.advantage.is_correction_threshold": Flag(
        ("objective.importance_cap",), "the upper bound; there is no lower one", rules.is_threshold, "two"
    ),
    "vllm_is_correction_type algo.advantage.is_correction_type": only("tis", "token weights are truncated"),
    # rollout
    "n_samples_per_prompt rollout.n_samples_per_prompt": to("rollout.group_size"),
    "rollout_batch_size rollout.batch_size": to("rollout.prompts"),
    "micro_rollout_batch_size rollout.micro_batch_size vllm_generate_batch_size rollout.vllm_generate_batch_size"
    " rollout_max_tokens_per_gpu rollout.max_tokens_per_gpu": gone(
        "rollout.max_rows limits the responses decoded at once"
    ),
    "temperature": to("rollout.temperature"),
    "top_p": Flag(("rollout.top_p",), "below 1 it also sets objective.old_logprobs: policy", rules.top_p),
    "prompt_max_len": to("data.max_prompt_tokens"),
    "generate_max_len max_new_tokens": to("rollout.max_new_tokens"),
    "max_len data.max_len": Flag(("data.max_prompt_tokens",), "the value minus rollout.max_new_tokens", rules.max_len),
    "partial_rollout train.partial_rollout_enable": gone(
        "where sampling is ahead, responses in flight always go on under new weights", "none"
    ),
    # optimizer
    "train_batch_size train.batch_size": Flag(
        ("optimizer.minibatch",), "responses divided by rollout.group_size", rules.train_batch_size
    ),
    "micro_train_batch_size train.micro_batch_size": gone(
        "optimizer.tokens_per_pack limits one forward and backward pass"
    ),
    "train_max_tokens_per_gpu train.max_tokens_per_gpu": to("optimizer.tokens_per_pack"),
    "use_dynamic_batch train.dynamic_batch_enable packing_samples ds.packing_samples": gone(
        "responses are always packed, up to optimizer.tokens_per_pack", "none"
    ),
    "actor_learning_rate learning_rate actor.adam.lr adam.lr": to("optimizer.lr"),
    "adam_betas actor.adam.betas adam.betas": pair("optimizer.betas"),
    "actor.adam.eps adam.eps": to("optimizer.eps"),
    "l2 actor.adam.weight_decay adam.weight_decay": to("optimizer.weight_decay"),
    "lr_warmup_ratio actor.lr_warmup_ratio": to("optimizer.warmup"),
    "lr_scheduler actor.lr_scheduler": Flag(("optimizer.schedule",), "takes transformers' names", rules.schedule),
    "min_lr_ratio actor.min_lr_ratio": to("optimizer.min_lr_ratio"),
    "max_norm actor.max_norm": to("optimizer.max_grad_norm"),
    "adam_offload ds.adam_offload": switch("optimizer.offload", True),
    "actor.optim optim": only("adam", "the optimizers are adamw and adamw_8bit (optimizer.kind)"),
    "actor.muon.lr actor.muon.momentum actor.muon.ns_steps muon.lr muon.momentum muon.ns_steps": _MUON,
    "actor.muon.nesterov actor.muon.no_nesterov muon.nesterov muon.no_nesterov": gone("only used with muon", "none"),
    "enable_ema train.enable_ema": refused("no moving average of the weights is kept; leave the flag out", "none"),
    "ema_beta train.ema_beta": gone("no moving average of the weights is kept"),
    # evaluation
    "eval_dataset eval.dataset": to("evaluation.path"),
    "eval_steps eval.steps": of_evaluation("evaluation.every"),
    "eval_n_samples_per_prompt eval.n_samples_per_prompt": of_evaluation("evaluation.samples"),
    "eval_temperature eval.temperature": gone("evaluation samples at rollout.temperature, besides one greedy response"),
    "best_metric_key ckpt.best_metric_key": gone("evaluation.best_by names the accuracy that selects the best model"),
    # model
    "pretrain actor.model_name_or_path model.model_name_or_path": to("model.path"),
    "use_ms": refused("models are not fetched from ModelScope: download the model and give its folder", "none"),
    "freeze_prefix": Flag(
        ("model.freeze",),
        "names updated to those of transformers 5",
        rules.freeze_prefix,
        "several",
    ),
    "freeze_visual_encoder actor.freeze_visual_encoder": Flag(
        ("model.freeze",), "adds model.visual", rules.freeze_visual, "none"
    ),
    "processor_kwargs": Flag(("model.min_pixels", "model.max_pixels"), "JSON with these two", rules.processor_kwargs),
    "lora_rank ds.lora.rank": to("model.lora_rank"),
    "lora_alpha ds.lora.alpha": to("model.lora_alpha"),
    "lora_dropout ds.lora.dropout": only("0", "adapters have no dropout"),
    "target_modules ds.lora.target_modules": Flag(
        ("model.lora_targets",), "all-linear is the default", rules.target_modules, "several"
    ),
    "exclude_modules": refused("name the layers that get adapters: --model.lora_targets q_proj,v_proj", "several"),
    "load_in_4bit ds.load_in_4bit": switch("model.quantize", "4bit"),
    "bf16": switch("model.dtype", "bfloat16"),
    "param_dtype data_type ds.param_dtype": Flag(("model.dtype",), "bf16 or fp32", rules.param_dtype),
    "gradient_checkpointing actor.gradient_checkpointing_enable model.gradient_checkpointing_enable": switch(
        "model.gradient_checkpointing", True
    ),
    "gradient_checkpointing_use_reentrant actor.gradient_checkpointing_reentrant"
    " model.gradient_checkpointing_reentrant": gone("it is never re-entrant; the result is the same", "none"),
    "flash_attn use_liger_kernel ds.use_liger_kernel torch_compile deepcompile ds.deepcompile": _KERNELS,
    "attn_implementation ds.attn_implementation ds.experts_implementation": gone(
        "attention and kernels are chosen for the device"
    ),
    # GPUs, shards, vLLM
    **PLACED,
    "ref_num_nodes ref.num_nodes ref_num_gpus_per_node ref.num_gpus_per_node": _ONE_REFERENCE,
    "reward_num_nodes reward.num_nodes reward_num_gpus_per_node reward.num_gpus_per_node": _NO_REWARD_MODEL,
    "critic_num_nodes critic.num_nodes critic_num_gpus_per_node critic.num_gpus_per_node": _CRITIC,
    "ds_tensor_parallel_size ds.tensor_parallel_size ring_attn_size ds.ring_attn_size": _NO_SPLIT,
    "colocate_actor_ref train.colocate_actor_ref": gone("the reference model is on the policy's GPUs", "none"),
    "colocate_critic_reward train.colocate_critic_reward": _CRITIC_SWITCH,
    "actor_init_on_gpu": gone("each rank loads its own share of the weights", "none"),
    "zpg ds.zpg grad_accum_dtype ds.grad_accum_dtype": _FSDP,
    "overlap_comm ds.overlap_comm deepspeed_enable_sleep ds.enable_sleep": _FSDP_SWITCH,
    "ring_head_stride ds.ring_attn_head_stride": gone("only used with --ring_attn_size"),
    "local_rank": gone("Ray numbers the ranks"),
    "ref_reward_offload ref.offload reward.offload": gone("the reference model stays on the device", "none"),
    "vllm_enable_sleep vllm.enable_sleep": gone(
        "engines on the policy's GPUs always sleep while it trains; on GPUs of their own they never do", "none"
    ),
    "vllm_sync_backend vllm.sync_backend": gone("cluster.layout decides how weights travel: CUDA IPC or NCCL"),
    "vllm_sync_with_ray vllm.sync_with_ray": gone(
        "cluster.layout decides how weights travel: CUDA IPC or NCCL", "none"
    ),
    "vllm_gpu_memory_utilization vllm.gpu_memory_utilization": gone(_VLLM),
    "enforce_eager vllm.enforce_eager": gone("rollout.vllm takes it: --rollout.vllm enforce_eager=true", "none"),
    "enable_prefix_caching vllm.enable_prefix_caching": gone(
        "each prompt is always computed once for all its responses", "none"
    ),
    "critic_pretrain critic.model_name_or_path critic_learning_rate critic.adam.lr critic.adam.eps"
    " critic.adam.weight_decay critic.optim critic.lr_scheduler critic.lr_warmup_ratio critic.min_lr_ratio"
    " critic.max_norm critic.muon.lr critic.muon.momentum critic.muon.ns_steps value_clip critic.value_clip"
    " value_head_prefix ds.value_head_prefix freezing_actor_steps critic.freezing_steps": _CRITIC,
    "critic.adam.betas": gone("there is no critic", "two"),
    "save_value_network critic.save_value_network critic.muon.nesterov critic.muon.no_nesterov": _CRITIC_SWITCH,
}
"""The names of each flag, first those with underscores, then the dotted ones of OpenRLHF 0.11. Rules run in this order.

Names of OpenRLHF that are settings here, such as `rollout.temperature`, mean the same in both.
"""

FLAGS = {name: flag for names, flag in NAMES.items() for name in names.split()}
"""Every flag by each of its names."""
