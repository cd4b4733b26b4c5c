"""Observe-R1: reinforcement learning that teaches a vision-language model to look first, then reason."""

__version__ = "0.1.0"
