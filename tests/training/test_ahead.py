"""Sampling ahead of training: which prompts, how old the weights, what is resumed, what fails, how it ends.

The engine is the embedded one with weights of its own, as engines on GPUs of their own have; a lock lets new ones in
between two of its steps.
"""

import json
import random
import threading
import time
import traceback
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from tiny import EXAMPLE, plain_copy, plain_logprobs, random_model, random_prompt

from observe_r1.config import ObjectiveSettings, OptimizerSettings, RolloutSettings, RunSettings, TrainSettings
from observe_r1.data.order import AdaptiveOrder
from observe_r1.errors import UserError
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.rewards import Scores
from observe_r1.rollout.embedded import EmbeddedEngine
from observe_r1.run.recorder import rollout_rows
from observe_r1.run.resume import dump_groups, load_groups
from observe_r1.training.ahead import AheadSampler
from observe_r1.training.loop import Batcher, RunLength, train
from observe_r1.training.prompts import PromptStream
from observe_r1.training.sampler import GroupSampler, StoppedError, unseen

G, PROMPTS, ROWS = 3, 4, 200
PATIENCE = 60
"""Seconds after which a test that waits for another thread has failed."""


class Engine(EmbeddedEngine):
    """Takes steps of prompts from the one drawn as number `held` on only where it is let."""

    def __init__(self, held=10**9):
        super().__init__(random_model(dtype=torch.float32, scale=0.12), max_rows=6)
        self.held, self.begun = held, {}
        self.lock = threading.Lock()
        self._turns, self._gone = threading.Semaphore(0), threading.Semaphore(0)

    def add(self, prompt, sampling, done):
        self.begun[prompt.stream] = self.version
        return super().add(prompt, sampling, done)

    def step(self):
        held = max(self.begun) >= self.held
        if held:
            self._turns.acquire()
        with self.lock:
            super().step()
        if held:
            self._gone.release()

    def let(self, steps):
        """Let it take steps, and return when it has."""
        for _ in range(steps):
            self._turns.release()
            assert self._gone.acquire(timeout=PATIENCE)

    def go_on(self):
        self.held = 10**9
        self._turns.release()


class Weights:
    """The sync: between two steps of the engine, weights that depend on their version alone."""

    def __init__(self, engine, change=1.02):
        self.engine, self.change = engine, change
        self.first = engine.vlm.model.lm_head.weight.detach().clone()

    def rest(self):
        pass

    def publish(self, version):
        with self.engine.lock, torch.no_grad():
            self.engine.vlm.model.lm_head.weight.copy_(self.first * self.change**version)
            self.engine.version = version


class Parity:
    """A scorer: a response is right where the sum of its characters is odd."""

    def __init__(self, fails=lambda prompt: None):
        self.fails = fails

    def submit(self, responses, example, prompt):
        self.fails(prompt)
        right = [sum(map(ord, text)) % 2 == 1 for text in responses]
        scores = Scores([float(each) for each in right], right, {"accuracy": [float(each) for each in right]})
        return SimpleNamespace(result=lambda: scores)


class Teaching:
    """A scorer: prompts whose number is chosen teach something."""

    def __init__(self, chosen):
        self.chosen = chosen

    def submit(self, responses, example, prompt):
        right = [self.chosen(int(prompt)), *[False] * (G - 1)]
        scores = Scores([float(each) for each in right], right, {})
        return SimpleNamespace(result=lambda: scores)


class Monitor:
    """Stops nothing; keeps what it is told of."""

    def __init__(self, step=0, done=unseen):
        self.step, self.now, self.done = step, unseen, done
        self.rollouts, self.metrics = [], []

    def stopped(self):
        return False

    def write_rollouts(self, step, groups):
        self.rollouts.append((step, list(rollout_rows(groups))))

    def step_done(self, step, metrics, *, last):
        self.step = step
        self.metrics.append(metrics)
        self.done(step)


def encode(example, number):
    generator = torch.Generator().manual_seed(number)
    prompt = random_prompt([], 3 + number % 5, generator, torch.float32, stream=number)
    return replace(prompt, text=str(number))


