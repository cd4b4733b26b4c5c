"""`shared_prefix`: the text model's attention, told by a layout which tokens see which.

Transformers passes keyword arguments of a forward through to the attention function, so the caller hands over a
*layout* (`model(…, layout=layout)`) instead of a (T, T) mask, and the layout computes the attention the cheapest way it
knows: packed groups for training (`model.packed_layout`), a growing key-value cache for sampling
(`rollout.caches`).
"""

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

NAME = "shared_prefix"


class AttentionLayout(Protocol):
    """Which tokens of a packed sequence attend to which."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, layer: int) -> Tensor:
        """Return the attention's output, shaped as query (B, H, T, D); key and value are (B, H_kv, T, D)."""
        ...


def shared_prefix(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    layout: AttentionLayout,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend by `layout`; transformers' attention interface (output (B, T, H, D), no weights)."""
    # Under autocast, rotary embedding leaves query and key in float32 beside a value in bfloat16.
    query, key = query.to(value.dtype), key.to(value.dtype)
    output = layout.attend(query, key, value, scaling, int(module.layer_idx))  # type: ignore[arg-type]
    return output.transpose(1, 2), None


def use_shared_prefix(model: PreTrainedModel) -> None:
    """Make `model`'s text model attend by layouts; its image tower keeps what it has."""
    AttentionInterface.register(NAME, shared_prefix)
    model.set_attn_implementation({"text_config": NAME})
