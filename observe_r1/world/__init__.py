"""The synthetic visual-reasoning world and its tiny vision-language model."""

from observe_r1.torchvision_compat import ensure_torchvision

ensure_torchvision()  # before any module here imports transformers' processors
