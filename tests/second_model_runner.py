"""Run as a program: vLLM as GPUs run it, on a CPU: its second model runner, the Triton kernels interpreted, and
scheduling that begins a step before it has the last one's tokens.

    python second_model_runner.py MODEL FOLDER

Prints, as JSON, how many steps were under way when all responses had ended and new weights came, how far the
log-probabilities are then from the policy's, and which suppressed tokens it sampled.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}

import torch
from triton.backends import backends

# vLLM's CPU build looks for a backend of this name (vllm/triton_utils/importing.py); interpreted kernels need none.
backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: False))


def main(model: str, folder: Path) -> None:
    from PIL import Image
    from tiny import group_of
    from vllm.platforms.cpu import CpuPlatform

    from observe_r1.config import DataSettings, ModelSettings, OptimizerSettings
    from observe_r1.model.adapters import published_weights
    from observe_r1.model.encoding import encode_prompt
    from observe_r1.model.loading import load_model
    from observe_r1.policy.token_logprobs import LogprobModel
    from observe_r1.records import Example, Sampling
    from observe_r1.rollout.vllm import VLLMEngine

    torch.set_num_threads(1)
    configured = CpuPlatform.check_and_update_config.__func__

    def as_on_a_gpu(platform: type, config: Any) -> None:
        configured(platform, config)
        config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(as_on_a_gpu)
    vlm = load_model(ModelSettings(path=model, device="cpu"))
    engine = VLLMEngine(vlm, {"max_num_seqs": 8}, max_model_len=256, dtype=torch.float32)
    Image.linear_gradient("L").convert("RGB").resize((112, 56)).save(folder / "image.png")

    def prompt(number: int, images: int):
        parts = [{"type": "image"}] * images + [{"type": "text", "text": "how many red circles"}]
        paths = (str(folder / "image.png"),) * images
        example = Example("x", ({"role": "user", "content": parts},), paths, answer="1")
        return encode_prompt(example, vlm.processor, DataSettings(path="-", format_prompt="none"), number)

    with torch.no_grad():
        vlm.model.lm_head.weight[list(vlm.suppressed_ids)] *= 50
    prompts, sampling = [prompt(0, 0), prompt(1, 2)], Sampling(n=3, temperature=0.8, max_new_tokens=6, seed=5)
    engine.generate(prompts, sampling)
    ahead = len(engine._engine.engine_core.engine_core.batch_queue)
    engine.load_weights(published_weights(vlm.model))
    sampled = engine.generate(prompts, sampling)
    groups = [group_of(each, responses) for each, responses in zip(prompts, sampled, strict=True)]
    policy = torch.cat(LogprobModel(vlm, OptimizerSettings(), temperature=0.8).logprobs(groups))
    responses = [response for group in sampled for response in group]
    tokens = {int(token) for response in responses for token in response.ids}
    found = {
        "second": type(engine._engine.model_executor.driver_worker.worker.model_runner).__module__.split(".")[3]
        == "cpu"
        and engine._engine.vllm_config.use_v2_model_runner,
        "ahead": ahead,
        "responses": len(responses),
        "suppressed": sorted(tokens & {*vlm.suppressed_ids}),
        "difference": float((torch.cat([r.logprobs for r in responses]) - policy).abs().max()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    import observe_r1.model  # noqa: F401  (lets torchvision import)

    main(sys.argv[1], Path(sys.argv[2]))
