"""vLLM as the sampler, for real: against the policy, against the embedded engine, before and after new weights."""

import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import group_of
from torch import distributed
from torch.multiprocessing import start_processes

from observe_r1.cli.main import main
from observe_r1.cluster.sharded_policy import ShardedPolicy
from observe_r1.config import ClusterSettings, DataSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from observe_r1.demo.tiny_model import Sizes, make_tiny_model
from observe_r1.model.adapters import published_weights
from observe_r1.model.encoding import _images, encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.records import Example, Sampling
from observe_r1.rollout.embedded import EmbeddedEngine
from observe_r1.rollout.engine import RefusedPromptError
from observe_r1.rollout.vllm import VLLMEngine

DATA = DataSettings(path="-", format_prompt="none")
MAX_PIXELS = 40 * 28 * 28


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    """A wide random model; vLLM's CPU attention wants heads of 32."""
    folder = make_tiny_model(tmp_path_factory.mktemp("model") / "m", sizes=Sizes(heads=3, kv_heads=1), scale=2.0)
    return load_model(ModelSettings(path=str(folder), device="cpu", max_pixels=MAX_PIXELS))


@pytest.fixture(scope="module")
def engine(vlm):
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("observe_r1.rollout.vllm_start._log.warning", said.append)
        engine = VLLMEngine(vlm, {"seed": 1, "enable_sleep_mode": True}, max_model_len=512, dtype=torch.float32)
    assert said == ["rollout.vllm: enable_sleep_mode is ignored: there is no GPU whose memory it could give back"]
    engine.load_weights(published_weights(vlm.model))
    return engine


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Text alone, one image, two images, an image over `max_pixels`, and more tokens than the cache's blocks hold."""
    folder = tmp_path_factory.mktemp("images")
    gradient = Image.linear_gradient("L").convert("RGB")
    for name, size in {"small": (84, 84), "wide": (112, 56), "large": (400, 300)}.items():
        gradient.resize(size).rotate(size[1]).save(folder / f"{name}.png")

    def question(*names, times=1):
        parts = [{"type": "image"}] * len(names) + [{"type": "text", "text": "how many red circles " * times}]
        images = tuple(str(folder / f"{name}.png") for name in names)
        return Example("x", ({"role": "user", "content": parts},), images, answer="1")

    return [question(), question("small"), question("small", "wide"), question("large"), question("wide", times=80)]


@pytest.fixture(scope="module")
def prompts(vlm, questions):
    return [encode_prompt(question, vlm.processor, DATA, number) for number, question in enumerate(questions)]


def scored(vlm, prompts, completions, temperature):
    """The policy's log-probabilities of sampled responses, one (T,) tensor a prompt."""
    groups = [group_of(p, c) for p, c in zip(prompts, completions, strict=True)]
    return LogprobModel(vlm, OptimizerSettings(), temperature=temperature).logprobs(groups)


def sample(vlm, engine, prompts, temperature):
    """What vLLM and the embedded engine sample."""
    sampling = Sampling(n=3, temperature=temperature, max_new_tokens=12, seed=5)
    return engine.generate(prompts, sampling), EmbeddedEngine(vlm).generate(prompts, sampling)


def check_agreement(vlm, engine, prompts, temperature=0.8):
    """Log-probabilities of what either engine sampled are the policy's; return what vLLM sampled."""
    sampled = sample(vlm, engine, prompts, temperature)
    for completions in sampled:
        policy = scored(vlm, prompts, completions, temperature)
        for group, expected in zip(completions, policy, strict=True):
            torch.testing.assert_close(torch.cat([c.logprobs for c in group]), expected, atol=1e-4, rtol=0)
    return sampled[0]


def test_new_weights_replace_the_old_and_what_they_computed(vlm, engine, prompts):
    """The image tower's weights change too: features or prefixes kept from before would show."""
    before = check_agreement(vlm, engine, prompts)
    old = {name: weight.clone() for name, weight in vlm.model.state_dict().items()}
    with torch.no_grad():
        for parameter in vlm.model.parameters():
            parameter.add_(0.2 * parameter.std(correction=0) * torch.randn_like(parameter))
    engine.load_weights(published_weights(vlm.model))
    engine.version = 4
    after = check_agreement(vlm, engine, prompts)
    assert all(c.version == 4 for group in after for c in group)
    assert [c.ids.tolist() for g in before for c in g] != [c.ids.tolist() for g in after for c in g]
    vlm.model.load_state_dict(old)
    engine.load_weights(old.items())
    again = check_agreement(vlm, engine, prompts)
    assert [c.ids.tolist() for g in before for c in g] == [c.ids.tolist() for g in again for c in g]


