"""A run's scheduler, simulated: engines that sample responses of unlike lengths, training, weights on their way.

Step n is sampled once step n − 1 is, and step n − `ahead` has been handed out for training (`training.ahead`); it is
handed out once it is sampled and the weights of step n − 1 are published. Publishing holds all engines up; responses in
flight go on after it, under the new weights. Nothing else couples sampling and training, so the steps can be worked out
one by one.

    ahead 0   sample 1 · train 1 · publish · sample 2 · train 2 · publish …
    ahead 1   sample 1 · train 1 · publish · train 2 …
                         sample 2          · sample 3 …

Each engine decodes all its rows at once, a token of each in `token_seconds(rows)`: fast when few are left, and never
full then. That tail, of the longest responses of a rollout, is what a mean length does not show.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Rollout = Sequence[Sequence[int]]
"""Lengths of the responses to each prompt, in tokens."""
Pause = tuple[float, float]
"""From when to when engines wait for new weights."""


@dataclass(frozen=True)
class Workload:
    """What sampling and training take."""

    engines: int
    rows: int
    """Responses that an engine decodes at once; a prompt's are taken together, even if they are more."""
    prompt_seconds: float
    """An engine's time to compute a prompt; its other rows wait meanwhile."""
    token_seconds: Callable[[int], float]
    """An engine's time to decode one token of each of so many rows."""
    train_seconds: Callable[[int], float]
    """Time to train on so many response tokens."""
    publish_seconds: float
    """Time until all engines have the new weights; where engines and policy take turns, waking and sleeping too."""
    ahead: int = 0


@dataclass(frozen=True)
class Step:
    """When one step was what, in seconds from the start, and how old its tokens were when trained on, in versions."""

    sampling: float
    """From then on."""
    sampled: float
    handed_out: float
    trained: float
    published: float
    tokens: int
    mean_age: float
    oldest: int


def simulate(work: Workload, rollouts: Sequence[Rollout]) -> list[Step]:
    """Return what comes of one rollout after another."""
    steps: list[Step] = []
    pauses: list[Pause] = []
    for number, rollout in enumerate(rollouts):
        before = number - max(1, work.ahead)
        start = steps[-1].sampled if steps else 0.0
        if work.ahead == 0:
            start = steps[-1].published if steps else 0.0
        elif before >= 0:
            start = max(start, steps[before].handed_out)
        tokens = sum(map(sum, rollout))
        sampled, ages = _sample(work, rollout, start, pauses)
        handed_out = max(sampled, steps[-1].published if steps else 0.0)
        trained = handed_out + work.train_seconds(tokens)
        published = trained + work.publish_seconds
        pauses.append((trained, published))
        # `ages` counts versions from the newest when the step is handed out, which `number` updates have made.
        age = sum((number - version) * count for version, count in ages.items()) / max(tokens, 1)
        oldest = max((number - version for version, count in ages.items() if count > 1e-9), default=0)
        steps.append(Step(start, sampled, handed_out, trained, published, tokens, age, oldest))
    return steps


def _sample(work: Workload, rollout: Rollout, start: float, pauses: Sequence[Pause]) -> tuple[float, dict[int, float]]:
    """Return when a rollout is sampled, and its tokens by the version of the weights that made them."""
    waiting = deque(rollout)
    engines = [_Engine(work, start, pauses) for _ in range(work.engines)]
    made: dict[int, float] = {}
    changed = _hand_out(waiting, engines, start, made)
    events: list[tuple[float, int, int]] = []
    """A heap: when an engine's next response ends, the engine, and the groups that it had taken when this was known."""
    now = start
    while True:
        for index in changed:
            if engines[index].targets:
                heapq.heappush(events, (engines[index].finishes(), index, engines[index].taken))
        if not events:
            return now, made
        now, changed = events[0][0], set()
        while events and events[0][0] <= now:  # all of one moment end before the next prompts are handed out
            _, index, taken = heapq.heappop(events)
            if taken == engines[index].taken:
                engines[index].finish(now, made)
                changed.add(index)
        changed |= _hand_out(waiting, engines, now, made)


