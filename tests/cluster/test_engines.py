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

from observe_r1.cluster import RankLostError, engines
from observe_r1.cluster.engines import EnginePool
from observe_r1.config import DataSettings, ModelSettings, RolloutSettings
from observe_r1.data import load_data
from observe_r1.errors import UserError
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.loading import load_model
from observe_r1.records import Sampling
from observe_r1.rollout.embedded import EmbeddedEngine

KILLS = 6
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


@pytest.fixture(scope="module")
def notes():
    return []


@pytest.fixture(scope="module")
def many(model, data, notes):
    """Two engines, which all tests but those of engines that end share."""
    pool = EnginePool(model, ROLLOUT, data, options=[{}] * 2, restarts=100, note=notes.append)
    pool.ready()
    yield pool
    pool.close()


def with_version(version):
    """Makes engines bear a version, as new weights do."""

    def bear(engine):
        engine.version = version

    return lambda actors: ray.get([actor.do.remote(bear) for actor in actors])


def same(groups, expected):
    for completion, other in zip(chain(*groups), chain(*expected), strict=True):
        assert completion.ids.tolist() == other.ids.tolist()
        torch.testing.assert_close(completion.logprobs, other.logprobs, atol=1e-4, rtol=0)


def test_a_response_is_the_same_on_any_engine(many, prompts, expected):
    seen, before = {}, many.finished
    groups = many.generate(prompts, SAMPLING, seen.__setitem__)
    same(groups, expected)
    assert [seen[index] for index in range(len(prompts))] == groups and many.finished - before == 3 * len(prompts)


def test_killed_engines_start_again_and_their_prompts_are_sampled_again(many, notes, prompts, expected):
    """At random moments, both engines of two."""
    given, killed, draw = [], set(), random.Random(3)

    def renew(actor):
        given.append(actor)
        with_version(4)([actor])
        return True

    many.renew = renew
    many.publish(4, with_version(4))
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


def test_engines_that_die_as_weights_travel_start_again_and_get_them(many, prompts, expected):
    """One as it receives them; the other before, and nobody has noticed."""
    before, tried = many.processes(), []

    def send(actors):
        tried.append(actors)
        if len(tried) == 1:
            os.kill(many.processes()[0], signal.SIGKILL)
            raise RankLostError("a rank waited in vain for an engine")
        with_version(5)(actors)

    os.kill(before[1], signal.SIGKILL)
    many.renew = lambda actor: False
    many.publish(5, send)
    groups = many.generate(prompts, SAMPLING)
    same(groups, expected)
    assert len(tried) == 2 and not {*before} & {*many.processes()} and {c.version for c in chain(*groups)} == {5}


def test_engines_that_hang_start_again_and_their_prompts_are_sampled_again(
    many, notes, prompts, expected, tmp_path, monkeypatch
):
    """A process that is stopped and gets prompts; and an engine that does not come to the end of a step, whose process
    answers, as new weights are about to travel."""

    def hear(line):
        notes.append(line)
        many._timeout = 600.0  # it has to start

    monkeypatch.setattr(many, "_note", hear)
    monkeypatch.setattr(engines, "_BEAT", 0.2)
    monkeypatch.setattr(ray, "kill", lambda actor: None)  # it may be a minute until that ends what is stopped
    before, number = many.processes(), many.version
    many.renew = lambda actor: bool(with_version(number)([actor]))
    os.kill(before[0], signal.SIGSTOP)
    many._seats[0].room, many._timeout = 9, 4.0
    same(many.generate(prompts, SAMPLING), expected)
    many.ready()
    assert "engine 0 hangs and starts again, its prompts are sampled again: no answer in 4 s" in notes[-1]
    many._seats[1].actor.do.remote(held_up, tmp_path / "never")
    many._timeout = 4.0
    many.publish(number, with_version(number))
    assert "engine 1 hangs and starts again" in notes[-1]
    groups = many.generate(prompts, SAMPLING)
    same(groups, expected)
    assert {c.version for c in chain(*groups)} == {number} and not {*before} & {*many.processes()}
    assert not any(runs(pid) for pid in before)


def test_an_engine_that_does_not_sleep_gives_back_what_torch_keeps_for_it(vlm, monkeypatch):
    """On a GPU that it shares with a rank, whose torch cannot take it."""
    given_back = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(True))
    engines._sleep(EmbeddedEngine(vlm))
    assert given_back


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def held_up(engine, sign):
    while not sign.exists():
        time.sleep(0.01)


