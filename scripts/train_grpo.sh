#!/usr/bin/env bash
# Plain GRPO. Takes MODEL, DATA and options as scripts/train.sh tells.
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" grpo "$@"
