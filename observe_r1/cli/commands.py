"""Every command of `observe-r1`, one record each: what it is called, what it says of itself, what it takes and runs.

Nothing here imports a room: `module:attribute` names are resolved when a command needs them, so help is quick.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Command:
    """One command. A group (`ladder`) has no `run`; its commands are those whose names begin with its own."""

    name: str
    """As typed after `observe-r1`: `train`, `ladder build`."""
    summary: str
    """What it does, in one line: for the list of commands and the top of its help."""
    run: str = ""
    """`module:function`: `(settings, view) -> (exit code, hints to print last)` or, without `settings`, `(argv:
    list[str]) -> exit code`."""
    settings: str = ""
    """The class of its settings, a `Section`. Without it the command reads its own options."""
    sections: tuple[str, ...] = ()
    """The sections of these settings that it uses; all of them if none is named."""
    takes: str = "[RECIPE]"
    """What precedes the options, in its help."""
    words: Literal["recipe", "file", "sources", "folder", "model", "run", "push", "reported", "compared"] = "recipe"
    """What the words before the options mean: one recipe, a file of data, a ladder's sources, a ladder's folder,
    a model and, if the command reads any, files of data, a run's folder, a ladder's folder and a name on the Hub,
    the folders that a page shows, the folders of runs that are compared."""
    about: str = ""
    """What the help says after the summary; `{recipes}` is filled in."""
    examples: tuple[str, ...] = ()
    short: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Short names, and the settings that each of them sets."""
    starts: bool = True
    """Whether it does what its settings say, and so needs the packages for it; a plan only reckons with them."""
    openrlhf: bool = False
    """Whether it also takes the flags of the original release and of OpenRLHF."""

    @property
    def sentence(self) -> str:
        """The summary as a sentence."""
        return f"{self.summary[0].upper()}{self.summary[1:]}."


_RECIPE = (
    "A recipe is a YAML file of the settings below, by section; `extends: other.yaml` in it builds on another. Packaged"
    " recipes go by their names, in any folder: {recipes}. Options override the recipe. Flags of the original release"
    " and of OpenRLHF work too; `observe-r1 convert --help` lists them."
)
_BUILD = {"model": ("model.path",), "output": ("run.output",), "anew": ("run.anew",), "skip_bad": ("data.skip_bad",)}
_MEASURE = {"model": ("model.path",), "anew": ("run.anew",), "skip_bad": ("data.skip_bad",)}
_LADDER = "observe_r1.config:LadderSettings"

