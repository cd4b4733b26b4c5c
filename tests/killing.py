"""A command in a process of its own that kills itself at a chosen moment."""

import multiprocessing
import os
import signal
from importlib import import_module

MOMENTS = {
    "sampling": ("observe_r1.rollout.embedded", "EmbeddedEngine.generate", 7),
    "writing rollouts": ("observe_r1.run.folder", "json_line", 40),
    "writing metrics": ("observe_r1.run.trackers", "json_line", 5),
    "copying for a checkpoint": ("observe_r1.run.checkpoint", "save_file", 3),
    "saving a checkpoint": ("observe_r1.run.checkpoint", "_write_digests", 3),
    "removing the old": ("pathlib", "Path.unlink", 3),
    "evaluating": ("observe_r1.run.held_out", "mean_scores", 3),
    "exporting the best": ("observe_r1.policy.policy", "save_model", 1),
    "exported the best": ("observe_r1.policy.policy", "save_model", 1),
}
"""What is called then, and in which of its calls."""
_AFTER = (
    "copying for a checkpoint",
    "saving a checkpoint",
    "exported the best",
)  # the call is made, what comes next is not


def killed(moment: str, command: list[str]) -> bool:
    """Run `command` until `moment`; return whether it got there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["observe_r1.run.train"])  # imported once for all processes: it takes seconds
    process = context.Process(target=_run, args=(moment, command))
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _run(moment: str, command: list[str]) -> None:
    from observe_r1.cli.main import main

    module, path, count = MOMENTS[moment]
    owner, (*parents, name) = import_module(module), path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original, calls = getattr(owner, name), []

    def deadly(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            if moment in _AFTER:
                original(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, deadly)
    main(command)
