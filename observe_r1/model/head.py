"""The head's logits in float32, for those who sample and those who train: they agree because both take them from here.

A head in bfloat16 would round each logit to 8 bits, and so a log-probability by up to 0.06 where logits reach 16. A GPU
adds the products of a bfloat16 matrix product up in float32 anyway: here it also writes that sum down.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


def head_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return the logits of the next token.

    Args:
        model: Whose `lm_head` they are.
        hidden: (rows, width), the text model's last hidden states.

    Returns:
        (rows, vocabulary) float32; float64 for a float64 model.
    """
    weight = model.lm_head.weight
    if weight.dtype == torch.bfloat16:
        return _WideProduct.apply(hidden.to(weight.dtype), weight)
    logits = model.lm_head(hidden)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _WideProduct(torch.autograd.Function):
    """`hidden @ weight.T` of bfloat16 matrices (rows, width) and (vocabulary, width) in float32.

    The weight's gradient is float32 too if the weight asks for that (`Tensor.grad_dtype`).
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.wide = weight.is_leaf and weight.grad_dtype == torch.float32
        return _float32_product(hidden, weight.t())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        grad = grad.to(weight.dtype)
        of_hidden = grad @ weight if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_hidden, None
        return of_hidden, _float32_product(grad.t(), hidden) if ctx.wide else grad.t() @ hidden


def _float32_product(left: Tensor, right: Tensor) -> Tensor:
    """Return `left @ right` of two bfloat16 matrices in float32.

    `out_dtype` is for CUDA alone (torch ≥ 2.8). On the CPU float32 copies give the same: products of bfloat16 numbers
    are exact in float32. Autocast would round their sum back to bfloat16.
    """
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    with torch.autocast("cpu", enabled=False):
        return left.float() @ right.float()
