"""The worker's side of `gloo_transfer` inside vLLM, whose worker processes import this file by `Registered`'s name."""

from typing import Any

from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferEngine
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from observe_r1.cluster.gloo_transfer import GlooInit, GlooReceiver, GlooTrainer


class GlooWeightTransferEngine(WeightTransferEngine):
    """Receives a checkpoint's weights; each worker keeps its part of them."""

    init_info_cls = GlooInit
    model: Any
    _receiver: GlooReceiver | None = None

    def init_transfer_engine(self, init_info: GlooInit) -> None:
        """Join the group; a restarted trainer's replaces the one before."""
        self.shutdown()
        self._receiver = GlooReceiver(init_info, self.parallel_config.rank)

    def start_weight_update(self) -> None:
        """Let vLLM's loaders take weights again, module by module."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive and load all weights.

        vLLM's own method waits for an accelerator, and fails if there is none.
        """
        self.receive_weights(update_info)

    def receive_weights(self, update_info: dict[str, Any]) -> None:
        """Load bucket after bucket."""
        assert self._receiver is not None
        try:
            for batch in self._receiver.receive(update_info["weights"]):
                self.model.load_weights(batch)
                batch.clear()
        except BaseException:
            # Modules that are half loaded would count these weights among the next update's.
            finalize_layerwise_reload(self.model, self.model_config)
            raise

    def finish_weight_update(self) -> None:
        """Finish the modules that wait for all weights."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Leave the group."""
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None


class Registered:
    """Adds nothing to vLLM's worker: naming it as `worker_extension_cls` has every worker process import this file."""


if "gloo" not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine("gloo", GlooWeightTransferEngine)
    WeightTransferTrainerFactory.register_engine("gloo", GlooTrainer)  # type: ignore[arg-type]  # has its methods
