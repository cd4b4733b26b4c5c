"""Engines in processes of their own that sample ahead of training, on real Ray: in whole runs, and step by step."""

import json
import time
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch
from killing import killed
from ray.cluster_utils import Cluster

from observe_r1.cli.main import main
from observe_r1.cluster.engines import EnginePool
from observe_r1.config import (
    DataSettings,
    ModelSettings,
    ObjectiveSettings,
    OptimizerSettings,
    RewardSettings,
    RolloutSettings,
)
from observe_r1.data import load_data
from observe_r1.data.order import ladder
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.rewards import Scorer
from observe_r1.training.ahead import AheadSampler
from observe_r1.training.prompts import PromptStream
from observe_r1.training.sampler import GroupSampler

STEPS, PROMPTS, G = 6, 4, 4


@pytest.fixture(scope="module")
def address():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


def command(world, output, address, *options):
    model, data = world / "warm" / "model", world / "train" / "train.jsonl"
    return list(
        map(
            str,
            [
                *("train", "--model.path", model, "--data.path", data, "--run.output", output),
                *("--rollout.prompts", PROMPTS, "--rollout.group_size", G, "--rollout.max_new_tokens", 30),
                *("--optimizer.minibatch", 2, "--optimizer.lr", "1e-4", "--run.steps", STEPS, "--run.save_every", 1),
                *("--model.device", "cpu", "--run.threads", 1, "--cluster.address", address, "--cluster.gpus", 3),
                *("--cluster.layout", "apart", "--rollout.ahead", 1),
                *("--objective.old_logprobs", "policy", "--objective.importance_cap", 2, *options),
            ],
        )
    )


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_prompt_is_trained_on_once_by_weights_of_the_step_before_killed_or_not(world, address, tmp_path):
    output = tmp_path / "run"
    assert killed("writing metrics", command(world, output, address))
    done = max(int(path.name.removeprefix("step-")) for path in (output / "checkpoints").glob("step-*"))
    assert 0 < done < STEPS
    assert main(command(world, output, address, "--run.resume")) == 0
    metrics = rows(output / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, STEPS + 1))
    asked = []
    for step, row in enumerate(metrics, 1):
        responses = rows(output / "rollouts" / f"step-{step:06d}.jsonl")
        asked += [each["id"] for each in responses[::G]]
        ages = [step - 1 - each["version"] for each in responses]
        oldest = 0 if step in (1, done + 1) else 1  # nothing was ahead of these
        assert min(ages) >= 0 and max(ages) <= oldest and all(each["last_version"] < step for each in responses)
        assert row["rollout/staleness_max"] == max(ages) and 0 <= row["rollout/staleness"] <= max(ages)
        assert row["rollout/age"] >= row["rollout/staleness"]
        assert 0 < row["policy/importance_weight"] <= 2 and row["policy/importance_truncated"] < 1
    assert asked == [row["id"] for row in rows(Path(world / "train" / "train.jsonl"))][: STEPS * PROMPTS]
    assert sum(row["rollout/staleness_max"] for row in metrics) >= 1, "nothing was sampled ahead"


@pytest.fixture
def joined(address):
    ray.init(address=address, log_to_driver=False)
    yield
    ray.shutdown()


def hold(pool, sign):
    """Let each engine take three steps of the second rollout before there is a `sign`, and none of the third."""

    def held(engine):
        add, step, engine.taken, engine.newest = engine.add, engine.step, 0, 0

        def adding(prompt, *rest):
            engine.newest = max(engine.newest, prompt.stream)
            return add(prompt, *rest)

        def stepping():
            second, third = engine.newest >= PROMPTS, engine.newest >= 2 * PROMPTS
            if third or (second and engine.taken == 3 and not sign.exists()):
                time.sleep(0.01)
                return
            engine.taken += second
            step()

        engine.add, engine.step = adding, stepping

    on_each(pool, held)


def on_each(pool, function):
    return ray.get([seat.actor.do.remote(function) for seat in pool._seats])


def scaled(version):
    """Weights of a version: logits grow. The head is no weight of its own, so it is the last norm that changes."""

    def scale(engine):
        with torch.no_grad():
            engine.vlm.model.model.language_model.norm.weight.mul_(1.5**version)
        engine.version = version

    return scale


def until(condition):
    patience = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_responses_in_flight_go_on_under_new_weights_and_closing_waits_for_none(world, joined, tmp_path):
    model = ModelSettings(path=str(world / "warm" / "model"), device="cpu")
    data = DataSettings(path=str(world / "train" / "train.jsonl"))
    rollout = RolloutSettings(prompts=PROMPTS, group_size=G, max_new_tokens=30, ahead=1)
    vlm, examples, sign = load_model(model, frozen=True), load_data(data, 0), tmp_path / "sign"
    order = ladder(data, len(examples), 0)
    stream = PromptStream(examples, order, lambda e, n: encode_prompt(e, vlm.processor, data, n), print)
    pool = EnginePool(model, rollout, data, options=[{}] * 2)
    pool.ready()
    hold(pool, sign)
    with Scorer(RewardSettings()) as scorer:
        with AheadSampler(GroupSampler(pool, stream, scorer, rollout, ObjectiveSettings(), 0), 1) as source:
            source.next_groups()
            until(lambda: on_each(pool, lambda engine: engine.taken) == [3, 3])
            pool.publish(1, lambda actors: ray.get([actor.do.remote(scaled(1)) for actor in actors]))
            sign.touch()
            groups = source.next_groups()
            assert [group.prompt.stream for group in groups] == list(range(PROMPTS, 2 * PROMPTS))
            until(lambda: pool.unfinished)
        pool.close()
        with pytest.raises(RuntimeError, match="the engines are closed"):
            source._thread.result(timeout=60)
    stream.close()

    logprobs = [scores(vlm, groups)]
    scaled(1)(SimpleNamespace(vlm=vlm))
    logprobs.append(scores(vlm, groups))
    mixed = 0
    for number, response in enumerate(chain(*(group.completions for group in groups))):
        versions = response.token_versions
        assert versions.tolist() == sorted(versions.tolist()) and set(versions.tolist()) <= {0, 1}
        expected = torch.where(versions == 0, logprobs[0][number], logprobs[1][number])
        torch.testing.assert_close(response.logprobs, expected, atol=1e-4, rtol=0)
        mixed += response.versions is not None
    assert mixed and source.metrics["rollout/staleness_max"] == 1 and source.metrics["rollout/mixed_tokens"] > 0


def scores(vlm, groups):
    """By response; only the last norm differs by version: keys and values are those under which a token was drawn."""
    by_group = LogprobModel(vlm, OptimizerSettings()).logprobs(groups)
    return list(chain(*(each.split(group.lengths) for each, group in zip(by_group, groups, strict=True))))
