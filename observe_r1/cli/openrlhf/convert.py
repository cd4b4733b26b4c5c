"""`observe-r1 convert`: flags of OpenRLHF become a recipe.

Its help lists the flags, and so does docs/coming-from-openrlhf.md, which this file prints (`make docs`).
"""

import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from observe_r1.cli.commands import COMMANDS
from observe_r1.cli.help import help_width
from observe_r1.cli.openrlhf.flags import NAMES, WITHOUT_RECIPE
from observe_r1.cli.options import settings_of
from observe_r1.cli.recipe import default_settings, packaged_recipes, read_recipe
from observe_r1.cli.terminal import one_line, show
from observe_r1.cli.words import read_words
from observe_r1.config import Section, flat, nest, validate
from observe_r1.registry import resolve
from observe_r1.yaml_text import dump_yaml

_METHODS = {"train": ("observe_r1", "observe_r1_random", "grpo"), "sft": ()}
"""Packaged recipes that a converted one may extend."""

_SECRETS = ("use_wandb", "logger.wandb.key")
"""Flags whose value is a key."""


def run(argv: list[str]) -> int:
    """Print the recipe that the words ask for, or the help. Returns 0."""
    if not argv or "-h" in argv or "--help" in argv:
        show(_help())
        return 0
    verb = argv[0] if argv[0] in _METHODS else "train"
    show(convert(verb, argv[1:] if argv[0] == verb else argv))
    return 0


def convert(verb: str, argv: Sequence[str]) -> str:
    """Return a recipe with only those settings that differ from the recipe that it extends.

    It extends the recipe in `argv`; if there is none, the packaged one that leaves the fewest settings to write. What
    the user must know about a flag is printed to stderr.

    Args:
        verb: The command that the recipe is for: `train` or `sft`.
        argv: Flags of OpenRLHF, options, and at most one recipe.

    Raises:
        UserError: as for the command itself.
    """
    kind: type[Section] = resolve(COMMANDS[verb].settings)
    given = read_words(COMMANDS[verb], kind, argv)
    settings = settings_of(kind, given, COMMANDS[verb])
    bases = [given.recipe] if given.recipe else [None, *_METHODS[verb]]
    changes = {base: _changes(settings, base) for base in bases}
    base = min(bases, key=lambda base: len(changes[base]))
    head: dict[str, Any] = {"extends": _place(base)} if base else {}
    comment = f"# What differs from {base or 'the defaults'}; run it with: observe-r1 {verb} RECIPE.yaml\n"
    return comment + dump_yaml(head | nest(changes[base]))


def _changes(settings: Section, base: str | None) -> dict[str, Any]:
    """Return the settings that differ from those of `base`, or from the defaults, by dotted name."""
    kind, wanted = type(settings), flat(settings.model_dump(mode="json"))
    stated = default_settings(kind) | (read_recipe(base, kind) if base else {})
    required = {name: value for name, value in wanted.items() if name not in stated}
    there = flat(validate(kind, nest(stated | required), base or "defaults").model_dump(mode="json"))
    return {name: value for name, value in wanted.items() if name in required or value != there[name]}


def _place(recipe: str) -> str:
    """Return a recipe as any other may extend it, wherever that is written."""
    return recipe if recipe in packaged_recipes() else str(Path(recipe).absolute())


def convert_hint(verb: str, argv: Sequence[str]) -> str:
    """Return the line that says which command turns these words into a recipe, without keys and passwords."""
    words: list[str] = []
    follows = False
    for word in argv:
        option, equals, _ = word.partition("=")
        is_secret = option.removeprefix("--").replace("-", "_") in _SECRETS
        words.append("KEY" if follows else f"{option}=KEY" if is_secret and equals else word)
        follows = is_secret and not equals
    called = "convert" if verb == "train" else f"convert {verb}"
    return one_line(f"flags of OpenRLHF; as a recipe: observe-r1 {called} {shlex.join(words)} > recipe.yaml")


