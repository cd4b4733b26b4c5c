"""Tensors that travel through Ray's store: the same values, no more bytes than they have, and no copy at the end."""

import pickle

import ray
import torch
from hypothesis import given
from hypothesis import strategies as st

from observe_r1.cluster.carrying import from_bytes, to_bytes
from observe_r1.cluster.placement import open_ray
from observe_r1.config import ClusterSettings

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3), st.booleans(), st.integers(0, 9))
def test_any_tensor_comes_back(dtype, shape, turned, seed):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(3).to(dtype)
    values = values.mT if turned and len(shape) > 1 else values
    back = from_bytes(pickle.loads(pickle.dumps(to_bytes(values), protocol=5)))
    assert back.dtype == dtype and torch.equal(back, values)


class Echo:
    def __init__(self):
        from observe_r1.cluster.carrying import carry_tensors

        carry_tensors()

    def twice(self, parts):
        return torch.cat([2 * part for part in parts]).split(250)


def test_parts_of_one_tensor_travel_as_what_they_are():
    whole = torch.randn(100_000)
    with open_ray(ClusterSettings(gpus=1, dashboard=None), "cpu"):
        context = ray._private.worker.global_worker.get_serialization_context()
        assert context.serialize(whole.split(250)).total_bytes < 2 * whole.nbytes
        echo = ray.remote(Echo).remote()
        assert torch.equal(torch.cat(ray.get(echo.twice.remote(whole.split(250)))), 2 * whole)
        stored = ray.put(whole)
        assert ray.get(stored).data_ptr() == ray.get(stored).data_ptr()  # where it lies
