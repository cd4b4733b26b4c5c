"""What a command imports, and the garbage collector meanwhile."""

import gc
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from observe_r1.cli.start import heavy_imports

HEAVY = ("torch", "transformers", "datasets", "numpy", "rich", "PIL", "pyarrow", "sympy", "matplotlib")


@pytest.fixture
def fresh(monkeypatch):
    """As in a program that has not imported torch."""
    monkeypatch.delitem(sys.modules, "torch")
    yield
    gc.unfreeze()


def test_the_collector_pauses_and_then_leaves_alone_what_was_made(fresh):
    with heavy_imports():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= len(made)


def test_a_failed_import_leaves_the_collector_on(fresh):
    with pytest.raises(ModuleNotFoundError), heavy_imports():
        import there_is_no_such_module  # noqa: F401
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_nothing_is_done_once_torch_is_there():
    with heavy_imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_collector_that_was_off_stays_off(fresh):
    gc.disable()
    try:
        with heavy_imports():
            assert not gc.isenabled()
        assert not gc.isenabled() and gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_a_program_that_imported_everything_so_ends_without_a_word():
    code = "from observe_r1.cli.start import heavy_imports\nwith heavy_imports():\n    import observe_r1.run.train\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({}, "GOMP_SPINCOUNT = '1000'"),
        ({"GOMP_SPINCOUNT": "77"}, "GOMP_SPINCOUNT = '77'"),
        ({"OMP_WAIT_POLICY": "passive"}, "GOMP_SPINCOUNT = '0'"),
    ],
)
def test_threads_do_not_spin_for_long_unless_the_user_has_chosen(chosen, said):
    """As the OpenMP that torch brings along says itself when it is loaded."""
    (openmp, *_) = Path(find_spec("torch").submodule_search_locations[0], "lib").glob("libgomp*")
    code = "import ctypes\nfrom observe_r1.cli.start import heavy_imports\nwith heavy_imports():\n    "
    code += f"ctypes.CDLL({str(openmp)!r})"
    # vLLM, where it was started in this process, has OpenMP preloaded: before anything could be said to it.
    unset = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "LD_PRELOAD")
    }
    environment = unset | {"OMP_DISPLAY_ENV": "verbose"} | chosen
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert said in done.stderr


VERBS = (
    "train",
    "sft",
    "convert",
    "data",
    "data check",
    "data judge",
    "ladder",
    "ladder build",
    "ladder sources",
    "demo",
)


@pytest.mark.parametrize("command", ["", *VERBS])
def test_help_imports_nothing_heavy(command):
    code = f"""
import atexit, sys
from observe_r1.cli.main import main
atexit.register(lambda: print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr))
sys.exit(main({[*command.split(), "--help"]}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "\n")
    assert done.stdout.startswith(f"Usage: observe-r1 {command}")
