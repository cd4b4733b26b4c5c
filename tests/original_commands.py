"""The command lines of the release's three launch scripts, with other paths and the variable `$ranks` filled in."""

_GRPO = """
    --ref_num_nodes 1 --ref_num_gpus_per_node 8 --actor_num_nodes 1 --actor_num_gpus_per_node 8
    --vllm_num_engines 8 --vllm_tensor_parallel_size 1 --colocate_all_models --vllm_enable_sleep
    --vllm_gpu_memory_utilization 0.6 --vllm_sync_backend nccl --enable_prefix_caching
    --micro_train_batch_size 2 --train_batch_size 64 --micro_rollout_batch_size 4 --rollout_batch_size 128
    --temperature 1.0 --n_samples_per_prompt 8 --max_epochs 1 --prompt_max_len 9216 --max_samples 20000
    --generate_max_len 8192 --advantage_estimator group_norm --zero_stage 2 --bf16 --actor_learning_rate 1e-6
    --input_key message --label_key answer --normalize_reward --flash_attn --lambd 1 --gamma 1
    --gradient_checkpointing --save_steps 20 --save_hf_ckpt --load_checkpoint
"""
_BONUS = "--use_bonus --use_dyna_weight --bonus_reward_coef 0.2 --diff_coef 1.8"

_SCRIPTS = {
    "train_grpo": _GRPO,
    "train_r1": f"{_GRPO} {_BONUS} --shuffle",
    "train_random": f"{_GRPO} {_BONUS}",
}


def launch_command(script, model, data, output, reward=None, gpus=8):
    """Return the words after `train_ppo_ray` in a launch script; `reward` is what it gives `--remote_rm_url`."""
    command = _SCRIPTS[script]
    for flag in ("ref_num_gpus_per_node", "actor_num_gpus_per_node", "vllm_num_engines"):
        command = command.replace(f"--{flag} 8", f"--{flag} {gpus}")
    paths = ["--pretrain", str(model), "--prompt_data", str(data), "--save_path", str(output)]
    paths += ["--ckpt_path", f"{output}/ckpt", "--use_tensorboard", f"{output}/logs"]
    paths += ["--remote_rm_url", str(reward)] if reward else []
    return command.split() + paths


