#!/usr/bin/env bash
# Observe-R1. Takes MODEL, DATA and options as scripts/train.sh tells.
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" observe_r1 "$@"
