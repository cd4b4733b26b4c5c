"""Engines in processes of their own: what they sample, and what becomes of prompts whose engine is killed."""

import os
import random
import signal
import threading
import time
from itertools import chain
from pathlib import Path

import pytest
import ray
import torch

from observe_r1.cluster import RankLostError
from observe_r1.cluster.engines import EnginePool
from observe_r1.config import DataSettings, ModelSettings, RolloutSettings
from observe_r1.data import load_data
from observe_r1.errors import UserError
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.records import Sampling
from observe_r1.rollout.embedded import EmbeddedEngine

KILLS = 8
SAMPLING = Sampling(n=3, max_new_tokens=40, seed=5)
ROLLOUT = RolloutSettings(max_rows=9, max_new_tokens=40)


@pytest.fixture(scope="module", autouse=True)
def started_ray():
    root = Path(__file__).parents[2]
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=200 << 20,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": f"{root}:{root / 'tests'}", "OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(world):
    return ModelSettings(path=str(world / "warm" / "model"), device="cpu", max_pixels=12544)


@pytest.fixture(scope="module")
def data(world):
    return DataSettings(path=str(world / "train" / "train.jsonl"), max_samples=24)


@pytest.fixture(scope="module")
def vlm(model):
    return load_model(model, frozen=True)


@pytest.fixture(scope="module")
def prompts(vlm, data):
    return [encode_prompt(example, vlm.processor, data, number) for number, example in enumerate(load_data(data, 0))]


@pytest.fixture(scope="module")
def expected(vlm, prompts):
    return EmbeddedEngine(vlm).generate(prompts, SAMPLING)


@pytest.fixture
def pool(model, data):
    """Makes pools, and closes them."""
    pools = []

    def make(engines=1, rollout=ROLLOUT, **settings):
        pools.append(EnginePool(model, rollout, data, options=[{}] * engines, **settings))
        pools[-1].ready()
        return pools[-1]

    yield make
    for each in pools:
        each.close()


def same(groups, expected):
    for completion, other in zip(chain(*groups), chain(*expected), strict=True):
        assert completion.ids.tolist() == other.ids.tolist()
        torch.testing.assert_close(completion.logprobs, other.logprobs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("engines", [1, 3])
def test_a_response_is_the_same_on_any_engine(pool, prompts, expected, engines):
    seen = {}
    many = pool(engines)
    groups = many.generate(prompts, SAMPLING, seen.__setitem__)
    same(groups, expected)
    assert [seen[index] for index in range(len(prompts))] == groups and many.finished == 3 * len(prompts)


def test_killed_engines_start_again_and_their_prompts_are_sampled_again(pool, prompts, expected):
    """At random moments, both engines of two."""
    notes, given, killed, draw = [], [], set(), random.Random(3)
    many = pool(2, restarts=100, note=notes.append)
    many.renew = lambda index, actor: given.append(index)
    many.version = 4
    while len(killed) < KILLS:
        many.ready()
        seen, stop, pids = [], threading.Event(), many.processes()

        def kill(pids=pids, stop=stop):
            for pid in draw.sample(pids, 2):
                if not stop.wait(draw.uniform(0, 0.3)) and len(killed) < KILLS:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)

        killer = threading.Thread(target=kill)
        killer.start()
        groups = many.generate(prompts, SAMPLING, lambda index, group, seen=seen: seen.append(index))
        stop.set()
        killer.join()
        same(groups, expected)
        assert sorted(seen) == list(range(len(prompts))) and {c.version for c in chain(*groups)} == {4}
    many.generate(prompts, SAMPLING)  # finds out about one killed as the last group ended
    many.ready()
    assert len(given) == len(notes) == KILLS, (given, notes)


def test_an_engine_that_dies_too_often_ends_the_run(pool, prompts):
    many = pool(restarts=0)
    os.kill(many.processes()[0], signal.SIGKILL)
    with pytest.raises(RankLostError, match=r"engine 0 has died too often \(cluster\.restarts\)"):
        many.generate(prompts, SAMPLING)


def test_an_engine_that_does_not_start_is_one_line(pool, data):
    broken = EnginePool(ModelSettings(path="/nowhere", device="cpu"), ROLLOUT, data, options=[{}])
    with pytest.raises(UserError, match=r"model\.path = '/nowhere'"):
        broken.ready()
    broken.close()


def test_an_error_of_whoever_takes_a_group_leaves_nothing_behind(pool, prompts, expected):
    def interrupt(index, group):
        raise KeyboardInterrupt

    many = pool(2)
    with pytest.raises(KeyboardInterrupt):
        many.generate(prompts, SAMPLING, interrupt)
    assert not many.unfinished
    same(many.generate(prompts, SAMPLING), expected)


def test_two_threads_sample_at_once_and_each_takes_its_own(pool, prompts, expected):
    many, found, threads = pool(2), [], {}

    def other():
        threads["other"] = set()
        found.extend(many.generate(prompts[:6], SAMPLING, lambda *_: threads["other"].add(threading.get_ident())))

    thread = threading.Thread(target=other)
    thread.start()
    groups = many.generate(prompts, SAMPLING)
    thread.join()
    same(groups, expected)
    same(found, expected[:6])
    assert threads["other"] == {thread.ident}


def test_an_engine_that_is_busy_holds_no_prompt_up_but_its_own(pool, prompts, tmp_path):
    """One of two engines is held up until all prompts that it does not have are done; it has room for one."""
    many, done = pool(2, ROLLOUT.model_copy(update={"max_rows": 1})), []

    def busy(engine, sign):
        while not sign.exists():
            time.sleep(0.01)

    held = many._seats[0].actor.do.remote(busy, tmp_path / "sign")
    for index, prompt in enumerate(prompts):
        many.add(prompt, Sampling(max_new_tokens=5), lambda group, index=index: done.append(index))
    while len(done) < len(prompts) - 1:
        many.step()
    assert many.unfinished == 1
    (tmp_path / "sign").touch()
    while many.unfinished:
        many.step()
    ray.get(held)
    many.step()
    assert sorted(done) == list(range(len(prompts)))


def test_new_weights_reach_every_engine_between_two_steps(pool, vlm, prompts):
    """Responses in flight go on; those asked for later are those of the new weights."""
    many, before, scaled = pool(2), [], load_model_of(vlm)
    with torch.no_grad():
        scaled.model.lm_head.weight.mul_(1.5)

    def scale(engine):
        with torch.no_grad():
            engine.vlm.model.lm_head.weight.mul_(1.5)
        return engine.rows

    for prompt in prompts[:4]:
        many.add(prompt, SAMPLING, before.append)
    many.step()
    assert many.on_each(scale) == [9, 9]
    many.version = 1
    after = many.generate(prompts[4:8], SAMPLING)
    while many.unfinished:
        many.step()
    many.step()
    assert len(before) == 4 and {c.version for c in chain(*after)} == {1}
    same(after, EmbeddedEngine(scaled).generate(prompts[4:8], SAMPLING))


def load_model_of(vlm):
    return load_model(ModelSettings(path=vlm.model.config._name_or_path, device="cpu", max_pixels=12544), frozen=True)