def _help() -> str:
    width = help_width()
    meanings: dict[str, list[str]] = {}
    for names, flag in NAMES.items():
        meaning = ": ".join(filter(None, (", ".join(flag.sets), flag.remark)))
        meanings.setdefault(meaning, []).extend(f"--{name}" for name in names.split())
    rows = [
        textwrap.fill(f"{', '.join(names)}  →  {meaning}", width, initial_indent="  ", subsequent_indent=" " * 6)
        for meaning, names in meanings.items()
    ]
    paragraphs = (
        "Turn flags of the original release or of OpenRLHF (to 0.11) into a recipe.",
        "Prints a recipe with only what differs from RECIPE, or from the packaged recipe that is closest. Standard"
        " error says which flags have no effect, and why. Flags that would change the result and are not supported are"
        " errors. Settings by name, such as --run.seed 3, override the flags. `sft` takes only flags that it has"
        " settings for.",
        f"Without RECIPE, and with --pretrain or --prompt_data, the original's defaults hold: {WITHOUT_RECIPE}.",
    )
    return (
        "\n\n".join(
            [
                "Usage: observe-r1 convert [train|sft] [RECIPE] FLAG... > RECIPE.yaml",
                *(textwrap.fill(paragraph, width) for paragraph in paragraphs),
                "Examples:\n"
                "  observe-r1 convert --pretrain ~/Qwen2.5-VL-3B --prompt_data ladder.jsonl --use_bonus > r1.yaml\n"
                "  observe-r1 convert sft --pretrain ~/Qwen2.5-VL-3B --dataset a.jsonl,b.jsonl > sft.yaml",
                "\n".join(["Flags:", *rows]),
            ]
        )
        + "\n"
    )


_GUIDE = """\
# Coming from OpenRLHF, LMM-R1 or the first Observe-R1 release

`observe-r1 convert` turns the flags of their `train_ppo_ray` (of OpenRLHF's up to 0.11, with its dotted names) into a
recipe; `observe-r1 convert sft` does the same for `train_sft`. Paste what followed the command, with your own paths:

```bash
observe-r1 convert --pretrain Qwen2.5-VL-3B-Instruct --prompt_data neuraladder.jsonl --save_path save/observe-r1 \\
  --n_samples_per_prompt 8 --rollout_batch_size 128 --use_bonus --use_dyna_weight --shuffle > r1.yaml
observe-r1 train r1.yaml
```

The recipe holds only what differs from the closest packaged recipe, or from one that you name: `observe-r1
convert grpo …`. `observe-r1 train` and `observe-r1 sft` take the same flags directly: they print the `convert` command,
then run.

Flags that ask for several GPUs place the run on them ([scaling.md](scaling.md)): on one machine Ray starts and stops by
itself, on several nodes the run joins the Ray cluster that is there. With one GPU in all, everything is one process. A
line says what a flag changes, or why it no longer matters.

- Without a recipe, and with the model or the data given by a flag, the original's defaults hold: {without_recipe}.
- With a recipe (`observe-r1 train observe_r1 --temperature 0.9`), or with `--model.path` and `--data.path`, flags
  override it, and every other setting keeps its value.
- A setting given by its own name (`--objective.bonus 0.3`) overrides the flags, and a line says so. Two values for the
  model, the data or the output folder are an error.
- A flag that would change the result and is not supported is an error that says what to do instead. For a flag that no
  longer matters, a line says that it has no effect.
- OpenRLHF's dotted names that are settings here mean the same in both: `--rollout.temperature`, `--rollout.top_p`,
  `--rollout.max_new_tokens`, `--data.max_samples`, `--data.input_key`, `--data.label_key`.

| flag | becomes | how |
|---|---|---|
{rows}

## Deliberate differences

- `--shuffle` *keeps* the file's order in the original, and therefore here; `data.order` is named for what it does.
- Batch sizes: `--train_batch_size` counts responses. Here `optimizer.minibatch` counts groups, and a minibatch holds
  whole groups.
- The loss is a mean over all response tokens of a minibatch, not a mean of the means of micro-batches of two.
- A group in which every response is wrong gets no bonus. Correctness is separate from the reward, so neither the bonus
  nor a reward of your own changes the pass rate.
- A gold answer that cannot be verified stops the run and names the row; in the original it rewarded every response.
- Bonus and dynamic weight work with every estimator, not with `group_norm` alone.
"""


def guide() -> str:
    """Return the text of docs/coming-from-openrlhf.md."""
    rows = [
        f"| {'<br>'.join(f'`--{name}`' for name in names.split())} "
        f"| {'<br>'.join(f'`{setting}`' for setting in flag.sets) or '–'} "
        f"| {flag.remark.replace('|', chr(92) + '|') or 'unchanged'} |"
        for names, flag in NAMES.items()
    ]
    return _GUIDE.format(without_recipe=WITHOUT_RECIPE, rows="\n".join(rows))


if __name__ == "__main__":
    sys.stdout.write(guide())
