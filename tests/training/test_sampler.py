"""The sampler's promise: the next N informative groups, in order, each bearing the weights' version."""

import random
import weakref
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from observe_r1.config import DataSettings, ObjectiveSettings, RolloutSettings, RunSettings, TrainSettings
from observe_r1.data.order import ladder
from observe_r1.errors import UserError
from observe_r1.objective import advantages
from observe_r1.records import Completion, Example, Prompt
from observe_r1.run.recorder import rollout_rows
from observe_r1.training.loop import Batcher, RunLength, train
from observe_r1.training.prompts import PromptStream
from observe_r1.training.sampler import GroupSampler, unseen
from observe_r1.training.weight_sync import SharedWeights

G = 4


@dataclass
class Scores:
    total: list
    correct: list
    parts: dict

    def result(self):
        return self


class CorrectInText:
    """A scorer: a response is right where its text says so."""

    def submit(self, responses, example, prompt):
        right = [float(text == "right") for text in responses]
        return Scores(right, [r > 0 for r in right], {"accuracy": right})


class Scripted:
    """An engine that gives the prompt drawn as number n as many right responses as `passes` says."""

    version = finished = 0

    def __init__(self, passes, ends=lambda i: "stop"):
        self.passes, self.ends = passes, ends
        self.calls = []

    def generate(self, prompts, sampling, on_group=None):
        self.calls.append([p.stream for p in prompts])
        groups = []
        for index, prompt in enumerate(prompts):
            right = self.passes(prompt.stream)
            group = [
                Completion(torch.ones(5), torch.zeros(5), "right" if i < right else "wrong", self.version, self.ends(i))
                for i in range(sampling.n)
            ]
            on_group(index, group)
            groups.append(group)
        return groups


class Silent:
    """A monitor that never stops the run, and keeps what it is told."""

    def __init__(self, step=0, now=unseen):
        self.step, self.now = step, now
        self.rollouts, self.lasts = [], []

    def stopped(self):
        return False

    def write_rollouts(self, step, groups):
        self.rollouts.append((step, list(rollout_rows(groups))))

    def step_done(self, step, metrics, *, last):
        self.step = step
        self.lasts.append(last)


def encode(example, number):
    return Prompt(ids=torch.ones(3), token_types=torch.zeros(3), stream=number)


def examples(count):
    return [Example(str(i), (), (), "right", origin=f"row {i + 1}") for i in range(count)]


def stream(count=50, limit=None, encode=encode, note=lambda text: None):
    return PromptStream(examples(count), ladder(DataSettings(path="d"), count, 0), encode, note, limit)


def sampler(engine, source, **rollout):
    settings = {"prompts": 4, "group_size": G, "dynamic_sampling": True, "max_rounds": 5} | rollout
    return GroupSampler(
        engine, source, CorrectInText(), RolloutSettings(**settings), ObjectiveSettings(bonus_min_length=0), seed=0
    )


def drawn(groups):
    return [g.prompt.stream for g in groups]


def test_groups_that_teach_nothing_are_set_aside_and_more_are_sampled():
    engine = Scripted(lambda n: [0, 2, G][n % 3])  # only every third prompt has both right and wrong responses
    source = sampler(engine, stream())
    groups = source.next_groups()
    assert drawn(groups) == [1, 4, 7, 10]
    assert len(source.sampled) == source.metrics["rollout/prompts_drawn"] > len(groups)
    assert source.metrics["rollout/groups_used"] == pytest.approx(
        sum(n % 3 == 1 for call in engine.calls for n in call) / len(source.sampled)
    )


def test_leftovers_serve_the_next_step_before_new_prompts():
    # The first round's 4 prompts teach nothing, so the second draws a whole rollout; later ones all teach.
    engine = Scripted(lambda n: 2 if n in (3,) or n >= 4 else 0)
    source = sampler(engine, stream())
    assert drawn(source.next_groups()) == [3, 4, 5, 6]
    assert source.metrics["rollout/leftovers"] == 1
    engine.version = 1
    groups = source.next_groups()
    assert drawn(groups) == [7, 8, 9, 10]
    assert [g.completions[0].version for g in groups] == [0, 1, 1, 1]
    assert source.metrics["rollout/age"] == 0.25


def test_prompts_are_let_go_once_they_are_learned_from_or_set_aside():
    """Their pixels are what fills the memory of a long run."""
    alive, seen = [], []

    class Watching(Scripted):
        def generate(self, prompts, sampling, on_group=None):
            alive.append([prompt.stream for prompt in (reference() for reference in seen) if prompt])
            seen.extend(weakref.ref(prompt) for prompt in prompts)
            return super().generate(prompts, sampling, on_group)

    engine = Watching(lambda n: 2 if n >= 3 else 0)
    train(
        policy=SimpleNamespace(update=lambda batch: {"policy/tokens": 1.0}),
        sampler=sampler(engine, stream()),
        batcher=SimpleNamespace(batches=lambda groups, progress: [groups], metrics={}),
        sync=SharedWeights(engine),
        length=RunLength(RunSettings(steps=2), 50),
        monitor=Silent(),
    )
    # The second round keeps what the first found, the second step the first's leftover.
    assert engine.calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert alive == [[], [3], [7]]


