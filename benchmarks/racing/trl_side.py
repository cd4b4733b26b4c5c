"""The peer: TRL's `GRPOTrainer`, with scripted responses.

TRL builds its trainer, batches and optimizer; the calls here are those of its own training loop. What that loop does
first is done here, too: it turns gradient checkpointing on and lets accelerate prepare model and optimizer, without
which sampling would compute in float32. On the CPU, where Triton is missing, TRL computes logits and entropy of every
position, prompts included; `cut_head` spares it that.
"""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessor, LogitsProcessorList
from trl import GRPOConfig, GRPOTrainer

from observe_r1.config import TrainSettings
from observe_r1.model.image_tower import prepare_tower
from observe_r1.records import Example
from observe_r1.rewards import accuracy_reward, format_reward
from racing.work import Script


class TRLSide:
    """A `GRPOTrainer` on `examples`; with `whole` all responses of a step in one micro-batch, else a group each."""

    def __init__(self, settings: TrainSettings, examples: Sequence[Example], *, whole: bool = False) -> None:
        size = settings.rollout.group_size
        prompts = 1 if whole else settings.rollout.prompts
        model = AutoModelForImageTextToText.from_pretrained(settings.model.path, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(tuple(settings.model.freeze) or "\0"))
        self.model = model.to(settings.model.device)
        self.rows = [_row(example) for example in examples for _ in range(size)]
        self.trainer = GRPOTrainer(
            model=self.model,
            reward_funcs=[self._reward],
            args=_config(settings, per_device=size * settings.rollout.prompts // prompts, accumulation=prompts),
            train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in self.rows[::size]]),
            processing_class=AutoProcessor.from_pretrained(settings.model.path),
        )
        self.trainer.create_optimizer()
        if settings.model.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(self.trainer.args.gradient_checkpointing_kwargs)
        prepared, self.trainer.optimizer = self.trainer.accelerator.prepare(self.model, self.trainer.optimizer)
        self.trainer.model_wrapped = prepared
        self.trainer.current_gradient_accumulation_steps = prompts
        self.trainer.model.train()
        self._all_logprobs = self.trainer._get_per_token_logps_and_entropies
        self._sample = self.trainer._generate_and_score_completions
        self._generate = self.model.generate
        self.model.generate = self._scripted
        self.script = Script(torch.ones(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool))
        self.given: Sequence[Tensor] | None = None

    def follow(self, script: Script) -> None:
        """Make sampled responses as long and as correct as `script` says."""
        self.script, self.given = script, None

    def answer(self, responses: Sequence[Tensor]) -> None:
        """Make `sample` return these responses, a tensor (R,) a row, each with its end, and sample nothing."""
        self.given = responses
        self.script = Script(torch.ones(1, 1, dtype=torch.long), torch.ones(1, len(responses), dtype=torch.bool))

    def fuse_tower(self) -> None:
        """Make the image tower compute as ours does: all windows in one kernel, patches as one matrix product."""
        prepare_tower(self.model, torch.bfloat16 if self.trainer.args.bf16 else torch.float32, self.model.device)

    def sample(self) -> dict[str, Any]:
        """Preprocess, sample and score the script's responses to the first prompts."""
        return self._sample([row | {"image": Image.open(row["image"])} for row in self.rows])

    def generate(self) -> Tensor:
        """Repeat only the call of transformers' `generate` in the last `sample`."""
        self.model.eval()
        try:
            with torch.no_grad():
                return self.model.generate(**self.inputs)
        finally:
            self.model.train()

    def update(self, batch: dict[str, Any], *, cut_head: bool = False) -> dict[str, float]:
        """Take one optimizer step on what `sample` returned."""
        self.cut_head(cut_head)
        self.trainer._generate_and_score_completions = lambda rows: dict(batch)
        return self._optimizer_step()

    def step(self) -> dict[str, float]:
        """Sample, score and update."""
        self.trainer._generate_and_score_completions = lambda rows: self.sample()
        return self._optimizer_step()

    def cut_head(self, cut: bool) -> None:
        """Compute logits, log-probabilities and entropy of response positions only, or of all again."""
        self.trainer._get_per_token_logps_and_entropies = response_logprobs if cut else self._all_logprobs

    def logprobs(self, batch: dict[str, Any]) -> Tensor:
        """Return log-probabilities (P·G, longest response) of what `sample` returned; those of padding mean nothing."""
        trainer = self.trainer
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        images = {name: batch[name] for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")}
        keep = batch["completion_ids"].shape[1]
        with torch.no_grad():
            return trainer._get_per_token_logps_and_entropies(self.model, ids, mask, keep, **images)[0]

    def _optimizer_step(self) -> dict[str, float]:
        loss = torch.zeros(())
        for _ in range(self.trainer.current_gradient_accumulation_steps):
            loss = loss + self.trainer.training_step(self.trainer.model, [], None).cpu()
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.trainer.args.max_grad_norm)
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()
        return {"loss": float(loss), "grad_norm": float(norm)}

    def _scripted(self, **inputs: Any) -> Tensor:
        self.inputs = inputs
        if self.given is not None:
            padded = pad_sequence(
                list(self.given), batch_first=True, padding_value=self.trainer._tokenizer.pad_token_id
            )
            return torch.cat([inputs["input_ids"], padded.to(inputs["input_ids"])], dim=1)
        config = self.model.config
        end, placeholders = config.text_config.eos_token_id, (config.image_token_id, config.video_token_id)
        ends = ScriptedEnds(self.script.lengths.flatten(), end, placeholders)
        return self._generate(**inputs, logits_processor=LogitsProcessorList([ends]))

    def _reward(self, completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
        for completion, gold in zip(completions, answer, strict=True):
            text = completion[0]["content"]
            accuracy_reward(text, gold), format_reward(text)
        return self.script.correct.flatten().float().tolist()


class ScriptedEnds(LogitsProcessor):
    """Ends response i with its `lengths[i]`-th token and not before; never samples `suppressed_ids`."""

    def __init__(self, lengths: Tensor, end: int, suppressed_ids: tuple[int, ...]) -> None:
        self.lengths = lengths
        self.end = end
        self.suppressed_ids = suppressed_ids
        self.prompt: int | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """See `transformers.LogitsProcessor`."""
        if self.prompt is None:
            self.prompt = ids.shape[1]
        ending = (self.lengths == ids.shape[1] - self.prompt + 1).to(ids.device)
        scores[:, [self.end, *self.suppressed_ids]] = float("-inf")
        scores[ending] = float("-inf")
        scores[ending, self.end] = 0.0
        return scores


def response_logprobs(
    model: torch.nn.Module, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, **images: Any
) -> tuple[Tensor, Tensor, None]:
    """Replace TRL's function of the same arguments: the head runs on response positions only."""
    names = ("pixel_values", "image_grid_thw", "mm_token_type_ids")
    logits = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        logits_to_keep=logits_to_keep + 1,
        use_cache=False,
        **{name: images[name] for name in names},
    ).logits[:, :-1]
    logprobs = logits.float().log_softmax(-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(2, input_ids[:, -logits_to_keep:, None])[..., 0], entropy, None


def _row(example: Example) -> dict[str, Any]:
    (message,) = example.messages
    question = next(part["text"] for part in message["content"] if part["type"] == "text")
    return {
        "prompt": [{"role": "user", "content": question}],
        "image": example.images[0],
        "answer": example.answer,
    }


def _config(settings: TrainSettings, per_device: int, accumulation: int) -> GRPOConfig:
    optimizer, cuda = settings.optimizer, settings.model.device == "cuda"
    return GRPOConfig(
        output_dir=str(settings.run.output),
        use_cpu=not cuda,
        bf16=settings.model.dtype == "bfloat16",
        gradient_checkpointing=settings.model.gradient_checkpointing,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        num_generations=settings.rollout.group_size,
        max_completion_length=settings.rollout.max_new_tokens,
        beta=0.0,
        num_iterations=1,
        use_vllm=False,
        loss_type="grpo",
        shuffle_dataset=False,
        learning_rate=optimizer.lr,
        lr_scheduler_type="constant",
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        max_grad_norm=optimizer.max_grad_norm,
        optim="adamw_torch_fused",
        temperature=1.0,
        top_k=0,
        report_to="none",
        save_strategy="no",
        dataloader_pin_memory=cuda,
        disable_tqdm=True,
    )