_COMMANDS = (
    Command(
        "train",
        "train a vision-language model by reinforcement learning",
        run="observe_r1.run.train:train_model",
        settings="observe_r1.config:TrainSettings",
        about=_RECIPE,
        examples=(
            "observe-r1 train observe_r1 --model.path ~/Qwen2.5-VL-3B --data.path ladder.jsonl",
            "observe-r1 train grpo --rollout.group_size 16 --objective.clip_high=0.28",
        ),
        openrlhf=True,
    ),
    Command(
        "sft",
        "warm-start a model on demonstrations: chats that end with an assistant turn",
        run="observe_r1.run.sft:fine_tune_model",
        settings="observe_r1.config:SFTSettings",
        about=_RECIPE,
        examples=(
            "observe-r1 sft tiny/sft --run.steps 300",
            "observe-r1 sft --model.path ~/Qwen2.5-VL-3B --data.path a.jsonl,b.jsonl --data.probs 0.3,0.7",
        ),
        openrlhf=True,
    ),
    Command(
        "convert",
        "turn flags of the original release or of OpenRLHF into a recipe",
        run="observe_r1.cli.openrlhf.convert:run",
    ),
    Command(
        "data",
        "check a dataset before a run, and show how an answer is judged",
        examples=(
            "observe-r1 data check questions.jsonl",
            "observe-r1 data judge --gold '\\frac{1}{2}' --answer 0.5",
        ),
    ),
    Command(
        "data check",
        "check a dataset: read every row, open every image, verify every gold answer",
        run="observe_r1.cli.data_check:check_data",
        settings="observe_r1.config:DataCheckSettings",
        takes="FILE...",
        words="file",
        about=(
            "A line for each bad row says all that is wrong with it: a question in an unknown layout, missing or"
            " broken images, a gold answer that no response can be compared with, a duplicate id. Problems that more"
            " than three rows share are one line. Rows that end with an assistant turn (demonstrations) need no gold"
            " answer. Counts, lengths and image sizes follow; with --model.path also lengths in tokens. Exit code 0:"
            " every row is good; 2: some are not."
        ),
        examples=(
            "observe-r1 data check questions.jsonl",
            "observe-r1 data check train.parquet --data.label_key reward_model.ground_truth",
            "observe-r1 data check a.jsonl b.jsonl --model.path Qwen/Qwen2.5-VL-3B-Instruct",
        ),
    ),
    Command(
        "data judge",
        "show how the accuracy reward reads a gold answer and an answer, and whether they match",
        run="observe_r1.cli.lookup:judge",
    ),
    Command(
        "ladder",
        "order questions from easy to hard for a model: build, review, refresh, push",
        about="NeuraLadder orders raw visual questions from easy to hard for the model that will learn from them.",
        examples=(
            "observe-r1 ladder build questions.jsonl geometry3k:hiyouga/geometry3k --model MODEL --output DIR",
            "observe-r1 train observe_r1 --model.path MODEL --data.path DIR",
        ),
    ),
    Command(
        "ladder build",
        "make a dataset ordered from easy to hard for one model: screen, measure, arrange",
        run="observe_r1.cli.ladder:build",
        settings=_LADDER,
        takes="SOURCE... --model MODEL --output DIR",
        words="sources",
        about=(
            "Sources are files in message format (JSON, JSONL, Parquet) and public datasets as NAME:PATH_OR_HUB_NAME,"
            " each alone or as --source SOURCE. The ladder is DIR/ladder.jsonl; `observe-r1 train observe_r1"
            " --model.path MODEL --data.path DIR` trains on it. After Ctrl-C or a crash the same command resumes, as"
            " does `observe-r1 ladder build DIR`. A recipe (YAML of the settings below, by section) may be named among"
            " the sources."
        ),
        examples=(
            "observe-r1 ladder build questions.jsonl --model Qwen/Qwen2.5-VL-3B-Instruct --output ladder",
            "observe-r1 ladder build geometry3k:hiyouga/geometry3k mmk12:FanqingM/MMK12 --model M --output ladder"
            " --arrange.size 20000 --arrange.shares published",
            "observe-r1 ladder build a.parquet --model M --output ladder --screen.models SMALL,SMALLER"
            " --rollout.engine vllm",
        ),
        short=_BUILD | {"seed": ("screen.seed", "rollout.seed", "arrange.seed")},
    ),
    Command(
        "ladder screen",
        "drop questions that are not worth measuring: unverifiable, repeated, in a benchmark, too simple",
        run="observe_r1.cli.ladder:screen",
        settings=_LADDER,
        sections=("data", "screen", "model", "rollout", "cluster", "run"),
        takes="SOURCE... --output DIR",
        words="sources",
        about=(
            "The first stage of a build; `observe-r1 ladder measure DIR` is the next. Questions that pass are in"
            " DIR/screened.jsonl; DIR/dropped.jsonl says why each of the others was dropped."
        ),
        examples=(
            "observe-r1 ladder screen a.jsonl b.jsonl --output ladder --screen.benchmarks mathvista:AI4Math/MathVista",
        ),
        short=_BUILD | {"seed": ("screen.seed",)},
    ),
    Command(
        "ladder measure",
        "sample responses to every screened question: its difficulty is the share of wrong ones",
        run="observe_r1.cli.ladder:measure",
        settings=_LADDER,
        sections=("data", "model", "rollout", "cluster", "run"),
        takes="DIR --model MODEL",
        words="folder",
        about=(
            "The second stage of a build, on the questions that `ladder screen` kept; `observe-r1 ladder arrange DIR`"
            " is the next. Figures are in DIR/measured.jsonl, every response in DIR/responses.jsonl. After Ctrl-C or a"
            " crash the same command resumes."
        ),
        examples=("observe-r1 ladder measure ladder --model Qwen/Qwen2.5-VL-3B-Instruct --rollout.group_size 16",),
        short=_MEASURE | {"seed": ("rollout.seed",)},
    ),
    Command(
        "ladder arrange",
        "order measured questions from easy to hard, mix neighbouring levels, draw a size and shares",
        run="observe_r1.cli.ladder:arrange",
        settings=_LADDER,
        sections=("arrange", "run"),
        takes="DIR",
        words="folder",
        about=(
            "The last stage of a build. Run it again at any time: settings that are not given keep their values, and"
            " the decisions in DIR/review.yaml are applied. The same files give the same ladder, byte by byte."
        ),
        examples=("observe-r1 ladder arrange ladder --arrange.size 5000 --seed 1",),
        short={"anew": ("run.anew",), "seed": ("arrange.seed",)},
    ),
    Command(
        "ladder review",
        "show the questions that no response solved, and write a file for your decisions",
        run="observe_r1.cli.ladder:review",
        settings=_LADDER,
        sections=("run",),
        takes="DIR",
        words="folder",
        about="Look at DIR/review.html, decide in DIR/review.yaml, then run `observe-r1 ladder arrange DIR`.",
        examples=("observe-r1 ladder review ladder",),
        short={"anew": ("run.anew",)},
    ),
    Command(
        "ladder refresh",
        "measure a ladder again with a newer model, and show how its questions moved between levels",
        run="observe_r1.cli.ladder:refresh",
        settings=_LADDER,
        sections=("data", "model", "rollout", "cluster", "run"),
        takes="DIR --model CHECKPOINT",
        words="folder",
        about=(
            "The new figures are in DIR/refreshed-1 (then -2, …). The ladder stays as it is until `observe-r1 ladder"
            " arrange DIR --arrange.measured refreshed-1`."
        ),
        examples=("observe-r1 ladder refresh ladder --model runs/observe_r1/model",),
        short=_MEASURE | {"seed": ("rollout.seed",)},
    ),
    Command(
        "ladder push",
        "publish a ladder as a dataset on the Hugging Face Hub, private at first",
        run="observe_r1.cli.ladder_push:run",
        settings="observe_r1.config:PushSettings",
        takes="DIR [USER/NAME]",
        words="push",
        about=(
            "The dataset is Parquet with the images inside, the ladder's order, difficulties and card."
            " Training (`--data.path USER/NAME`) and `datasets.load_dataset` read it. `hf auth login` or HF_TOKEN signs"
            " in. Look at the licences of your sources on the card before you make it public."
        ),
        examples=(
            "observe-r1 ladder push ladder USER/my-ladder",
            "observe-r1 ladder push ladder --to folder",
        ),
        short={"to": ("push.to",), "private": ("push.private",)},
    ),
    Command(
        "ladder sources",
        "list the public datasets that can be read as they are",
        run="observe_r1.cli.lookup:sources",
    ),
    Command(
        "evaluate",
        "answer held-out questions with one model or several, and compare them",
        run="observe_r1.cli.evaluate:run",
        settings="observe_r1.config:EvaluateSettings",
        takes="MODEL DATA...",
        words="model",
        about=(
            "Each model answers every question once greedily and, with --samples K, K times at rollout.temperature:"
            " accuracy, avg@K, pass@K and maj@K with 95 % intervals, by difficulty, source and kind of answer. Models"
            " given with --against answer the same questions, and the differences are taken question by question."
            " Every response is kept in --output. After Ctrl-C or a crash the same command resumes. --benchmarks asks"
            " the tasks of lmms-eval instead, with the base model beside the trained one."
        ),
        examples=(
            "observe-r1 evaluate runs/observe_r1/model held_out.jsonl --against Qwen/Qwen2.5-VL-3B-Instruct",
            "observe-r1 evaluate runs/observe_r1/model mathvista.parquet --samples 8 --rollout.engine vllm",
            "observe-r1 evaluate runs/observe_r1/model --benchmarks mathvista,mmmu --rollout.engine vllm",
            "observe-r1 evaluate my-model held_out.jsonl --server http://localhost:8000/v1",
        ),
        short={
            "against": ("model.against",),
            "benchmarks": ("benchmarks.names",),
            "samples": ("rollout.samples",),
            "seed": ("rollout.seed",),
            "output": ("run.output",),
            "json": ("run.json_summary",),
            "skip_bad": ("data.skip_bad",),
            "server": ("server.url",),
            "server_model": ("server.model",),
        },
    ),
    Command(
        "chat",
        "ask a model questions about images, and watch it observe, think and answer",
        run="observe_r1.cli.chat:run",
        settings="observe_r1.config:ChatSettings",
        takes="MODEL",
        words="model",
        about=(
            "Each question stands alone, as in training. What the model observes, thinks and answers has a colour each."
            " With --ask the command answers that one question and ends; with --web a page on this machine asks."
        ),
        examples=(
            "observe-r1 chat runs/observe_r1/model --image diagram.png",
            "observe-r1 chat Qwen/Qwen2.5-VL-3B-Instruct --image a.png,b.png --ask 'What has changed?'",
            "observe-r1 chat runs/observe_r1/model --web",
        ),
        short={
            "ask": ("chat.ask",),
            "image": ("chat.image",),
            "temperature": ("chat.temperature",),
            "seed": ("chat.seed",),
            "web": ("chat.web",),
            "port": ("chat.port",),
        },
    ),
    Command(
        "export",
        "hand a run's model over: a Hugging Face checkpoint with its card, and on the Hub",
        run="observe_r1.cli.export:run",
        settings="observe_r1.config:ExportSettings",
        takes="RUN --to DIR",
        words="run",
        about=(
            "The folder loads in transformers and vLLM: weights in bfloat16, processor, generation settings, and a chat"
            " template that asks for the response format. Its card has the settings, the curves and, with --evaluation,"
            " the figures of `observe-r1 evaluate`."
        ),
        examples=(
            "observe-r1 export runs/observe_r1 --to my-model --evaluation runs/evaluation",
            "observe-r1 export runs/observe_r1 --to my-model --push USER/my-model",
        ),
        short={
            name: (f"export.{name}",) for name in ("to", "best", "weights", "dtype", "evaluation", "push", "private")
        },
    ),
    Command(
        "report",
        "show runs, ladders and evaluations as one page: curves, the ladder being climbed, responses",
        run="observe_r1.cli.report:run",
        settings="observe_r1.config:ReportSettings",
        takes="FOLDER... [--to FILE | --serve]",
        words="reported",
        about=(
            "The page is one file that needs nothing else and opens without a network: headline figures, curves of all"
            " runs in the same charts, held-out accuracy by difficulty before and after, the questions of each step"
            " coloured by how many responses are right, and a gallery of responses to search and filter."
        ),
        examples=(
            "observe-r1 report runs/observe_r1",
            "observe-r1 report runs/observe_r1 runs/grpo ladder runs/evaluation --to report.html",
            "observe-r1 report runs/observe_r1 --serve",
        ),
        short={name: (f"report.{name}",) for name in ("to", "serve", "port")},
    ),
    Command(
        "compare",
        "compare runs: settings that differ, curves, and answers to the same held-out questions",
        run="observe_r1.cli.compare:run",
        settings="observe_r1.config:CompareSettings",
        takes="RUN RUN...",
        words="compared",
        about=(
            "Two to six folders of runs, live or ended. Answers are those of each run's last evaluation, to the"
            " questions that all runs were asked; by how much the first run is above each of the others is taken"
            " question by question, with a 95 % interval."
        ),
        examples=(
            "observe-r1 compare runs/observe_r1 runs/grpo",
            "observe-r1 compare runs/observe_r1 runs/grpo --to comparison.html",
        ),
        short={"to": ("compare.to",), "json": ("compare.json_summary",)},
    ),
    Command(
        "serve-rewards",
        "serve a reward file or a built-in reward over HTTP, as the original does",
        run="observe_r1.cli.serve_rewards:run",
    ),
    Command(
        "plan",
        "reckon a run's memory, time and GPU-hours before anything is started",
        run="observe_r1.cli.plan:run",
        settings="observe_r1.config:PlanSettings",
        about=(
            "Takes what `observe-r1 train` takes, and `plan`: the GPU, mean lengths, and shares of its peaks that are"
            " reached. No GPU is needed and no weights are read; config.json alone gives the model's sizes, and"
            " Qwen/Qwen2.5-VL-{{3B,7B,32B,72B}}-Instruct need no file. Everything is computed, nothing measured."
            " Exit code 0: it fits; 2: it does not. Recipes: {recipes}."
        ),
        examples=(
            "observe-r1 plan observe_r1 --cluster.gpus 8 --gpu h100 --rollout.engine vllm",
            "observe-r1 plan observe_r1 --cluster.gpus 32 --gpu h200 --model.path Qwen/Qwen2.5-VL-32B-Instruct",
            "observe-r1 plan observe_r1 --cluster.gpus 8 --picture plan.png",
            "observe-r1 plan observe_r1 --cluster.gpus 8 --plan.response_tokens 1200 --json",
        ),
        short={"gpu": ("plan.gpu",), "json": ("plan.json_summary",), "picture": ("plan.picture",)},
        starts=False,
    ),
    Command(
        "demo",
        "watch a tiny model learn to look first, then reason; no GPU, no downloads",
        run="observe_r1.demo.steps:run",
    ),
)

COMMANDS = {command.name: command for command in _COMMANDS}
"""Every command and group by its name."""
