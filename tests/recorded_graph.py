"""A stand-in for CUDA graphs on the CPU, with what is treacherous in them.

Recording computes nothing that lasts, replaying repeats the recorded operations on the tensors of the recording, and
whatever would wait for a GPU is refused while recording.
"""

import inspect

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "is_nonzero", "equal", "lift_fresh")


def refuse_waiting(function):
    """Fail for an operation that waits for a GPU, or that makes a tensor of Python's numbers, to be copied to one."""
    name = function.overloadpacket.__name__
    assert not name.startswith(_WAITS), f"{name} waits for the device"


class RecordedGraph(TorchDispatchMode):
    """As `torch.cuda.CUDAGraph`, and as the context that records into it."""

    def __init__(self):
        super().__init__()
        self.operations, self.replays = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        refuse_waiting(function)
        kwargs = kwargs or {}
        if function._schema.is_mutable:  # in place, on the first argument
            self.operations.append((function, args, kwargs, None))
            return args[0]
        result = function(*args, **kwargs)
        outputs = _tensors(result)
        if not _shares_memory(outputs, args):
            self.operations.append((function, args, kwargs, outputs))
        return result

    def replay(self):
        self.replays += 1
        for function, args, kwargs, outputs in self.operations:
            result = function(*args, **kwargs)
            if outputs is not None:
                for output, again in zip(outputs, _tensors(result), strict=True):
                    output.copy_(again)


def _tensors(values):
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _shares_memory(outputs, args):
    """Whether an operation only looks at its arguments in another way."""
    places = {tensor.untyped_storage().data_ptr() for tensor in _tensors(args)}
    return any(output.untyped_storage().data_ptr() in places for output in outputs)


def use_recorded_graphs(monkeypatch):
    """Put the stand-in in the place of CUDA graphs; return the list of those that will be made."""
    made = []

    def new():
        made.append(RecordedGraph())
        return made[-1]

    real = inspect.signature(torch.cuda.graph)

    def record(*arguments, **options):
        return real.bind(*arguments, **options).arguments["cuda_graph"]

    monkeypatch.setattr(torch.cuda, "CUDAGraph", new)
    monkeypatch.setattr(torch.cuda, "graph", record)
    return made
