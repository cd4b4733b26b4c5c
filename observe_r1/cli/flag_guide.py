"""`docs/coming-from-openrlhf.md`, written from the table of the original's flags: `make docs`."""

import sys

from observe_r1.cli.flag_kinds import Flag
from observe_r1.cli.original_flags import NAMES, WITHOUT_RECIPE

_GUIDE = """\
# Coming from OpenRLHF, LMM-R1 or the first Observe-R1 release

`observe-r1 train` takes every flag of their `train_ppo_ray`, and of OpenRLHF's up to 0.11 with its dotted names;
`observe-r1 sft` those of `train_sft` that it has settings for. Paste what stood after the command, with your own paths:

    observe-r1 train --pretrain Qwen2.5-VL-3B-Instruct --prompt_data neuraladder.jsonl --save_path save/observe-r1 \\
       --n_samples_per_prompt 8 --rollout_batch_size 128 --train_batch_size 64 --use_bonus --use_dyna_weight --shuffle …

Everything after `ray job submit … --` is one process here: no `ray start`, no reward process, no vLLM to place. What a
flag changes, or why it no longer matters, is said in one line when the run starts.

- Alone, with model or data given by their names there, the flags mean what they meant there: {without_recipe}.
- Beside a recipe (`observe-r1 train observe_r1 --temperature 0.9`), or beside `--model.path` and `--data.path`, they
  override it, and what no flag names keeps its value from the recipe, or its default.
- A setting given by its own name (`--objective.bonus 0.3`) outranks them, and that is said. Two values for a model,
  data or an output folder are an error.
- What would change the result and cannot be had is refused, with what to do instead; what no longer matters is said to
  have no effect. Flags that ask for several GPUs say that one is used.
- OpenRLHF's dotted names that are settings here mean the same in both: `--rollout.temperature`, `--rollout.top_p`,
  `--rollout.max_new_tokens`, `--data.max_samples`, `--data.input_key`, `--data.label_key`.
- The run's whole configuration is written to `config.yaml` in its folder, in our names: run that from then on.

| flag | becomes | how |
|---|---|---|
{rows}

## What is different on purpose

- `--shuffle` *keeps* the file's order there and therefore here; `data.order` is named for what it does.
- Batch sizes: `--train_batch_size` counts responses there. Here `optimizer.minibatch` counts groups, and a minibatch
  holds whole ones.
- The loss is a mean over all response tokens of a minibatch, not a mean of the means of micro-batches of two.
- A group in which every response is wrong gets no bonus. Correctness is kept apart from the reward, so no size of the
  bonus and no reward of your own confuses the pass rate.
- A gold answer that cannot be verified stops the run and names the row, where it used to reward every response.
- Bonus and dynamic weight act under every estimator, not under `group_norm` alone.
"""


def guide() -> str:
    """Return the page's text."""
    rows = "\n".join(f"| {_called(names)} | {_becomes(flag)} | {_how(flag)} |" for names, flag in NAMES.items())
    return _GUIDE.format(without_recipe=WITHOUT_RECIPE, rows=rows)


def _called(names: str) -> str:
    return "<br>".join(f"`--{name}`" for name in names.split())


def _becomes(flag: Flag) -> str:
    return "<br>".join(f"`{setting}`" for setting in flag.sets) or "–"


def _how(flag: Flag) -> str:
    return flag.remark.replace("|", "\\|") or "as it is"


if __name__ == "__main__":
    sys.stdout.write(guide())
