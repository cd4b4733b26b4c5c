"""The card of an exported model: what it was trained on and how, its curves, its evaluation, and how to run it."""

import json
import shlex
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from observe_r1.errors import UserError
from observe_r1.evaluation.figures import SUMMARY, figure_row
from observe_r1.report.pages import render_template
from observe_r1.report.run_records import read_run
from observe_r1.report.theme import LIGHT, Theme, styled
from observe_r1.run.folder import CONFIG, METRICS
from observe_r1.web import without_passwords

CURVES = "curves.png"
_INCHES, _DPI = (7.2, 2.9), 160
_FILES = (".json", ".jsonl", ".parquet")


def write_model_card(new: Path, run: Path, source: Path, *, name: str, adapter: bool, evaluation: Path | None) -> None:
    """Write `README.md` and `curves.png` beside an exported model.

    Args:
        new: The folder of the model.
        run: That of the training run.
        source: That of the model in the run.
        name: How others load the model: a name on the Hub, or the folder.
        adapter: Whether the folder holds LoRA adapters alone.
        evaluation: The folder of an evaluation whose first model is `source`.

    Raises:
        UserError: A file of the run or the evaluation is missing or damaged, or another model was evaluated.
    """
    recorded = recorded_settings(run)
    settings = _without_places(recorded)
    if not (run / METRICS).is_file():
        raise UserError(f"{run / METRICS}: No such file or directory: name the folder of a training run")
    metrics = read_run(run).metrics
    drawn = draw_curves(metrics)
    if drawn:
        (new / CURVES).write_bytes(drawn)
    base = _named(str(recorded["model"]["path"]))
    best = _loaded(run / "best.json", json.loads)["step"] if source.name == "best" else None
    card = render_template(
        "model_card.md.j2",
        metadata=yaml.safe_dump(_metadata(recorded), sort_keys=False),
        name=name,
        typed=shlex.quote(name),
        base=base,
        adapter=adapter,
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        data=str(settings["data"]["path"]),
        steps=metrics[-1]["step"] if metrics else 0,
        best=best,
        rollout=settings.get("rollout"),
        curves=CURVES if drawn else None,
        **_evaluated(evaluation, source),
    )
    (new / "README.md").write_text(card, encoding="utf-8")


def recorded_settings(run: Path) -> dict[str, Any]:
    """Return a run's settings by section, without passwords; raise `UserError` if its folder does not have them."""
    path = run / CONFIG
    settings = _loaded(path, yaml.safe_load)
    if not isinstance(settings, dict) or not all(isinstance(settings.get(name), dict) for name in ("model", "data")):
        raise UserError(f"{path}: not as a run wrote it: put it back")
    return without_passwords(settings)


def draw_curves(metrics: Sequence[dict[str, Any]]) -> bytes | None:
    """Return reward, accuracy and length against the step as a PNG; None if there is nothing to draw."""
    panels = {
        "share of responses": {"right": "reward/accuracy", "well-formed": "response/well_formed"},
        "tokens": {"mean length": "response/length"},
    }
    if not any("reward/accuracy" in row for row in metrics):
        return None
    with styled(LIGHT):
        figure = Figure(figsize=_INCHES, layout="constrained")
        for axes, (title, curves) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            _draw(axes, title, curves, metrics, LIGHT)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Any, title: str, curves: dict[str, str], metrics: Sequence[dict[str, Any]], theme: Theme) -> None:
    for (label, key), color in zip(curves.items(), (theme.first, theme.second), strict=False):
        found = [(row["step"], row[key]) for row in metrics if row.get(key) is not None]
        axes.plot(*zip(*found, strict=True), color=color, label=label)
    held_out = [(row["step"], row["evaluation/accuracy"]) for row in metrics if "evaluation/accuracy" in row]
    if held_out and title.startswith("share"):
        axes.plot(*zip(*held_out, strict=True), "o", color=theme.ink, label="right, held-out questions")
    if title.startswith("share"):
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    else:
        axes.set_ylim(0, 1.2 * axes.dataLim.y1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.legend(loc="best")


def _loaded(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name the folder of a training run") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not as a run wrote it: put it back") from error


def _without_places(value: Any) -> Any:
    """Return settings in which paths of this machine are names alone; keys may be files of rewards."""
    if isinstance(value, dict):
        return {_without_places(name): _without_places(each) for name, each in value.items()}
    if isinstance(value, str):
        return ",".join(Path(each).name if each.startswith(("/", "~", ".")) else each for each in value.split(","))
    return value


def _named(model: str) -> str:
    """Return what to call a model: its name on the Hub, or its folder, with the run before `model` and `best`."""
    path = Path(model)
    if _is_on_hub(model):
        return model
    return f"{path.parent.name}/{path.name}" if path.name in ("model", "best") else path.name


def _is_on_hub(name: str) -> bool:
    """Whether `name` is the Hub's, USER/NAME perhaps with a split, and not a folder's or a file's."""
    path = Path(name.partition("@")[0]).expanduser()
    return name.count("/") == 1 and name[0] not in "/~." and path.suffix not in _FILES and not path.exists()


def _metadata(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the card's header (hf.co/docs/hub/model-cards)."""
    header: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    if _is_on_hub(base := settings["model"]["path"]):
        header["base_model"] = base
    if data := [name.partition("@")[0] for name in settings["data"]["path"].split(",") if _is_on_hub(name)]:
        header["datasets"] = data
    return header | {"tags": ["observe-r1", "reinforcement-learning", "grpo", "reasoning"]}


def _evaluated(evaluation: Path | None, source: Path) -> dict[str, Any]:
    """Return the rows of the card's table: figures of this model, and its lead over the others; and what was asked."""
    if evaluation is None:
        return {"figures": [], "against": []}
    path = evaluation / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        own, leads = summary["models"][0], summary["differences"]
        if Path(own["model"]).resolve() != source.resolve():
            raise UserError(
                f"export.evaluation: {path} has the figures of {own['model']}, not of {source}: "
                f"run `observe-r1 evaluate {source} QUESTIONS`"
            )
        differences = [lead["differences"] for lead in leads]
        rows = [figure_row(name, [own["figures"]], differences) for name in own["figures"]]
        against = [_named(lead["against"]) for lead in leads]
        asked = _without_places(recorded_settings(evaluation))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"export.evaluation: {path} is not what `observe-r1 evaluate` writes: {error}") from error
    return {"figures": rows, "against": against, "count": own["questions"], "asked": asked}