def group_sampler(engine, scorer=None, limit=None, **settings):
    order = AdaptiveOrder(ROWS, seed=1, floor=0.1)  # which draws by what was right before
    examples = [replace(EXAMPLE, id=str(row)) for row in range(ROWS)]
    stream = PromptStream(examples, order, encode, print, limit, ahead=2)
    rollout = {"prompts": PROMPTS, "group_size": G, "max_new_tokens": 9, "max_age": 9, "dynamic_sampling": True}
    objective = ObjectiveSettings(bonus_min_length=0)
    return GroupSampler(engine, stream, scorer or Parity(), RolloutSettings(**rollout | settings), objective, seed=0)


@pytest.fixture
def ahead_sampler():
    """Makes samplers, and ends their threads."""
    made = []

    def make(engine, ahead, last=None, state=None, **settings):
        made.append(AheadSampler(group_sampler(engine, ahead=ahead, **settings), ahead, last))
        if state is not None:
            made[-1].load_state_dict(state)
        return made[-1]

    yield make
    for each in made:
        with each:
            pass
        each.sampler.engine.go_on()
        if each._thread is not None:
            assert isinstance(each._thread.exception(timeout=PATIENCE), Exception)
        each.sampler.stream.close()


def trained(source, weights, monitor=None, update=unseen, **length):
    """Train; return for every step its groups, and all that were sampled for it."""
    steps, monitor = [], monitor or Monitor()

    def batches(groups, progress):
        steps.append((groups, source.sampled))
        update(monitor.step + 1)
        return []

    weights.publish(monitor.step)
    batcher = SimpleNamespace(batches=batches, metrics={})
    train(SimpleNamespace(update=None), source, batcher, weights, RunLength(RunSettings(**length), ROWS), monitor)
    return steps


def drawn(groups):
    return [group.prompt.stream for group in groups]


def same(groups, others):
    """The same responses, whatever the version of the weights, which were the same."""
    assert drawn(groups) == drawn(others)
    for one, other in zip(groups, others, strict=True):
        assert one.example == other.example and torch.equal(one.advantages, other.advantages)
        for ours, theirs in zip(one.completions, other.completions, strict=True):
            assert torch.equal(ours.ids, theirs.ids) and torch.equal(ours.logprobs, theirs.logprobs)


@pytest.mark.parametrize(("ahead", "dynamic"), [(1, False), (1, True), (3, True)])
def test_every_prompt_is_trained_on_once_in_order_by_weights_that_are_not_too_old(ahead_sampler, ahead, dynamic):
    """At whatever moment new weights come."""
    engine, draw, ages = Engine(), random.Random(ahead), []
    source = ahead_sampler(engine, ahead, limit=48, dynamic_sampling=dynamic, max_age=0)
    steps = trained(source, Weights(engine), update=lambda step: time.sleep(draw.choice([0, 0.01, 0.05])), prompts=48)
    assert list(chain(*(drawn(sampled) for _, sampled in steps))) == list(range(48)) == list(engine.begun)
    used = list(chain(*(drawn(groups) for groups, _ in steps)))
    assert used == sorted(set(used)) and (dynamic or used == list(range(48)))
    for step, (groups, _) in enumerate(steps, 1):
        for group in groups:
            oldest = step - 1 - ahead  # of leftovers, too
            tokens = torch.cat([each.token_versions for each in group.completions])
            assert oldest <= engine.begun[group.prompt.stream] <= int(tokens.min()) <= int(tokens.max()) <= step - 1
            ages.append(step - 1 - int(tokens.min()))
    assert max(ages) >= 1, "nothing was sampled ahead"
    assert source.exhausted and source.drawn == 48


@pytest.mark.parametrize("ahead", [1, 2])
def test_no_more_than_so_many_steps_are_begun_and_none_after_the_last(ahead_sampler, ahead):
    engine, begun = Engine(), []

    def update(step):
        """Wait for all that may be sampled while this step is trained, and look for what may not."""
        expected = min(step + ahead, 5) * PROMPTS
        until(lambda: len(engine.begun) >= expected and not engine.unfinished)
        time.sleep(0.05)
        begun.append(len(engine.begun) - expected)

    source = ahead_sampler(engine, ahead, last=5, dynamic_sampling=False)
    steps = trained(source, Weights(engine), update=update, steps=5)
    assert begun == [0] * 5
    assert [engine.begun[number] for groups, _ in steps for number in drawn(groups)[:1]] == [
        max(0, step - ahead) for step in range(5)
    ]


