"""GPUs that a plan can be made for: what their data sheets say."""

from typing import NamedTuple

from observe_r1.errors import UserError
from observe_r1.registry import nearest


class GPU(NamedTuple):
    """One GPU; bandwidths are in one direction."""

    title: str
    memory: float
    """GiB that torch can have of it."""
    flops: float
    """Dense bfloat16 operations a second, at the peak."""
    bandwidth: float
    """Bytes a second between the GPU and its memory."""
    link: float
    """Bytes a second between GPUs of one machine."""
    network: float
    """Bytes a second that one GPU has of its machine's network."""
    dollars: float
    """An hour's typical rent, in US dollars, of 2025; a rough guide."""


_T, _G = 1e12, 1e9
_PCIE_4, _PCIE_5 = 32 * _G, 64 * _G
_SLOW, _FAST = 3.1 * _G, 50 * _G
"""Network a GPU: 200 Gbit/s for a machine of eight, as clouds give cards without NVLink; 400 Gbit/s for each GPU, as in
DGX and HGX machines."""

GPUS = {
    "h100": GPU("H100 SXM 80 GB", 79.1, 989.4 * _T, 3350 * _G, 450 * _G, _FAST, 3.0),
    "h100_pcie": GPU("H100 PCIe 80 GB", 79.1, 756 * _T, 2000 * _G, _PCIE_5, _SLOW, 2.5),
    "h200": GPU("H200 SXM 141 GB", 139.7, 989.4 * _T, 4800 * _G, 450 * _G, _FAST, 3.8),
    "h800": GPU("H800 SXM 80 GB", 79.1, 989.4 * _T, 3350 * _G, 200 * _G, _FAST, 3.0),
    "b200": GPU("B200 SXM 180 GB", 178.0, 2250 * _T, 7700 * _G, 900 * _G, _FAST, 5.5),
    "a100": GPU("A100 SXM 80 GB", 79.1, 312 * _T, 2039 * _G, 300 * _G, 25 * _G, 1.8),
    "a100_40gb": GPU("A100 SXM 40 GB", 39.4, 312 * _T, 1555 * _G, 300 * _G, 12.5 * _G, 1.3),
    "l40s": GPU("L40S 48 GB", 44.4, 362 * _T, 864 * _G, _PCIE_4, _SLOW, 1.0),
    "l4": GPU("L4 24 GB", 22.0, 121 * _T, 300 * _G, _PCIE_4, _SLOW, 0.7),
    "a10g": GPU("A10G 24 GB", 22.0, 70 * _T, 600 * _G, _PCIE_4, _SLOW, 1.0),
    "rtx4090": GPU("RTX 4090 24 GB", 23.5, 165.2 * _T, 1008 * _G, _PCIE_4, _SLOW, 0.4),
    "rtx5090": GPU("RTX 5090 32 GB", 31.3, 209.5 * _T, 1792 * _G, _PCIE_5, _SLOW, 0.7),
}
"""By the name that `--gpu` takes. NVIDIA's data sheets print twice these operations, "with sparsity"."""


def gpu_named(name: str) -> GPU:
    """Return the GPU of that name, however it is spelled.

    Raises:
        UserError: There is none.
    """
    plain = name.lower().replace("-", "_").replace(" ", "_")
    if plain not in GPUS:
        raise UserError(f"plan.gpu = {name!r} is not known{nearest(plain, GPUS)}; known: {', '.join(GPUS)}")
    return GPUS[plain]
