"""The demo: a synthetic world of coloured shapes, a tiny vision-language model, and every step from data to picture."""

from observe_r1.torch_compat import ensure_importable

ensure_importable()  # before any module here imports transformers' processors