@pytest.mark.parametrize(("version", "expected"), [(1, [7, 8, 9, 10]), (2, [7, 8, 9, 10]), (3, [8, 9, 10, 11])])
def test_leftovers_may_be_as_many_versions_older_as_sampling_is_ahead(version, expected):
    source = group_sampler(Engine(), Teaching(lambda number: number >= 3), max_age=1, ahead=1)
    assert drawn(source.next_groups(0)) == [3, 4, 5, 6] and drawn(source.leftovers) == [7]
    assert drawn(source.next_groups(version)) == expected
    source.stream.close()


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_resumed_run_samples_what_was_ahead_again_and_keeps_leftovers(ahead_sampler, stop):
    """With weights that stay the same, and an order that depends on every pass rate: all as without sampling ahead."""
    expected = trained(group_sampler(Engine()), Weights(Engine(), change=1), steps=6)
    source, engine = None, Engine()
    saved = []

    def save(step):
        until(lambda: len(source._ready) == 2)  # so that the sampler itself is two steps further
        state = source.state_dict()
        state["leftovers"], tensors = dump_groups(state["leftovers"])
        saved.append((json.dumps(state), tensors))

    source = ahead_sampler(engine, 2)
    steps = trained(source, Weights(engine, change=1), Monitor(done=save), steps=stop)
    state, tensors = saved[-1]
    assert json.loads(json.dumps(dump_groups(source.state_dict()["leftovers"])[0])) == json.loads(state)["leftovers"]
    state = json.loads(state)
    state["leftovers"] = load_groups(state["leftovers"], tensors, encode)
    engine = Engine()
    resumed = ahead_sampler(engine, 2, state=state)
    assert resumed.drawn == source.drawn < source.sampler.drawn
    steps += trained(resumed, Weights(engine, change=1), Monitor(step=stop), steps=6)
    assert len(steps) == 6
    for (groups, sampled), (others, other_sampled) in zip(steps, expected, strict=True):
        same(groups, others)
        assert drawn(sampled) == drawn(other_sampled)
    assert state["leftovers"] or stop == 4, "no leftovers are tested"


def test_tokens_bear_the_version_that_drew_them_and_are_weighed_by_both_policies(ahead_sampler):
    """New weights come when step 2's responses have five tokens each; then by hand, response by response."""
    engine, cap = Engine(held=2), 1.1
    weights = Weights(engine, change=1.3)
    source = ahead_sampler(engine, 1, prompts=2, dynamic_sampling=False, max_new_tokens=12)
    old = plain_copy(engine.vlm)
    assert drawn(source.next_groups()) == [0, 1]
    engine.let(4)  # the first draws two tokens
    weights.publish(1)
    new = plain_copy(engine.vlm)
    engine.go_on()
    groups = source.next_groups()

    objective = ObjectiveSettings(old_logprobs="policy", importance_cap=cap)
    optimizer = OptimizerSettings(minibatch=2)
    settings = TrainSettings(model={"path": "m"}, data={"path": "d"}, objective=objective, optimizer=optimizer)
    batcher = Batcher(settings, LogprobModel(engine.vlm, optimizer), None)
    (batch,) = batcher.batches(groups, (0, 1))
    plain = Batcher(settings.model_copy(update={"objective": ObjectiveSettings()}), None, None).batches(groups, (0, 1))
    corrected, ages, mixed = [], [], 0
    for each, base in zip(batch.groups, plain[0].groups, strict=True):
        by_hand = []
        for response in each.group.completions:
            versions = [0] * min(5, len(response.ids)) + [1] * (len(response.ids) - 5)
            assert response.token_versions.tolist() == versions and response.version == 0
            ages += [1 - version for version in versions]
            mixed += len(versions) * (len(set(versions)) > 1)
            with torch.no_grad():
                drew, trains = (plain_logprobs(model, each.group.prompt, response.ids) for model in (old, new))
            # Only the head has changed: keys and values of the tokens before are the same under both weights.
            expected = torch.where(torch.tensor(versions) == 0, drew, trains)
            torch.testing.assert_close(response.logprobs, expected, atol=1e-4, rtol=0)
            by_hand += [min(float(torch.exp(b - a)), cap) for a, b in zip(response.logprobs, trains, strict=True)]
        torch.testing.assert_close(each.loss_weights, base.loss_weights * torch.tensor(by_hand), atol=1e-6, rtol=1e-3)
        corrected += by_hand
    truncated = sum(each == cap for each in corrected)
    assert mixed and min(corrected) < 0.95 and 3 < truncated < len(corrected) / 2
    assert batcher.metrics["policy/importance_weight"] == pytest.approx(sum(corrected) / len(corrected), rel=1e-4)
    assert batcher.metrics["policy/importance_truncated"] == pytest.approx(truncated / len(corrected))
    assert {
        name: source.metrics[f"rollout/{name}"] for name in ("age", "staleness", "staleness_max", "mixed_tokens")
    } == {
        "age": 1,
        "staleness": pytest.approx(sum(ages) / len(ages)),
        "staleness_max": 1,
        "mixed_tokens": pytest.approx(mixed / len(ages)),
    }


