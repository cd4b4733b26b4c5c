"""Engines without a policy: what measures a ladder, or evaluates, on many GPUs."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Protocol

from observe_r1.cluster import RankLostError
from observe_r1.cluster.engines import EnginePool
from observe_r1.cluster.placement import Counts, Seats, take_stock
from observe_r1.cluster.start import check_split, counted
from observe_r1.config import LadderSettings
from observe_r1.config.cluster import EngineClusterSettings
from observe_r1.errors import UserError
from observe_r1.ladder.inference import EngineMaker, Loaded, model_at
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.processor import load_processor


class View(Protocol):
    """What is told how far it is."""

    def now(self, what: str) -> None:
        """Show what is being done."""
        ...

    def note(self, text: str) -> None:
        """Print a line of its own."""
        ...


@contextmanager
def engines_on_ray(cluster: EngineClusterSettings, device: str, threads: int, view: View) -> Iterator[EngineMaker]:
    """Give what starts a model on all GPUs of `cluster`, one model at a time, on the Ray that is open.

    Args:
        cluster: Of the command.
        device: `cpu` or `cuda`.
        threads: That torch computes with, in each engine.
        view: Told what is started, and of engines that start again.

    Raises:
        UserError: There are too few GPUs, or engines die too often; what was saved is resumed.
    """
    gpus, width = take_stock(cluster, device).gpus or 1, cluster.tensor_parallel
    engines = gpus // width
    if not engines:
        raise UserError(f"cluster.tensor_parallel = {width}: an engine needs {width} GPUs, there are {gpus}: lower it")
    seats = Seats(Counts(0, engines, width, apart=True), device, cluster.timeout, view.now)
    view.note(f"{counted(engines, 'engine')} on {counted(seats.machines, 'machine')}")

    @contextmanager
    def start(path: str, settings: LadderSettings) -> Iterator[Loaded]:
        check_split(width, settings.rollout.engine)
        model = model_at(path, settings).model_copy(update={"device": device})
        view.now(f"starting {counted(engines, 'engine')}")
        pool = EnginePool(
            model,
            settings.rollout,
            settings.data,
            options=[seats.engine(number, []) for number in range(engines)],
            threads=threads,
            gpus=width,
            restarts=cluster.restarts,
            note=view.note,
            timeout=cluster.timeout,
        )
        with closing(pool):
            pool.ready()
            yield pool, partial(encode_prompt, processor=load_processor(model))

    try:
        yield start
    except RankLostError as error:
        raise UserError(f"{error}: the same command resumes after the last batch") from error
    finally:
        seats.close()
