"""A run's parts put together, and what it writes down and resumes from.

train, sft   the two kinds of run: their parts, in the order in which they can fail
setup        what both set up alike
folder       the run folder: its files, its lock, and what a resumed run cuts back
recorder     what is written when: metrics, evaluations, checkpoints, the best model, the final model
trackers     where metrics go: metrics.jsonl, TensorBoard, Weights & Biases, Trackio, MLflow; groups to look at
held_out     evaluation on held-out questions
evaluate     several models, the same questions: every response kept, figures made from those
chat         one question after another, typed by somebody
checkpoint   a checkpoint's files: whole or absent, and found out when damaged
resume       what is in a checkpoint: the state of a run, and how it is restored
progress     the live view, on a terminal and in logs
panel        what the view shows
interrupt    Ctrl-C that saves
next_steps   what the last lines tell the user to do with the model
"""

from typing import NamedTuple


class Ended(NamedTuple):
    """How a run ended."""

    code: int
    """The command's exit code: 0, or 130 where Ctrl-C ended it early."""
    hints: str
    """What to do with its model next; empty if there is none."""