def test_an_error_reaches_the_loop_with_its_traceback_after_the_steps_before_it(ahead_sampler):
    def misjudge(prompt):
        if prompt == "9":
            raise ZeroDivisionError("a bug in the reward")

    engine = Engine()
    source = ahead_sampler(engine, 3, scorer=Parity(misjudge), dynamic_sampling=False)
    assert drawn(source.next_groups()) == [0, 1, 2, 3]
    assert isinstance(source._thread.exception(timeout=PATIENCE), ZeroDivisionError)
    assert drawn(source.next_groups()) == [4, 5, 6, 7]
    for _ in range(2):  # however often it is asked
        with pytest.raises(ZeroDivisionError, match="a bug in the reward") as caught:
            source.next_groups()
        assert "misjudge" in [frame.name for frame in traceback.extract_tb(caught.tb)]


def test_what_a_failed_step_sampled_ahead_is_written_before_its_error(ahead_sampler):
    engine, monitor = Engine(), Monitor()
    source = ahead_sampler(engine, 2, scorer=Teaching(lambda number: number < 4), max_rounds=2)
    with pytest.raises(UserError, match="2 rounds of sampling found only 0 of 4"):
        trained(source, Weights(engine), monitor, steps=5)
    assert [step for step, _ in monitor.rollouts] == [1, 2] and monitor.step == 1
    assert drawn(source.sampled) == list(range(4, 12)) and len(monitor.rollouts[1][1]) == 8 * G


@pytest.mark.parametrize("held", [4, 8])
def test_leaving_waits_for_no_response_and_ends_the_thread(ahead_sampler, held):
    """Which is in the middle of step 2, or waits until step 3 may begin."""
    engine = Engine(held)
    with ahead_sampler(engine, 1, dynamic_sampling=False) as source:
        source.next_groups()
        until(lambda: len(engine.begun) == 8)
        if held == 8:
            until(lambda: source._ready)
    assert not source._thread.done() or held == 8
    engine.go_on()
    assert isinstance(source._thread.exception(timeout=PATIENCE), StoppedError)
    assert len(engine.begun) == 8 and not engine.unfinished


def test_what_is_being_sampled_is_shown_while_the_loop_waits_for_it(ahead_sampler):
    engine, said = Engine(held=4), []
    source = ahead_sampler(engine, 1, dynamic_sampling=False)
    source._now = lambda *what: said.append(what[0])
    source.next_groups()
    assert "sampling" in said
    until(lambda: len(engine.begun) == 8)
    said.clear()
    threading.Timer(0.2, engine.go_on).start()
    source.next_groups()
    assert said[:2] == ["sampling", "scoring"]
    assert source.metrics["time/waiting_for_sampling"] > 0 <= source.metrics["time/waiting_for_training"]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, r"rollout\.ahead needs cluster\.layout: apart"),
        ({"cluster": {"gpus": 2}}, r"rollout\.ahead needs cluster\.layout: apart"),
        ({"cluster": {"gpus": 2, "layout": "apart"}}, r"objective\.importance_cap \(2, say\)"),
    ],
)
def test_what_cannot_sample_ahead_is_refused(options, fault):
    with pytest.raises(ValidationError, match=fault):
        TrainSettings(model={"path": "m"}, data={"path": "d"}, rollout={"ahead": 1}, **options)


def until(condition):
    patience = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.001)
