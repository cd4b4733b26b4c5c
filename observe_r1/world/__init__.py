"""The synthetic visual-reasoning world and its tiny vision-language model."""

from observe_r1.torch_compat import ensure_importable

ensure_importable()  # before any module here imports transformers' processors
