"""One thread a test process: the tensors are tiny, and two processes of two threads each slow each other down."""

import torch

from observe_r1.torchvision_compat import ensure_torchvision

ensure_torchvision()
torch.set_num_threads(1)
