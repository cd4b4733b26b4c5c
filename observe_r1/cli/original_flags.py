"""Every flag of the original command and of OpenRLHF to 0.11, translated to a setting or answered in one line."""

from collections.abc import Mapping

from observe_r1.cli import original_rules as rules
from observe_r1.cli.flag_kinds import Flag, Translation, gone, of_evaluation, only, pair, refused, switch, to

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

    `alone` says that this is a command of the original's, not a flag beside a recipe or beside settings by name: what
    only a flag switches on there is then off without.
    Errors: `UserError` for a flag that is refused, a bad value, a setting that the command does not have.
    """
    if alone and "objective.bonus" in translation.known:
        translation.changes |= ORIGINAL_DEFAULTS
        translation.remarks[WITHOUT_RECIPE] = ["the original's flags without a recipe"]
    for translation.flag, flag in FLAGS.items():
        if translation.flag in given:
            flag.rule(translation, given[translation.flag])


_ONE_PROCESS = gone("sampling and training take turns in this one process", "none")
_KERNELS = gone("attention and kernels are chosen for the device", "none")
_SHARDS = gone("nothing is sharded: sampling and training run in this one process")
_SHARD_SWITCH = gone("nothing is sharded: sampling and training run in this one process", "none")
_VLLM = "sampling is in this process; rollout.engine: vllm samples with vLLM, whose arguments rollout.vllm takes"
_CRITIC = gone("there is no critic")
_CRITIC_SWITCH = gone("there is no critic", "none")
_MUON = gone("it belongs to muon")
_GPUS = Flag((), "one GPU is used, however many are asked for", rules.gpus)
_PROMPTS_OF_IMAGES = gone("a prompt has as many images as its row; rollout.vllm.limit_mm_per_prompt bounds vLLM's")
_SPLIT = only("train", "another split is named in the path, NAME@SPLIT")
_PTX = gone("the original ignored it, too")
_TEMPLATE = refused("questions always go through the model's chat template; write the text into them")
_SFT_ROWS = "a demonstration is a chat in data.input_key that ends with an assistant turn, which alone is learned from"
_STEPPED_VIEW = gone("each step is written down")

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
    "pretrain_mode model.pretrain_mode_enable": refused("the assistant turn alone is learned from", "none"),
    "image_key data.image_key": only("images", "images stand in the column `images` or in the chat"),
    "max_images_per_prompt data.max_images_per_prompt limit_mm_per_prompt": _PROMPTS_OF_IMAGES,
    "apply_chat_template": refused(
        "message-format data always goes through the model's chat template; leave the flag out", "none"
    ),
    "data.apply_chat_template": gone("questions always go through the model's chat template", "none"),
    "input_template data.input_template": _TEMPLATE,
    "tokenizer_chat_template data.tokenizer_chat_template": refused("the chat template is the model's own"),
    "disable_fast_tokenizer data.disable_fast_tokenizer": gone("the tokenizer is the model's own", "none"),
    "dataloader_num_workers data.dataloader_num_workers": gone("images are read ahead in threads"),
    "shuffle": Flag(("data.order",), "ladder: it kept the file's order in the original, too", rules.shuffle, "none"),
    "max_samples": to("data.max_samples"),
    "pretrain_data": _PTX,
    "pretrain_data_probs": _PTX,
    "pretrain_split": _PTX,
    "ptx_coef": _PTX,
    # run
    "save_path ckpt.output_dir": Flag(("run.output",), "the final model is in its folder model/", rules.save_path),
    "ckpt_path ckpt.path": gone("checkpoints stand in the run folder"),
    "save_steps ckpt.save_steps": Flag(("run.save_every",), "-1 leaves the default", rules.save_steps),
    "save_hf_ckpt ckpt.save_hf": gone("the final model always is a Hugging Face checkpoint", "none"),
    "load_checkpoint ckpt.load_enable": switch("run.resume", True),
    "max_ckpt_num ckpt.max_num": to("run.keep"),
    "max_ckpt_mem ckpt.max_mem": gone("run.keep bounds the checkpoints kept"),
    "disable_ds_ckpt ckpt.disable_ds": gone("a checkpoint every run.save_every steps is always written", "none"),
    "use_ds_universal_ckpt ds.use_universal_ckpt": _SHARD_SWITCH,
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
    "full_determinism train.full_determinism_enable": gone("run.seed fixes order and sampling", "none"),
    "num_episodes train.num_episodes": to("run.epochs"),
    "max_global_steps": to("run.steps"),
    "max_epochs train.max_epochs": Flag(
        (), "train: must be 1, each rollout is learned from once; sft: run.epochs", rules.max_epochs
    ),
    # rewards and objective
    "remote_rm_url reward.remote_url": Flag(
        ("rewards.functions",), "these alone, each with weight 1", rules.remote_rm_url
    ),
    "reward_pretrain reward.model_name_or_path": refused(
        "reward models are not loaded: serve it, and give its address: --rewards.functions http://HOST:PORT=1"
    ),
    "agent_func_path train.agent_func_path": refused("agents of several turns are not supported"),
    "normalize_reward reward.normalize_enable": gone(
        "it did nothing in the original either, with a reward file or server", "none"
    ),
    "reward_clip_range reward.clip_range": only("-10 10", "rewards are not clipped; a reward file may do it"),
    "overlong_buffer_len reward.overlong_buffer_len": refused("there is no length penalty; a reward file may have one"),
    "overlong_penalty_factor reward.overlong_penalty_factor": gone("it belongs to --overlong_buffer_len"),
    "stop_properly_penalty_coef reward.stop_properly_penalty_coef": refused(
        "rewards of cut-off responses stay; --objective.mask_truncated leaves these out of the loss"
    ),
    "custom_experience_filter": refused("--rollout.dynamic_sampling sets groups aside that teach nothing"),
    "dynamic_filtering algo.dynamic_filtering_enable": switch("rollout.dynamic_sampling", True),
    "dynamic_filtering_reward_range algo.dynamic_filtering_range": only(
        "0 1", "dynamic sampling sets groups aside whose advantages are all zero"
    ),
    "store_extra_buffers": gone("leftover groups are always kept, for rollout.max_age", "none"),
    "advantage_estimator algo.advantage.estimator": Flag(
        ("objective.estimator", "objective.whiten"),
        "rloo and reinforce_baseline are whitened, as there",
        rules.estimator,
    ),
    "no_advantage_std_norm algo.advantage.no_std_norm": Flag(
        (), "refused with rloo and reinforce_baseline, else without effect", rules.standard_deviation, "none"
    ),
    "use_bonus": Flag(
        ("objective.bonus",), "0.2, if it is off; without flag and recipe it is off", rules.use_bonus, "none"
    ),
    "bonus_reward_coef": Flag(("objective.bonus",), "if the bonus is on", rules.bonus_size),
    "bonus_constraint": to("objective.bonus_min_length"),
    "use_dyna_weight": switch("objective.dynamic_weight", True),
    "diff_coef": to("objective.sigma"),
    "init_kl_coef algo.kl.init_coef": to("objective.kl_coef"),
    "kl_estimator algo.kl.estimator": to("objective.kl_estimator"),
    "use_kl_loss algo.kl.use_loss": switch("objective.kl_in", "loss"),
    "kl_target algo.kl.target": refused("the coefficient of the KL term, objective.kl_coef, is fixed"),
    "kl_horizon algo.kl.horizon": gone("it belongs to --kl_target"),
    "lambd algo.advantage.lambd": gone("it belongs to gae, which needs a critic"),
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
        ("objective.importance_cap",), "the upper one; there is no lower one", rules.is_threshold, "two"
    ),
    "vllm_is_correction_type algo.advantage.is_correction_type": only("tis", "weights of tokens are cut off"),
    # rollout
    "n_samples_per_prompt rollout.n_samples_per_prompt": to("rollout.group_size"),
    "rollout_batch_size rollout.batch_size": to("rollout.prompts"),
    "micro_rollout_batch_size rollout.micro_batch_size vllm_generate_batch_size rollout.vllm_generate_batch_size"
    " rollout_max_tokens_per_gpu rollout.max_tokens_per_gpu": gone(
        "rollout.max_rows bounds the responses decoded at once"
    ),
    "temperature": to("rollout.temperature"),
    "top_p": Flag(("rollout.top_p",), "below 1 with objective.old_logprobs: policy, as it was there", rules.top_p),
    "prompt_max_len": to("data.max_prompt_tokens"),
    "generate_max_len max_new_tokens": to("rollout.max_new_tokens"),
    "max_len data.max_len": Flag(("data.max_prompt_tokens",), "this less rollout.max_new_tokens", rules.max_len),
    "async_train train.async_enable": _ONE_PROCESS,
    "async_queue_size train.async_queue_size": gone("sampling and training take turns in this one process"),
    "partial_rollout train.partial_rollout_enable": _ONE_PROCESS,
    # optimizer
    "train_batch_size train.batch_size": Flag(
        ("optimizer.minibatch",), "these responses / rollout.group_size", rules.train_batch_size
    ),
    "micro_train_batch_size train.micro_batch_size": gone(
        "optimizer.tokens_per_pack bounds one forward and backward pass"
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
    "lr_scheduler actor.lr_scheduler": Flag(("optimizer.schedule",), "by transformers' names", rules.schedule),
    "min_lr_ratio actor.min_lr_ratio": to("optimizer.min_lr_ratio"),
    "max_norm actor.max_norm": to("optimizer.max_grad_norm"),
    "adam_offload ds.adam_offload": switch("optimizer.offload", True),
    "actor.optim optim": only("adam", "optimizers are adamw and adamw_8bit (optimizer.kind)"),
    "actor.muon.lr actor.muon.momentum actor.muon.ns_steps muon.lr muon.momentum muon.ns_steps": _MUON,
    "actor.muon.nesterov actor.muon.no_nesterov muon.nesterov muon.no_nesterov": gone("it belongs to muon", "none"),
    "enable_ema train.enable_ema": refused("no average of the weights is kept; leave the flag out", "none"),
    "ema_beta train.ema_beta": gone("no average of the weights is kept"),
    # evaluation
    "eval_dataset eval.dataset": to("evaluation.path"),
    "eval_steps eval.steps": of_evaluation("evaluation.every"),
    "eval_n_samples_per_prompt eval.n_samples_per_prompt": of_evaluation("evaluation.samples"),
    "eval_temperature eval.temperature": gone("evaluation draws at rollout.temperature, beside the greedy response"),
    "best_metric_key ckpt.best_metric_key": gone("evaluation.best_by names the accuracy that chooses the best"),
    # model
    "pretrain actor.model_name_or_path model.model_name_or_path": to("model.path"),
    "use_ms": refused("models are not fetched from ModelScope: download it, and give its folder", "none"),
    "freeze_prefix": Flag(("model.freeze",), "parameters by their present names", rules.freeze_prefix, "several"),
    "freeze_visual_encoder actor.freeze_visual_encoder": Flag(
        ("model.freeze",), "model.visual, too", rules.freeze_visual, "none"
    ),
    "processor_kwargs": Flag(("model.min_pixels", "model.max_pixels"), "JSON of these two", rules.processor_kwargs),
    "lora_rank ds.lora.rank": to("model.lora_rank"),
    "lora_alpha ds.lora.alpha": to("model.lora_alpha"),
    "lora_dropout ds.lora.dropout": only("0", "adapters have no dropout"),
    "target_modules ds.lora.target_modules": Flag(
        ("model.lora_targets",), "all-linear is none named", rules.target_modules, "several"
    ),
    "exclude_modules": refused("name the layers that get an adapter: --model.lora_targets q_proj,v_proj", "several"),
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
    "actor_num_nodes actor.num_nodes actor_num_gpus_per_node actor.num_gpus_per_node": _GPUS,
    "ref_num_nodes ref.num_nodes ref_num_gpus_per_node ref.num_gpus_per_node": _GPUS,
    "reward_num_nodes reward.num_nodes reward_num_gpus_per_node reward.num_gpus_per_node": _GPUS,
    "critic_num_nodes critic.num_nodes critic_num_gpus_per_node critic.num_gpus_per_node": _GPUS,
    "vllm_num_engines vllm.num_engines vllm_tensor_parallel_size vllm.tensor_parallel_size": _GPUS,
    "ds_tensor_parallel_size ds.tensor_parallel_size ring_attn_size ds.ring_attn_size": _GPUS,
    "colocate_all_models train.colocate_all colocate_actor_ref train.colocate_actor_ref colocate_critic_reward"
    " train.colocate_critic_reward actor_init_on_gpu": _ONE_PROCESS,
    "zero_stage ds.zero_stage zpg ds.zpg grad_accum_dtype ds.grad_accum_dtype ring_head_stride"
    " ds.ring_attn_head_stride local_rank": _SHARDS,
    "overlap_comm ds.overlap_comm deepspeed_enable_sleep ds.enable_sleep": _SHARD_SWITCH,
    "ref_reward_offload ref.offload reward.offload": gone("the reference model stays on the device", "none"),
    "vllm_enable_sleep vllm.enable_sleep vllm_sync_with_ray vllm.sync_with_ray enforce_eager vllm.enforce_eager": gone(
        _VLLM, "none"
    ),
    "vllm_gpu_memory_utilization vllm.gpu_memory_utilization vllm_sync_backend vllm.sync_backend": gone(_VLLM),
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
"""The names of a flag, first those with underscores, then the dotted ones of OpenRLHF 0.11; in the order of the rules.

OpenRLHF's names that are settings here, such as `rollout.temperature`, mean the same in both.
"""

FLAGS = {name: flag for names, flag in NAMES.items() for name in names.split()}
"""Every flag by each of its names."""
