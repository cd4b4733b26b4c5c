"""One thread a test process: the tensors are tiny, and two processes of two threads each slow each other down.

And what holds for all tests, however they are started: a command that they run can be interrupted, no process outlives
the file that started it, and nothing is left in the source tree.
"""

import multiprocessing.forkserver as forkserver
import multiprocessing.resource_tracker as resource_tracker
import os
import signal
import time
import uuid
from pathlib import Path

import hypothesis
import pytest
import torch

from observe_r1.torch_compat import ensure_importable

pytest.register_assert_rewrite("asked_ladder", "embedded_engine", "measured_ladder")
ensure_importable()
torch.set_num_threads(1)
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")
# Ray makes its processes nicer than all others; beside another file's tests they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")

SLOW = {
    "cli/test_chat",
    "cli/test_chat_web",
    "cli/test_export",
    "cli/test_original_commands",
    "cli/test_pushing",
    "cli/test_start_up",
    "cli/test_terminal",
    "cluster/test_adapter_runs",
    "cluster/test_ahead_runs",
    "cluster/test_calls",
    "cluster/test_carrying",
    "cluster/test_measuring",
    "cluster/test_runs",
    "cluster/test_checkpoints",
    "cluster/test_sharded_policy",
    "cluster/test_filling",
    "cluster/test_plan",
    "cluster/test_plan_memory",
    "cluster/test_simulation",
    "cluster/test_engines",
    "cluster/test_vllm_runs",
    "cluster/test_weights",
    "data/test_image_fetching",
    "data/test_memory",
    "demo/test_demo",
    "docs/test_guides",
    "docs/test_notebook",
    "docs/test_site",
    "ladder/test_answers",
    "ladder/test_arranging",
    "ladder/test_inference",
    "ladder/test_building",
    "ladder/test_vllm",
    "model/test_adapters",
    "model/test_encoding",
    "model/test_families",
    "model/test_files",
    "model/test_flex_attention",
    "model/test_loading",
    "model/test_processors",
    "model/test_weights",
    "policy/test_master_weights",
    "policy/test_memory",
    "policy/test_optimizers",
    "policy/test_shared_prefix",
    "report/test_hostile_ladder",
    "report/test_ladder_dataset",
    "report/test_ladder_figures",
    "report/test_ladder_page",
    "report/test_live_run",
    "report/test_page_in_browser",
    "report/test_no_secrets",
    "report/test_run_page",
    "rewards/test_file",
    "rewards/test_hostile",
    "rewards/test_judge_near_misses",
    "rewards/test_scorer",
    "rewards/test_server",
    "rewards/test_serving",
    "rewards/test_worker",
    "rollout/test_embedded_engine",
    "rollout/test_server",
    "rollout/test_vllm",
    "rollout/test_vllm_start",
    "run/test_benchmarks",
    "run/test_checkpoint",
    "run/test_end_to_end",
    "run/test_held_out",
    "run/test_resume",
    "run/test_tracked_tables",
    "run/test_tracker_libraries",
    "run/test_trackers",
    "test_gpu_benchmark",
    "training/test_race",
    "training/test_weight_sync",
}
"""Files whose tests train, build ladders, compile, draw or start processes; those that ask for `world` do so anyway."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make check` leaves out."""
    for item in items:
        if str(item.path.relative_to(ROOT / "tests").with_suffix("")) in SLOW or "world" in item.fixturenames:
            item.add_marker("slow")


# A signal that pytest ignores (`nohup make test &`) is ignored by the commands that it runs; one with a handler is not.
for ignored, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda number, frame: None)):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, handler)

MARK = f"OBSERVE_R1_TESTS={uuid.uuid4()}"
"""Stands in the environment of every process that a test starts."""
os.environ.update([MARK.split("=")])

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def _no_process_survives():
    yield
    patience = time.monotonic() + 20
    while (survivors := _survivors()) and time.monotonic() < patience:
        time.sleep(0.05)
    for pid in survivors:
        os.kill(pid, signal.SIGKILL)
    assert not survivors, f"processes outlive the tests of this file: {list(survivors.values())}"


@pytest.fixture(scope="module", autouse=True)
def _sigterm_means_what_it_did():
    """Ray leaves a handler behind. A forked process inherits it, and misses a signal that comes just before a wait."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def _survivors() -> dict[int, str]:
    """Return what tests started and still runs, without what Python keeps for the next test."""
    kept = {os.getpid(), forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid}
    forked = {int(pid) for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()}
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            ours = int(place.name) in forked or MARK.encode() in (place / "environ").read_bytes().split(b"\0")
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it has ended, or is another user's
        if ours and command and int(place.name) not in kept:  # a zombie has no command
            found[int(place.name)] = command
    return found


@pytest.fixture(scope="session", autouse=True)
def _the_tree_stays_clean():
    before = _tree()
    yield
    new = sorted(str(path.relative_to(ROOT)) for path in _tree() - before)
    assert not new, f"tests left files in the source tree: {new}"


def _tree() -> set[Path]:
    """Return the folders of the source tree and the files in them; logs may come to stand at its root."""
    top = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."]
    found = (path for folder in top for path in (folder, *folder.rglob("*")))
    return {path for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with questions (`train`), demonstrations (`sft`), an untrained tiny model and its warm start `warm`."""
    from observe_r1.cli.main import main
    from observe_r1.demo.dataset import write_demonstrations, write_questions
    from observe_r1.demo.tiny_model import make_tiny_model

    folder = tmp_path_factory.mktemp("world")
    make_tiny_model(folder / "tiny")
    data = write_demonstrations(folder / "sft", seed=0, count=200)
    write_questions(folder / "train", "train", seed=0, count=60)
    paths = ["--model.path", str(folder / "tiny"), "--data.path", str(data), "--run.output", str(folder / "warm")]
    options = ["--run.steps", "40", "--optimizer.lr", "3e-3", "--run.threads", "1", "--model.device", "cpu"]
    assert main(["sft", *paths, *options]) == 0
    return folder


@pytest.fixture(scope="session")
def sound_model(tmp_path_factory):
    """The folder of a tiny model with two layers; not to be changed."""
    from observe_r1.demo.tiny_model import Sizes, make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("models") / "sound", sizes=Sizes(width=64, layers=2), scale=1.5)
