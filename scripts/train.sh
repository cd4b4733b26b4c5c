#!/usr/bin/env bash
# Trains with a recipe by its name: scripts/train.sh NAME [options of `observe-r1 train`]
#
#   MODEL=~/Qwen2.5-VL-3B-Instruct DATA=~/neuraladder.jsonl scripts/train.sh observe_r1
#
#   GPUS=8 MODEL=… DATA=… scripts/train.sh observe_r1         # the release's layout: vLLM on the GPUs that train
#
# GPUS counts those of one machine; with NODES the run joins the Ray cluster that this machine belongs to.
# Without MODEL and DATA it takes the recipe's tiny twin, which trains the model that `make demo` leaves behind.
# Relative paths count from the repository's root, where it runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name=${1:?usage: scripts/train.sh NAME [options]}
shift

command=.venv/bin/observe-r1
[[ -x $command ]] || command=observe-r1
output=runs/$name-$(date +%Y%m%d-%H%M%S)

if [[ -n ${GPUS:-} ]]; then
  nodes=${NODES:-1}
  set -- --actor_num_nodes "$nodes" --actor_num_gpus_per_node "$GPUS" --ref_num_nodes "$nodes" \
    --ref_num_gpus_per_node "$GPUS" --vllm_num_engines "$((nodes * GPUS))" --vllm_tensor_parallel_size 1 \
    --colocate_all_models --vllm_enable_sleep --zero_stage 2 "$@"
elif [[ -n ${NODES:-} ]]; then
  echo "$0: NODES needs GPUS, the number on each node" >&2
  exit 2
fi

if [[ -n ${MODEL:-} && -n ${DATA:-} ]]; then
  exec "$command" train "recipes/$name.yaml" --model.path "$MODEL" --data.path "$DATA" --run.output "$output" "$@"
elif [[ -n ${MODEL:-} || -n ${DATA:-} ]]; then
  echo "$0: set both MODEL and DATA, or neither to train the demo's tiny model" >&2
  exit 2
elif [[ -d runs/demo/warm/model ]]; then
  # The tiny model needs no vLLM, whatever GPUS says.
  exec "$command" train "recipes/tiny/$name.yaml" --run.output "$output" --rollout.engine embedded "$@"
else
  echo "$0: set MODEL and DATA, or run \`make demo\` first to train its tiny model" >&2
  exit 2
fi
