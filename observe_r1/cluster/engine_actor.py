"""One engine in a process of its own, as the pool of engines (`engines`) and the first rank (`weights`) see it."""

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import ray
import torch

from observe_r1.cluster.carrying import carry_tensors
from observe_r1.cluster.weights import WeightReceiver, weight_receiver
from observe_r1.config import ModelSettings, QuestionSettings, SamplerSettings
from observe_r1.model.device import compute_dtype
from observe_r1.model.loading import load_model
from observe_r1.records import Completion, Prompt, Sampling
from observe_r1.registry import load
from observe_r1.rollout.engine import TrainingMemory


class EngineActor:
    """One engine in a process of its own: one thread steps it, and between two steps does what else is asked.

    While it takes new weights it does not step: they and their version change between the same two tokens.
    """

    def __init__(self) -> None:
        carry_tensors()
        self.engine: Any = None
        self._receiver: WeightReceiver
        self._updating = False
        self._asked: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._open: dict[int, tuple[int, Future[Any]]] = {}
        self._taken = 0
        self._wanting: list[tuple[int, Future[int]]] = []
        threading.Thread(target=self._work, daemon=True).start()

    async def start(
        self,
        model: ModelSettings,
        rollout: SamplerSettings,
        data: QuestionSettings,
        training: TrainingMemory | None,
        threads: int,
        gpus: int,
    ) -> tuple[tuple[str, int], int, list[str]]:
        """Start the engine that `rollout` names.

        Args:
            model: What it samples with, at first the weights on disk.
            rollout: `rollout`.
            data: Has the longest prompt.
            training: What is trained on the same GPU.
            threads: That torch computes with.
            gpus: Over which its layers are split; with more than one `rollout` names vLLM.

        Returns:
            Its process (`Seat.process`), how many responses it decodes at once, and what it notes.
        """

        process = ray.get_runtime_context().get_node_id(), os.getpid()

        def begin() -> tuple[tuple[str, int], int, list[str]]:
            torch.set_num_threads(threads)
            kind, notes = load("engine", rollout.engine), list[str]()
            vlm = load_model(model, frozen=True, weights=not hasattr(kind, "load_weights"))
            vlm.model.eval()
            split = {"gpus": gpus} if gpus > 1 else {}
            self.engine = kind.from_settings(vlm, rollout, data, compute_dtype(model), training, notes.append, **split)
            self._receiver = weight_receiver(self.engine)
            return process, self.engine.rows, notes

        return await self._between_steps(begin)

    async def do(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return `function(engine, *args)`, called between two steps."""
        return await self._between_steps(lambda: function(self.engine, *args))

    async def sample(self, number: int, prompt: Prompt, sampling: Sampling) -> list[Completion]:
        """Return the completions of a prompt, once all have ended; `number` is the pool's, for `drop`."""
        ended: Future[list[Completion]] = Future()

        def done(completions: list[Completion]) -> None:
            del self._open[number]
            ended.set_result(completions)

        def add() -> None:
            self._taken += 1
            self._open[number] = self.engine.add(prompt, sampling, done), ended

        await self._between_steps(add)
        return await asyncio.wrap_future(ended)

    async def room(self, taken: int) -> int:
        """Return how many more responses it can decode at once, as soon as that is not 0.

        Args:
            taken: Prompts that it must have taken in before. Ray may hand over this call before an earlier one whose
                arguments are larger.
        """
        wanted: Future[int] = Future()
        await self._between_steps(lambda: self._wanting.append((taken, wanted)))
        return await asyncio.wrap_future(wanted)

    async def drop(self, numbers: Sequence[int]) -> None:
        """Forget prompts."""

        def forget() -> None:
            self.engine.drop([self._open.pop(number)[0] for number in numbers if number in self._open])

        await self._between_steps(forget)

    async def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Meet the ranks; see `WeightReceiver`."""
        await self._between_steps(lambda: self._receiver.init_weight_transfer_engine(init_info))

    async def start_weight_update(self) -> None:
        """Begin; see `WeightReceiver`."""

        def begin() -> None:
            self._updating = True
            self._receiver.start_weight_update()

        await self._between_steps(begin)

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive; see `WeightReceiver`."""
        await self._between_steps(lambda: self._receiver.update_weights(update_info))

    async def finish_weight_update(self, version: int) -> None:
        """End; see `WeightReceiver`. From now on tokens bear `version`."""

        def end() -> None:
            self._receiver.finish_weight_update()
            self.engine.version = version
            self._updating = False

        await self._between_steps(end)

    async def alive(self) -> int:
        """Return the id of this process, at once."""
        return os.getpid()

    async def _between_steps(self, work: Callable[[], Any]) -> Any:
        done: Future[Any] = Future()
        self._asked.put((work, done))
        return await asyncio.wrap_future(done)

    def _work(self) -> None:
        """Do what is asked and step, without end."""
        while True:
            while self._idle() or not self._asked.empty():
                work, done = self._asked.get()
                try:
                    done.set_result(work())
                except BaseException as error:  # noqa: BLE001  (it is raised where the result is asked for)
                    done.set_exception(error)
                self._tell_room()
            try:
                self.engine.step()
            except BaseException as error:  # noqa: BLE001  (it is raised for every prompt in flight)
                opened, self._open = list(self._open.values()), {}
                self.engine.drop([number for number, _ in opened])
                for _, ended in opened:
                    ended.set_exception(error)
            self._tell_room()

    def _idle(self) -> bool:
        return self.engine is None or self._updating or not self.engine.unfinished

    def _tell_room(self) -> None:
        if self.engine is not None and (room := self.engine.rows - self.engine.unfinished) > 0:
            told = [wanted for taken, wanted in self._wanting if taken <= self._taken]
            self._wanting = [each for each in self._wanting if each[0] > self._taken]
            for wanted in told:
                wanted.set_result(room)
