"""The head's logits, against the same product in float64."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from observe_r1.model.head import head_logits

ROWS, WIDTH, VOCABULARY = 12, 64, 300


def model(dtype):
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    return SimpleNamespace(lm_head=head.to(dtype))


def states(dtype):
    """Hidden states that make logits of up to about 16, as trained models do."""
    torch.manual_seed(1)
    return (8 * torch.randn(ROWS, WIDTH)).to(dtype).requires_grad_()


@pytest.mark.parametrize("autocast", [False, True])
def test_in_bfloat16_logits_keep_the_precision_of_their_sum(autocast):
    head, hidden = model(torch.bfloat16), states(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
        logits = head_logits(head, hidden)
    exact = hidden.double() @ head.lm_head.weight.double().T
    assert logits.dtype == torch.float32 and exact.abs().max() > 10
    assert (logits - exact).abs().max() < 1e-5
    assert (head.lm_head(hidden) - exact).abs().max() > 1e-2  # what rounding them would cost


@pytest.mark.parametrize("wide", [False, True])
def test_gradients_are_those_of_the_product(wide):
    head, hidden = model(torch.bfloat16), states(torch.bfloat16)
    weight = head.lm_head.weight
    if wide:
        weight.grad_dtype = torch.float32
    slope = torch.randn(ROWS, VOCABULARY).bfloat16()
    (head_logits(head, hidden) * slope.float()).sum().backward()
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32 if wide else torch.bfloat16)
    rounding = {"atol": 1e-3, "rtol": 2**-8}
    torch.testing.assert_close(hidden.grad.double(), slope.double() @ weight.double(), **rounding)
    exact = slope.double().T @ hidden.double()
    torch.testing.assert_close(weight.grad.double(), exact, **({"atol": 1e-4, "rtol": 1e-6} if wide else rounding))


def test_a_frozen_head_passes_the_gradient_on():
    head, hidden = model(torch.bfloat16), states(torch.bfloat16)
    head.lm_head.requires_grad_(False)
    head_logits(head, hidden).sum().backward()
    assert hidden.grad.any() and head.lm_head.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_other_types_it_is_the_head_itself_bit_by_bit(dtype):
    head, hidden = model(dtype), states(dtype)
    assert torch.equal(head_logits(head, hidden), head.lm_head(hidden))