def test_another_process_that_is_lost_as_weights_travel_ends_the_run(many):
    def send(actors):
        raise RankLostError("a rank has died")

    with pytest.raises(RankLostError, match="a rank has died"):
        many.publish(6, send)
    assert many.version != 6


def test_an_engine_that_dies_too_often_ends_the_run_and_a_closed_pool_leaves_ray_alone(model, data, prompts):
    pool = EnginePool(model, ROLLOUT, data, options=[{}], restarts=0)
    pool.ready()
    os.kill(pool.processes()[0], signal.SIGKILL)
    with pytest.raises(RankLostError, match=r"engine 0 has died too often \(cluster\.restarts\)"):
        pool.generate(prompts, SAMPLING)
    pool.close()
    for call in (pool.step, lambda: pool.generate(prompts, SAMPLING), pool.sleep, lambda: pool.publish(1, list)):
        with pytest.raises(RuntimeError, match="the engines are closed"):
            call()
    pool.drop([1])


def test_an_engine_that_does_not_start_is_one_line(data):
    broken = EnginePool(ModelSettings(path="/nowhere", device="cpu"), ROLLOUT, data, options=[{}])
    with pytest.raises(UserError, match=r"model\.path = '/nowhere'"):
        broken.ready()
    broken.close()


def test_an_engine_whose_machine_has_left_is_not_waited_for_in_vain(model, data):
    """Ray has no such seat; and where it may have one again, the ranks may have gone with it."""

    def check():
        raise RankLostError("a rank has died")

    for settings, said in (({"timeout": 0.0}, r"engine 0 has not started in 0 s"), ({"check": check}, "a rank has")):
        pool = EnginePool(model, ROLLOUT, data, options=[{"num_cpus": 99}], **settings)
        with pytest.raises(RankLostError, match=said):
            pool.ready()
        pool.close()


def test_an_error_of_whoever_takes_a_group_leaves_nothing_behind(many, prompts, expected):
    def interrupt(index, group):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        many.generate(prompts, SAMPLING, interrupt)
    assert not many.unfinished
    same(many.generate(prompts, SAMPLING), expected)


def test_two_threads_sample_at_once_and_each_takes_its_own(many, prompts, expected):
    found, threads = [], {}

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


def test_an_engine_that_is_busy_holds_no_prompt_up_but_its_own(many, prompts, tmp_path):
    """One of two engines is held up until all prompts that it does not have are done; it has room for one."""
    done, one = [], Sampling(n=ROLLOUT.max_rows, max_new_tokens=5)
    held = many._seats[0].actor.do.remote(held_up, tmp_path / "sign")
    for index, prompt in enumerate(prompts):
        many.add(prompt, one, lambda group, index=index: done.append(index))
    while len(done) < len(prompts) - 1:
        many.step()
    assert many.unfinished == one.n
    (tmp_path / "sign").touch()
    while many.unfinished:
        many.step()
    ray.get(held)
    many.step()
    assert sorted(done) == list(range(len(prompts)))


def test_an_engine_tells_its_room_when_it_has_all_that_it_was_given(many, prompts):
    """Whichever call arrives first."""
    seat = many._seats[0]
    seat.given += 1
    room = seat.actor.room.remote(seat.given)
    assert not ray.wait([room], timeout=0.5)[0]
    group = seat.actor.sample.remote(10**6, prompts[0], Sampling(n=1, max_new_tokens=1))
    assert ray.get(room) > 0 and len(ray.get(group)) == 1


def test_new_weights_reach_every_engine_between_two_steps(many, vlm, prompts, expected):
    """Responses in flight go on; those asked for later are those of the new weights."""
    before, scaled, number = [], load_model_of(vlm), many.version
    with torch.no_grad():
        scaled.model.lm_head.weight.mul_(2.0)

    def scale(factor):
        def work(engine):
            with torch.no_grad():
                engine.vlm.model.lm_head.weight.mul_(factor)

        return lambda actors: ray.get([actor.do.remote(work) for actor in actors])

    for prompt in prompts[:4]:
        many.add(prompt, SAMPLING, before.append)
    many.step()
    many.publish(number + 1, scale(2.0))
    after = many.generate(prompts[4:8], SAMPLING)
    while many.unfinished:
        many.step()
    many.step()
    assert len(before) == 4
    same(after, EmbeddedEngine(scaled).generate(prompts[4:8], SAMPLING))
    many.publish(number + 2, scale(0.5))
    same(many.generate(prompts[:2], SAMPLING), expected[:2])


def load_model_of(vlm):
    return load_model(ModelSettings(path=vlm.model.config._name_or_path, device="cpu", max_pixels=12544), frozen=True)
