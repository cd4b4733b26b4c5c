"""What vLLM must never sample: image and video placeholders, which would make the next forward fail."""

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor


class PlaceholderMask(LogitsProcessor):
    """Takes placeholder tokens out of every distribution, as the policy does; vLLM's logits processor interface."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        config = vllm_config.model_config.hf_config
        ids = {getattr(config, name, None) for name in ("image_token_id", "video_token_id")}
        self._forbidden = torch.tensor(sorted(ids - {None}), dtype=torch.long, device=device)

    def apply(self, logits: Tensor) -> Tensor:
        """Mask `logits` (rows, vocabulary) in place."""
        return logits.index_fill_(1, self._forbidden, float("-inf"))

    def is_argmax_invariant(self) -> bool:
        """Return False: a placeholder may be the most probable token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Ignore which requests come and go: all are masked alike."""
