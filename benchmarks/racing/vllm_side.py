"""vLLM as the embedded engine's peer in sampling: its CPU build in this process, with prefix caching."""

from collections.abc import Sequence
from typing import Any

import torch

from observe_r1.config import TrainSettings
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.records import Prompt
from observe_r1.rollout.engine import sampling_of
from observe_r1.rollout.vllm import VLLMEngine
from racing.work import Script


class VLLMSide:
    """Samples scripted lengths with the weights in `settings.model.path`, always for the same prompts."""

    def __init__(self, vlm: VisionLanguageModel, settings: TrainSettings, prompts: Sequence[Prompt]) -> None:
        self.prompts = prompts
        self.sampling = sampling_of(settings.rollout, n=1, seed=0)
        self.ours = VLLMEngine.from_settings(vlm, settings.rollout, settings.data, torch.float32)
        self.engine = self.ours._engine

    def follow(self, script: Script) -> None:
        """Make responses as long as `script` says."""
        self.script = script

    def sample(self) -> list[Any]:
        """Sample the script's responses to the first prompts, a request each, with empty caches."""
        self.engine.reset_prefix_cache()
        self.engine.reset_encoder_cache()
        for index, lengths in enumerate(self.script.lengths.tolist()):
            for number, length in enumerate(lengths):
                parameters = self.ours.parameters(self.prompts[index], self.sampling)
                parameters.max_tokens, parameters.ignore_eos, parameters.stop_token_ids = length, True, []
                self.engine.add_request(f"{index}/{number}", self.ours.engine_input(self.prompts[index]), parameters)
        outputs = []
        while self.engine.has_unfinished_requests():
            outputs += [output for output in self.engine.step() if output.finished]
        return outputs
