"""Where models that are asked and not trained are loaded: in this process, or on the engines of `cluster`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

from observe_r1.cluster.placement import open_ray
from observe_r1.config import EvaluateSettings, LadderSettings
from observe_r1.ladder.inference import EngineMaker, Loaded, load_engine
from observe_r1.rollout.server import ChatServer, encode_chat
from observe_r1.run.progress import Progress


def at_server(server: ChatServer) -> EngineMaker:
    """Return what starts the model at `server`, which has it loaded."""
    return lambda _, asked: nullcontext((server, partial(encode_chat, model=asked.model)))


@contextmanager
def engines_for(settings: LadderSettings | EvaluateSettings, view: Progress) -> Iterator[EngineMaker]:
    """Give what starts a model's engine, and end after the block what it has started.

    Ray starts with the first model: a stage that is complete needs none. Ctrl-C while one is loaded ends the command.

    Args:
        settings: Of the command.
        view: Shows what is being started.
    """
    makers: list[EngineMaker] = [] if settings.cluster.used else [load_engine]
    with ExitStack() as stack:

        def maker() -> EngineMaker:
            if not makers:
                from observe_r1.cluster.engines_alone import engines_on_ray  # with Ray, which is an extra

                view.now("starting Ray")
                device = stack.enter_context(open_ray(settings.cluster, settings.model.device))
                threads = settings.run.threads or 1
                makers.append(stack.enter_context(engines_on_ray(settings.cluster, device, threads, view)))
            return makers[0]

        @contextmanager
        def start(path: str, asked: LadderSettings) -> Iterator[Loaded]:
            with ExitStack() as model:
                with view.stop.at_once():
                    view.now(f"loading {path}")
                    loaded = model.enter_context(maker()(path, asked))
                yield loaded

        yield start
