"""The vision-language model: loading, prompts, the shared-prefix attention, saving."""

from observe_r1.torch_compat import ensure_importable

ensure_importable()  # before any module here imports transformers' models