ORIGINAL_FLAGS = {
    "observe_r1": {
        "one": """
            actor_learning_rate actor_num_gpus_per_node actor_num_nodes advantage_estimator aux_loss_coef
            bonus_constraint bonus_reward_coef ckpt_path critic_learning_rate critic_num_gpus_per_node
            critic_num_nodes critic_pretrain custom_experience_filter dataset dataset_probs diff_coef eps_clip
            eval_dataset eval_n_samples_per_prompt eval_split eval_steps eval_temperature freezing_actor_steps
            gamma generate_max_len grad_accum_dtype init_kl_coef input_key input_template kl_estimator kl_target
            l2 label_key lambd learning_rate limit_mm_per_prompt local_rank logging_steps lora_alpha
            lora_dropout lora_rank lr_scheduler lr_warmup_ratio max_ckpt_mem max_ckpt_num max_epochs
            max_global_steps max_len max_norm max_samples micro_rollout_batch_size micro_train_batch_size
            n_samples_per_prompt num_episodes output_key pretrain pretrain_data pretrain_data_probs
            pretrain_split processor_kwargs prompt_data prompt_data_probs prompt_max_len ptx_coef
            ref_num_gpus_per_node ref_num_nodes remote_rm_url reward_num_gpus_per_node reward_num_nodes
            reward_pretrain ring_attn_size ring_head_stride rollout_batch_size save_path save_steps seed
            temperature tokenizer_chat_template top_p train_batch_size train_split use_tensorboard use_wandb
            value_clip value_head_prefix vllm_gpu_memory_utilization vllm_num_engines vllm_sync_backend
            vllm_tensor_parallel_size wandb_group wandb_org wandb_project wandb_run_name zero_stage zpg
        """,
        "none": """
            actor_init_on_gpu adam_offload apply_chat_template bf16 colocate_actor_ref colocate_all_models
            colocate_critic_reward deepspeed_enable_sleep disable_ds_ckpt disable_fast_tokenizer enable_ema
            enable_prefix_caching enforce_eager flash_attn full_determinism gradient_checkpointing
            gradient_checkpointing_use_reentrant load_checkpoint load_in_4bit multiturn no_advantage_std_norm
            normalize_reward overlap_comm packing_samples perf pretrain_mode ref_reward_offload save_hf_ckpt
            save_value_network shuffle store_extra_buffers torch_compile use_bonus use_ds_universal_ckpt
            use_dyna_weight use_kl_loss use_liger_kernel use_ms vllm_enable_sleep vllm_sync_with_ray
        """,
        "several": """
            exclude_modules freeze_prefix target_modules
        """,
        "two": """
            adam_betas reward_clip_range
        """,
    },
    "openrlhf_0_10": {
        "one": """
            agent_func_path async_queue_size attn_implementation best_metric_key dataloader_num_workers
            dataset_split ds_tensor_parallel_size dual_clip ema_beta entropy_loss_coef image_key kl_horizon
            max_images_per_prompt max_new_tokens overlong_buffer_len overlong_penalty_factor param_dtype
            policy_loss_type prompt_split rollout_max_tokens_per_gpu stop_properly_penalty_coef
            train_max_tokens_per_gpu vllm_generate_batch_size vllm_is_correction_type
        """,
        "none": """
            async_train deepcompile dynamic_filtering enable_vllm_is_correction freeze_visual_encoder
            partial_rollout use_dynamic_batch
        """,
        "two": """
            dynamic_filtering_reward_range eps_clip_low_high vllm_is_truncated_threshold
        """,
    },
    "openrlhf_0_11": {
        "one": """
            actor.adam.eps actor.adam.lr actor.adam.weight_decay actor.aux_loss_coef actor.dual_clip
            actor.entropy_coef actor.eps_clip actor.lr_scheduler actor.lr_warmup_ratio actor.max_norm
            actor.min_lr_ratio actor.model_name_or_path actor.muon.lr actor.muon.momentum actor.muon.ns_steps
            actor.num_gpus_per_node actor.num_nodes actor.optim actor.policy_loss_type adam.eps adam.lr
            adam.weight_decay algo.advantage.estimator algo.advantage.gamma algo.advantage.is_correction_type
            algo.advantage.lambd algo.kl.estimator algo.kl.horizon algo.kl.init_coef algo.kl.target
            ckpt.best_metric_key ckpt.max_mem ckpt.max_num ckpt.output_dir ckpt.path ckpt.save_steps
            critic.adam.eps critic.adam.lr critic.adam.weight_decay critic.freezing_steps critic.lr_scheduler
            critic.lr_warmup_ratio critic.max_norm critic.min_lr_ratio critic.model_name_or_path critic.muon.lr
            critic.muon.momentum critic.muon.ns_steps critic.num_gpus_per_node critic.num_nodes critic.optim
            critic.value_clip data.dataloader_num_workers data.dataset data.dataset_probs data.dataset_split
            data.image_key data.input_key data.input_template data.label_key data.max_images_per_prompt
            data.max_len data.max_samples data.output_key data.prompt_dataset data.prompt_probs
            data.prompt_split data.tokenizer_chat_template ds.attn_implementation ds.experts_implementation
            ds.grad_accum_dtype ds.lora.alpha ds.lora.dropout ds.lora.rank ds.param_dtype
            ds.ring_attn_head_stride ds.ring_attn_size ds.tensor_parallel_size ds.value_head_prefix
            ds.zero_stage ds.zpg eval.dataset eval.n_samples_per_prompt eval.split eval.steps eval.temperature
            local_rank logger.logging_steps logger.tensorboard_dir logger.wandb.group logger.wandb.key
            logger.wandb.org logger.wandb.project logger.wandb.run_name lr_scheduler lr_warmup_ratio max_norm
            min_lr_ratio model.aux_loss_coef model.model_name_or_path muon.lr muon.momentum muon.ns_steps optim
            ref.num_gpus_per_node ref.num_nodes reward.model_name_or_path reward.num_gpus_per_node
            reward.num_nodes reward.overlong_buffer_len reward.overlong_penalty_factor reward.remote_url
            reward.stop_properly_penalty_coef rollout.batch_size rollout.max_new_tokens
            rollout.max_tokens_per_gpu rollout.micro_batch_size rollout.n_samples_per_prompt rollout.temperature
            rollout.top_p rollout.vllm_generate_batch_size train.agent_func_path train.async_queue_size
            train.batch_size train.ema_beta train.max_epochs train.max_tokens_per_gpu train.micro_batch_size
            train.num_episodes train.seed vllm.gpu_memory_utilization vllm.num_engines vllm.sync_backend
            vllm.tensor_parallel_size
        """,
        "none": """
            actor.freeze_visual_encoder actor.gradient_checkpointing_enable
            actor.gradient_checkpointing_reentrant actor.muon.nesterov actor.muon.no_nesterov
            algo.advantage.is_correction_enable algo.advantage.no_std_norm algo.dynamic_filtering_enable
            algo.kl.use_loss ckpt.disable_ds ckpt.load_enable ckpt.save_hf critic.muon.nesterov
            critic.muon.no_nesterov critic.save_value_network data.apply_chat_template
            data.disable_fast_tokenizer data.multiturn ds.adam_offload ds.deepcompile ds.enable_sleep
            ds.load_in_4bit ds.overlap_comm ds.packing_samples ds.use_liger_kernel ds.use_universal_ckpt
            model.gradient_checkpointing_enable model.gradient_checkpointing_reentrant
            model.pretrain_mode_enable muon.nesterov muon.no_nesterov ref.offload reward.normalize_enable
            reward.offload train.async_enable train.colocate_actor_ref train.colocate_all
            train.colocate_critic_reward train.dynamic_batch_enable train.enable_ema
            train.full_determinism_enable train.partial_rollout_enable use_ms vllm.enable_prefix_caching
            vllm.enable_sleep vllm.enforce_eager vllm.sync_with_ray
        """,
        "two": """
            actor.adam.betas actor.eps_clip_low_high adam.betas algo.advantage.is_correction_threshold
            algo.dynamic_filtering_range critic.adam.betas reward.clip_range
        """,
        "several": """
            ds.lora.target_modules
        """,
    },
}
"""Every flag of `train_ppo_ray` and `train_sft`, by how many words follow it: of the release, those that OpenRLHF
0.10 has beside them, and those of OpenRLHF 0.11."""
