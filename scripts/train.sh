#!/usr/bin/env bash
# Trains with a recipe by its name: scripts/train.sh NAME [options of `observe-r1 train`]
#
#   MODEL=~/Qwen2.5-VL-3B-Instruct DATA=~/neuraladder.jsonl scripts/train.sh observe_r1
#
# Without MODEL and DATA it takes the recipe's tiny twin, which trains the model that `make demo` leaves behind.
# Relative paths count from the repository's root, where it runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name=${1:?usage: scripts/train.sh NAME [options]}
shift

command=.venv/bin/observe-r1
[[ -x $command ]] || command=observe-r1
output=runs/$name-$(date +%Y%m%d-%H%M%S)

if [[ -n ${MODEL:-} && -n ${DATA:-} ]]; then
  exec "$command" train "recipes/$name.yaml" --model.path "$MODEL" --data.path "$DATA" --run.output "$output" "$@"
elif [[ -n ${MODEL:-} || -n ${DATA:-} ]]; then
  echo "$0: set both MODEL and DATA, or neither to train the demo's tiny model" >&2
  exit 2
elif [[ -d runs/demo/warm/model ]]; then
  exec "$command" train "recipes/tiny/$name.yaml" --run.output "$output" "$@"
else
  echo "$0: set MODEL and DATA, or run \`make demo\` first to train its tiny model" >&2
  exit 2
fi