def test_a_step_says_what_it_is_doing_and_how_far_it_is():
    said = []

    def now(what, total=0, done=int):
        said.append((what, total, done))

    class Slow(Scripted):
        def generate(self, prompts, sampling, on_group=None):
            self.finished += 3
            what, total, done = said[-1]
            assert (what, total, done()) == ("sampling", len(prompts) * G, 3)
            return super().generate(prompts, sampling, on_group)

    engine = Slow(lambda n: 1)
    engine.finished = 500  # of the steps before
    source = sampler(engine, stream())
    source.now = now
    train(
        policy=SimpleNamespace(update=lambda batch: {"policy/tokens": 1.0}),
        sampler=source,
        batcher=SimpleNamespace(batches=lambda groups, progress: [groups[:2], groups[2:]], metrics={}),
        sync=SharedWeights(engine),
        length=RunLength(RunSettings(steps=1), 50),
        monitor=Silent(now=now),
    )
    counted = [(what, done(), total) for what, total, done in said if what in ("scoring", "updating")]
    assert counted == [*(("scoring", i, 4) for i in range(4)), ("updating", 0, 2), ("updating", 1, 2)]
    assert {what for what, _, _ in said} >= {
        "preparing prompts",
        "preparing the update",
        "handing over the new weights",
    }


def test_leftovers_over_the_maximum_age_are_thrown_away():
    engine = Scripted(lambda n: 2 if n in (3,) or n >= 4 else 0)
    source = sampler(engine, stream(), max_age=0)
    source.next_groups()
    engine.version = 1
    assert drawn(source.next_groups()) == [8, 9, 10, 11]


def test_a_bound_on_rounds_ends_in_an_error_that_says_what_to_change():
    with pytest.raises(UserError, match=r"5 rounds of sampling found only 0 of 4 informative groups.*max_rounds"):
        sampler(Scripted(lambda n: G), stream(count=1000)).next_groups()


@pytest.mark.parametrize("found", [0, 1])
@pytest.mark.parametrize("cut", range(G + 1))
def test_where_most_responses_are_cut_off_that_is_what_is_said_to_change(found, cut):
    notes = []
    engine = Scripted(lambda n: 2 if n < found else 0, lambda i: "length" if i < cut else "stop")
    source = sampler(engine, stream(count=1000, note=notes.append), max_rounds=2, max_new_tokens=77)
    try:
        source.next_groups()
    except UserError as error:
        assert found == 0
        notes.append(str(error))
    (said,) = notes
    long = f"{cut * 25}% of the responses were cut off at rollout.max_new_tokens = 77"
    assert (long in said) == (cut > 2) and ("max_rounds" in said) == (cut <= 2)


def test_later_rounds_of_a_step_say_which_they_are():
    said = []
    source = sampler(Scripted(lambda n: 2 if n >= 4 else 0), stream())
    source.now = lambda what, total=0, done=int: said.append(what)
    source.next_groups()
    assert list(dict.fromkeys(said)) == [
        *("preparing prompts", "sampling", "scoring"),
        *("round 2: preparing prompts", "round 2: sampling", "round 2: scoring"),
    ]


def test_a_step_that_cannot_be_filled_is_smaller_and_said_so():
    """Whatever the share of questions that teach: the groups of the rounds, and an error only where there are none."""
    for seed in range(200):
        rng, notes = random.Random(seed), []
        teaches = [rng.random() < rng.choice([0, 0.05, 0.3]) for _ in range(100)]
        source = sampler(
            Scripted(lambda n, teaches=teaches: 2 * teaches[n]), stream(100, note=notes.append), max_rounds=2
        )
        try:
            groups = source.next_groups()
        except UserError:
            assert not any(teaches[n] for n in drawn(source.sampled)) and not notes
            continue
        found = [n for n in drawn(source.sampled) if teaches[n]]
        assert drawn(groups) == found[:4] and groups and drawn(source.leftovers) == found[4:]
        missing = 4 - len(groups)
        assert source.metrics["rollout/groups_missing"] == missing
        warning = (
            f"step 1: 2 rounds of sampling found only {len(groups)} of 4 informative groups, so the step is smaller"
        )
        assert [note.split(";")[0] for note in notes] == [warning] * (missing > 0)
        assert missing == 0 or source.metrics["rollout/rounds"] == 2


