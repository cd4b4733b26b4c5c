"""The step: `loop` with its batches and length, `sampler`, `prompts`, `weight_sync`; and `sft`, the warm start."""