def _on_two_ranks(rank, folder, model, groups, temperature):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", world_size=2, rank=rank)
    policy = ShardedPolicy(
        load_model(model), OptimizerSettings(), ObjectiveSettings(), ClusterSettings(gpus=2), temperature=temperature
    )
    torch.save(policy.logprobs(groups), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_both_engines_and_a_policy_on_two_ranks_agree(vlm, engine, prompts, tmp_path):
    temperature = 0.8
    sampled = sample(vlm, engine, prompts, temperature)
    groups = [group_of(p, c) for groups in sampled for p, c in zip(prompts, groups, strict=True)]
    model = ModelSettings(path=vlm.model.config._name_or_path, device="cpu", max_pixels=MAX_PIXELS)
    multiprocessing.set_forkserver_preload(["observe_r1.run.train"])
    start_processes(_on_two_ranks, (tmp_path, model, groups, temperature), nprocs=2, start_method="forkserver")
    for rank in range(2):
        policy = torch.load(tmp_path / f"{rank}.pt")
        for group, expected in zip(groups, policy, strict=True):
            torch.testing.assert_close(torch.cat([c.logprobs for c in group.completions]), expected, atol=1e-4, rtol=0)


def test_greedy_is_the_embedded_engines(vlm, engine, prompts):
    sampling = Sampling(temperature=0, max_new_tokens=12)
    theirs, ours = engine.generate(prompts, sampling), EmbeddedEngine(vlm).generate(prompts, sampling)
    for (a,), (b,) in zip(theirs, ours, strict=True):
        assert (a.ids.tolist(), a.text, a.finish) == (b.ids.tolist(), b.text, b.finish)


def test_a_seed_repeats_a_prompt_whatever_is_beside_it(engine, prompts):
    sampling = Sampling(n=4, max_new_tokens=8, seed=3)
    together = engine.generate(prompts, sampling)
    alone = engine.generate([prompts[2]], sampling)[0]
    other = engine.generate([prompts[2]], Sampling(n=4, max_new_tokens=8, seed=4))[0]
    ids = [c.ids.tolist() for c in together[2]]
    assert ids == [c.ids.tolist() for c in alone] != [c.ids.tolist() for c in other]
    assert len({tuple(row) for row in ids}) > 1


def test_groups_are_handed_over_as_they_end(engine, prompts):
    seen, before = {}, engine.finished
    groups = engine.generate(prompts, Sampling(n=2, max_new_tokens=6), on_group=seen.__setitem__)
    assert engine.finished - before == 2 * len(prompts)
    assert [seen[i] for i in range(len(prompts))] == groups


def test_placeholders_are_never_sampled(vlm, engine, prompts):
    """Even where the model would: the placeholders' embeddings, tied to the head, are made the likeliest."""
    old = {name: weight.clone() for name, weight in vlm.model.state_dict().items()}
    with torch.no_grad():
        vlm.model.lm_head.weight[list(vlm.suppressed_ids)] *= 50
    engine.load_weights(published_weights(vlm.model))
    (text,) = engine.generate(prompts[:1], Sampling(n=16, max_new_tokens=8))
    assert not {*vlm.suppressed_ids} & {token for c in text for token in c.ids.tolist()}
    vlm.model.load_state_dict(old)
    engine.load_weights(old.items())


def test_a_stop_string_ends_a_response(vlm, engine, prompts):
    (free,) = engine.generate(prompts[:1], Sampling(n=1, max_new_tokens=12))
    stop = vlm.processor.tokenizer.decode(free[0].ids[5:6])
    (stopped,) = engine.generate(prompts[:1], Sampling(n=1, max_new_tokens=12, stop=(stop,)))
    assert stopped[0].finish == "stop" and stopped[0].text.endswith(stop) and len(stopped[0].ids) < len(free[0].ids)
    assert stopped[0].ids.tolist() == free[0].ids.tolist()[: len(stopped[0].ids)]


def test_more_prompts_than_are_computed_at_once(engine, prompts):
    """They enter one after the other, and whole."""
    sampling = Sampling(n=2, max_new_tokens=3, seed=3)
    alone = [engine.generate([prompt], sampling)[0] for prompt in prompts]
    many = engine.generate(prompts * 16, sampling)
    for number, group in enumerate(many):
        assert [c.ids.tolist() for c in group] == [c.ids.tolist() for c in alone[number % len(prompts)]]


def test_an_interrupted_call_leaves_nothing_behind(engine, prompts):
    def interrupt(index, completions):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(prompts, Sampling(n=2, max_new_tokens=30), on_group=interrupt)
    assert len(engine.generate(prompts[:1], Sampling(n=2, max_new_tokens=3))[0]) == 2


def test_a_prompt_that_vllm_refuses_is_one_line(engine, prompts):
    crowded = replace(prompts[1], image_digests=prompts[1].image_digests * 9)
    with pytest.raises(RefusedPromptError, match=r"rollout\.vllm: vLLM refuses the prompt: At most 8 im") as refused:
        engine.generate([prompts[0], crowded], Sampling(max_new_tokens=3))
    assert refused.value.index == 1
    assert len(engine.generate(prompts[:1], Sampling(n=2, max_new_tokens=3))[0]) == 2


def test_new_weights_between_two_steps(vlm, engine, prompts):
    """Responses in flight go on under them, each token with its version; later prompts take nothing from before.

    A later prompt is the same as one in flight, image and all: its features and prefix are in the caches.
    """
    old = {name: weight.clone() for name, weight in vlm.model.state_dict().items()}
    engine.version, sampling, groups, later = 0, Sampling(n=2, max_new_tokens=12, seed=5), [], []
    engine.add(prompts[1], sampling, groups.extend)
    for _ in range(4):
        engine.step()
    with torch.no_grad():
        for parameter in vlm.model.parameters():
            parameter.add_(0.2 * parameter.std(correction=0) * torch.randn_like(parameter))
    engine.load_weights(published_weights(vlm.model))
    engine.version = 1
    engine.add(prompts[1], sampling, later.extend)
    while engine.unfinished:
        engine.step()
    assert [c.version for c in later] == [1, 1] and all(c.versions is None for c in later)
    (expected,) = scored(vlm, prompts[1:2], [later], 1.0)
    torch.testing.assert_close(torch.cat([c.logprobs for c in later]), expected, atol=1e-4, rtol=0)
    vlm.model.load_state_dict(old)
    (expected,) = scored(vlm, prompts[1:2], [groups], 1.0)
    for completion, policy in zip(groups, expected.split([len(c.ids) for c in groups]), strict=True):
        drawn = completion.token_versions
        assert completion.version == 0 and drawn.tolist() == sorted(drawn.tolist())
        torch.testing.assert_close(completion.logprobs[drawn == 0], policy[drawn == 0], atol=1e-4, rtol=0)
        assert not (drawn == 1).any() or not torch.allclose(
            completion.logprobs[drawn == 1], policy[drawn == 1], atol=1e-2
        )
    assert any(c.versions is not None for c in groups)
    engine.load_weights(old.items())
    engine.version = 0
    check_agreement(vlm, engine, prompts)


def test_a_dropped_prompt_leaves_the_others_alone(engine, prompts):
    sampling, groups = Sampling(n=2, max_new_tokens=8, seed=3), []
    expected = engine.generate(prompts[:1], sampling)[0]
    first = engine.add(prompts[2], sampling, lambda group: groups.append("dropped"))
    engine.add(prompts[0], sampling, groups.extend)
    engine.step()
    engine.drop([first])
    while engine.unfinished:
        engine.step()
    assert [c.ids.tolist() for c in groups] == [c.ids.tolist() for c in expected]


def test_sleep_is_nothing_on_the_cpu(engine, prompts):
    engine.sleep()
    assert engine.generate(prompts[:1], Sampling(max_new_tokens=2))


def test_images_are_told_apart_by_what_they_show(vlm, engine, questions, prompts, tmp_path):
    """The same tokens and sizes, asked one after the other: features and prefixes of another image would show."""
    small = prompts[1]
    Image.open(questions[1].images[0]).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(tmp_path / "flipped.png")
    parts = [{"type": "image"}, {"type": "text", "text": "how many red circles "}]
    example = Example("x", ({"role": "user", "content": parts},), (str(tmp_path / "flipped.png"),), answer="1")
    other = encode_prompt(example, vlm.processor, DATA, stream=1)
    assert torch.equal(other.ids, small.ids) and not torch.equal(other.pixel_values, small.pixel_values)
    for asked in ([small], [other], [small, other]):
        check_agreement(vlm, engine, asked)


def test_images_are_not_preprocessed_again(vlm, engine, prompts, monkeypatch):
    def again(*arguments, **named):
        raise AssertionError("preprocessed")

    monkeypatch.setattr(type(engine._engine.renderer.get_mm_processor()), "apply", again)
    assert len(engine.generate(prompts, Sampling(max_new_tokens=2))) == len(prompts)


def test_what_vllm_would_make_of_images_is_what_it_is_given(vlm, engine, questions, prompts):
    """Its own preprocessing, from tokens before expansion and the images, is the independent source."""
    for question, prompt in zip(questions[1:], prompts[1:], strict=True):
        starts = (prompt.token_types.diff(prepend=torch.zeros(1)) != 1) & (prompt.token_types == 1)
        raw = {
            "prompt_token_ids": prompt.ids[~starts].tolist(),
            "multi_modal_data": {"image": list(_images(question, vlm.processor, DATA))},
        }
        (theirs,) = engine._engine.renderer.render_cmpl([raw])
        ours = engine.engine_input(prompt)
        assert ours["type"] == theirs["type"] and ours["prompt_token_ids"] == theirs["prompt_token_ids"]
        assert ours["mm_placeholders"] == theirs["mm_placeholders"]
        assert ours["mm_kwargs"]["image"] == theirs["mm_kwargs"]["image"]


def test_both_model_runners_take_what_they_are_given(engine, prompts):
    """A GPU has the second one, which knows other logits processors than the first; both check by these functions."""
    from vllm.v1.sample.logits_processor import validate_logits_processors_parameters
    from vllm.v1.worker.gpu.sample.logits_processor import build_custom_logits_processors_params_validator

    config, tokenizer = engine._engine.model_config, engine._engine.tokenizer
    parameters = engine.parameters(prompts[0], Sampling(n=2, top_k=5, stop=("x",)))
    build_custom_logits_processors_params_validator(config.logits_processors)(parameters)
    validate_logits_processors_parameters(config.logits_processors, parameters)
    parameters.verify(config, None, None, tokenizer)
    assert parameters.logit_bias == {token: float("-inf") for token in engine.vlm.suppressed_ids}
    assert parameters.clone().logit_bias == parameters.logit_bias


def test_a_gpu_s_model_runner_samples_as_the_policy_says(vlm, tmp_path):
    """Its Triton kernels are interpreted. Images, new weights, and suppressed tokens that would be the likeliest."""
    script = Path(__file__).parents[1] / "second_model_runner.py"
    folder = vlm.model.config._name_or_path
    run = subprocess.run([sys.executable, script, folder, tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["second"] and not found["suppressed"] and found["responses"] == 6 and found["ahead"] == 1
    assert found["difference"] < 1e-4


def test_adapters_reach_vllm_merged(vlm, engine, prompts):
    settings = ModelSettings(path=vlm.model.config._name_or_path, device="cpu", max_pixels=MAX_PIXELS, lora_rank=4)
    adapted = load_model(settings)
    with torch.no_grad():
        for name, weight in adapted.model.named_parameters():
            if ".lora_" in name:
                weight.normal_(0, 0.05)
    engine.load_weights(published_weights(adapted.model))
    check_agreement(adapted, engine, prompts)
    engine.load_weights(published_weights(vlm.model))


def test_training_samples_with_each_steps_weights(vlm, world, tmp_path):
    """Were the engine a step behind, its probabilities would differ from the policy's."""
    output = tmp_path / "run"
    paths = ["--model.path", vlm.model.config._name_or_path, "--data.path", str(world / "train" / "train.jsonl")]
    sizes = ["--rollout.prompts", "4", "--rollout.group_size", "4", "--rollout.max_new_tokens", "8"]
    sizes += ["--optimizer.minibatch", "4", "--run.steps", "3", "--data.max_prompt_tokens", "400"]
    # Every group teaches: a reward of one's own that grows with the number of letters.
    reward = tmp_path / "letters.py"
    reward.write_text("def reward(response, answer, example):\n    return len(response)\n")
    learning = ["--optimizer.lr", "0.01", "--optimizer.warmup", "0", "--rewards.functions", f"{reward}=1"]
    learning += ["--objective.dynamic_weight", "false"]
    engine = ["--rollout.engine", "vllm", "--model.device", "cpu", "--run.threads", "1"]
    assert main(["train", *paths, *sizes, *learning, *engine, "--run.output", str(output)]) == 0
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [m["policy/grad_norm"] > 0 for m in metrics] == [True] * 3
    assert all(m["policy/sampler_difference"] < 1e-5 for m in metrics), metrics