def test_a_run_goes_on_over_small_steps_and_resumes_from_any_of_them():
    def passes(n):
        return 2 if n % 7 == 3 else G

    def made(notes):
        engine = Scripted(passes)
        return sampler(engine, stream(1000, note=notes.append), max_rounds=2), engine

    def run(source, engine, length, step=0):
        config = TrainSettings(
            model={"path": "m"},
            data={"path": "d"},
            objective={"bonus_min_length": 0},
            optimizer={"minibatch": 2, "lr": 1.0, "warmup": 0, "schedule": "linear", "min_lr_ratio": 0},
        )
        seen = []

        def update(batch):
            weights = sum(float(each.loss_weights.sum()) for each in batch.groups)
            seen.append((drawn(each.group for each in batch.groups), round(weights, 6), batch.learning_rate))
            return {"policy/tokens": 1.0}

        engine.version = step
        train(
            policy=SimpleNamespace(update=update),
            sampler=source,
            batcher=Batcher(config, None, None),
            sync=SharedWeights(engine),
            length=RunLength(RunSettings(steps=length), 1000),
            monitor=Silent(step),
        )
        return seen

    notes = []
    whole = run(*made(notes), 6)
    sizes = [len(groups) for groups, _, _ in whole]
    assert set(sizes) == {1, 2} and len(notes) == 3  # later ones are counted
    assert all(weight == size / 2 for size, (_, weight, _) in zip(sizes, whole, strict=True))
    rates = [rate for *_, rate in whole]
    assert rates == sorted(rates, reverse=True) and rates[-1] == 0
    for stop in range(1, 6):
        source, engine = made([])
        first = run(source, engine, stop)
        resumed, engine = made([])
        resumed.load_state_dict(source.state_dict())
        rest = run(resumed, engine, 6, stop)
        assert [update[0] for update in first + rest] == [update[0] for update in whole]
        assert rest == whole[len(first) :]


def test_advantages_are_estimated_once_a_group_leftovers_and_all(monkeypatch):
    estimated, monitor = [], Silent()
    group_norm = advantages.group_norm
    monkeypatch.setattr(advantages, "group_norm", lambda rewards: estimated.append(len(rewards)) or group_norm(rewards))
    engine = Scripted(lambda n: 2 if n in (3,) or n >= 4 else 0)
    source = sampler(engine, stream())
    train(
        policy=SimpleNamespace(update=lambda batch: {"policy/tokens": 1.0}),
        sampler=source,
        batcher=Batcher(TrainSettings(model={"path": "m"}, data={"path": "d"}), None, None),
        sync=SharedWeights(engine),
        length=RunLength(RunSettings(steps=3), 50),
        monitor=monitor,
    )
    assert monitor.lasts == [False, False, True]
    assert sum(estimated) == sum(map(len, engine.calls)) == sum(len(rows) for _, rows in monitor.rollouts) / G > 12


def test_what_an_unfinished_step_sampled_is_written_before_the_error():
    monitor = Silent(step=6)
    source = sampler(Scripted(lambda n: G), stream(count=1000), max_rounds=2)
    with pytest.raises(UserError, match="2 rounds of sampling"):
        train(
            policy=None,
            sampler=source,
            batcher=None,
            sync=SharedWeights(source.engine),
            length=RunLength(RunSettings(steps=9), 1000),
            monitor=monitor,
        )
    ((step, rows),) = monitor.rollouts
    assert (step, len(rows), monitor.step) == (7, len(source.sampled) * G, 6)
    assert [row["id"] for row in rows[:: 2 * G]] == ["0", "2", "4", "6"]


def test_pass_rates_go_to_the_order():
    class Recording:
        def __init__(self):
            self.rows = iter([3, 1, 3, 0])
            self.heard = []

        def next(self):
            return next(self.rows)

        def record(self, row, pass_rate):
            self.heard.append((row, pass_rate))

        def metrics(self):
            return {"order/heard": float(len(self.heard))}

    order = Recording()
    source = sampler(Scripted(lambda n: n), PromptStream(examples(4), order, encode, print, limit=4))
    source.next_groups()
    assert order.heard == [(3, 0.0), (1, 0.25), (3, 0.5), (0, 0.75)]
    assert source.metrics["order/heard"] == 4


def test_without_dynamic_sampling_every_group_is_returned():
    source = sampler(Scripted(lambda n: G), stream(), dynamic_sampling=False)
    assert drawn(source.next_groups()) == [0, 1, 2, 3]
    assert source.metrics["rollout/groups_used"] == 0


def test_ends_with_what_there_is_when_the_prompts_run_out():
    source = sampler(Scripted(lambda n: 2), stream(limit=6), dynamic_sampling=False)
    assert drawn(source.next_groups()) == [0, 1, 2, 3] and not source.exhausted
    assert drawn(source.next_groups()) == [4, 5] and source.exhausted
    assert source.next_groups() == []


def test_state_resumes_where_it_was_leftovers_and_all():
    def passes(n):
        return 2 if n in (3,) or n >= 4 else 0

    engine = Scripted(passes)
    source = sampler(engine, stream())
    source.next_groups()
    state = source.state_dict()
    expected = drawn(source.next_groups()) + drawn(source.next_groups())
    resumed = sampler(Scripted(passes), stream())
    resumed.load_state_dict(state)
    assert drawn(resumed.next_groups()) + drawn(resumed.next_groups()) == expected
