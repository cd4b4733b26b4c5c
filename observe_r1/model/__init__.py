"""The vision-language model: loading, prompts, the shared-prefix attention, saving."""

from observe_r1.torchvision_compat import ensure_torchvision

ensure_torchvision()  # before any module here imports transformers' models
