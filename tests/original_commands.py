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


def launch_command(script, model, data, output, reward=None):
    """Return the words after `train_ppo_ray` in a launch script; `reward` is what it gives `--remote_rm_url`."""
    paths = ["--pretrain", str(model), "--prompt_data", str(data), "--save_path", str(output)]
    paths += ["--ckpt_path", f"{output}/ckpt", "--use_tensorboard", f"{output}/logs"]
    paths += ["--remote_rm_url", str(reward)] if reward else []
    return _SCRIPTS[script].split() + paths