def _hand_out(
    waiting: deque[Sequence[int]], engines: Sequence["_Engine"], now: float, made: dict[int, float]
) -> set[int]:
    """Give the next prompts, in order, to the engines that have room: each to the one with the fewest responses."""
    given = set()
    while waiting:
        room = [index for index, engine in enumerate(engines) if engine.has_room(len(waiting[0]))]
        if not room:
            break
        index = min(room, key=lambda each: len(engines[each].targets))
        engines[index].advance(now, made)
        engines[index].take(waiting.popleft())
        given.add(index)
    return given


class _Engine:
    """One engine; `clock` is until when its work is known, `progress` how many tokens each row has made until then.

    Prompts are computed one by one, and all rows wait: then `clock` is ahead of the moment.
    """

    def __init__(self, work: Workload, start: float, pauses: Sequence[Pause]) -> None:
        self.work, self.pauses, self.clock = work, pauses, start
        self.progress = 0.0
        self.taken = 0
        """Groups."""
        self.targets: list[float] = []
        """A heap: of each row, the progress at which it ends."""

    def has_room(self, rows: int) -> bool:
        return not self.targets or len(self.targets) + rows <= self.work.rows

    def take(self, lengths: Sequence[int]) -> None:
        """Compute a prompt, and start its responses."""
        self.taken += 1
        self.clock = _after(self.clock, self.work.prompt_seconds, self.pauses)
        for length in lengths:
            heapq.heappush(self.targets, self.progress + length)

    def finishes(self) -> float:
        """Return when the next response ends."""
        return _after(self.clock, (self.targets[0] - self.progress) * self._token(), self.pauses)

    def finish(self, end: float, made: dict[int, float]) -> None:
        """End all responses that end next, at `end`."""
        self.advance(end, made)
        self.progress = self.targets[0]
        while self.targets and self.targets[0] == self.progress:
            heapq.heappop(self.targets)

    def advance(self, now: float, made: dict[int, float]) -> None:
        """Decode until then; add the tokens of all rows to `made`, by version."""
        if now <= self.clock:
            return
        rows, until, worked = len(self.targets), self.clock, 0.0
        for version, (first, last) in enumerate((*self.pauses, (math.inf, math.inf))):
            running = min(first, now) - until
            if running > 0 and rows:
                made[version] = made.get(version, 0.0) + rows * running / self._token()
                worked += running
            until = max(until, min(last, now))
        if rows:
            self.progress += worked / self._token()
        self.clock = now

    def _token(self) -> float:
        return self.work.token_seconds(len(self.targets))


def _after(clock: float, seconds: float, pauses: Sequence[Pause]) -> float:
    """Return when an engine has worked for so long from `clock` on, pauses left out."""
    for first, last in pauses:
        if last <= clock:
            continue
        if clock + seconds <= first:
            break
        seconds -= max(0.0, first - clock)
        clock = last
    return clock + seconds


def draw_rollouts(
    steps: int, prompts: int, group_size: int, mean: float, spread: float, longest: int, seed: int = 0
) -> list[Rollout]:
    """Draw lengths: lognormal, so that a few are long, and cut at the longest that is allowed.

    Args:
        steps: Rollouts.
        prompts: Of each.
        group_size: Responses to a prompt.
        mean: Length in tokens, before the cut.
        spread: Standard deviation of a length's logarithm; 0 makes all alike.
        longest: `rollout.max_new_tokens`.
        seed: Of the draw.
    """
    draw = random.Random(seed)
    centre = math.log(mean) - spread**2 / 2

    def length() -> int:
        return min(longest, max(1, round(draw.lognormvariate(centre, spread))))

    return [[[length() for _ in range(group_size)] for _ in range(prompts)] for _ in range(steps)]
