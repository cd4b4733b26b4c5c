"""One rank's part of the policy: the same calls on every rank, each with the whole batch.

All ranks plan the same passes from the batch alone, so that no message says who does what. In each pass every rank runs
one pack: its own, or if there is none left for it, the smallest response of the batch, whose gradient counts
nothing. Where some rank's pack has images and the tower is trained, those without run the tower on a blank image; where
none has, all leave it out. So every rank gathers the same weights in the same order, and none waits for another that
never comes.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh

from observe_r1.cluster.balance import Piece, plan_passes
from observe_r1.cluster.sharding import gathered_together, policy_mesh, shard, sharded_modules
from observe_r1.config import ClusterSettings, ObjectiveSettings, OptimizerSettings
from observe_r1.errors import UserError
from observe_r1.model.checkpoint import brief
from observe_r1.model.device import MACHINE_FAULTS
from observe_r1.model.families import shares_prefix
from observe_r1.model.filling import is_empty
from observe_r1.model.forward import trains_tower
from observe_r1.model.loading import VisionLanguageModel
from observe_r1.policy.packing import Pack, ResponseSpan, build_pack, pieces_within
from observe_r1.policy.policy import Policy
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.records import Completion, Example, Group, Prompt
from observe_r1.rollout.engine import TrainingMemory
from observe_r1.training.weight_sync import training_memory


class ShardedPolicy(Policy):
    """A policy whose weights, gradients and moments are sharded over the ranks of torch's process group.

    `update` and `logprobs` are those of `Policy`, but every rank calls them together and with the same groups, and all
    get the same metrics, log-probabilities and errors.

    Args:
        vlm: The model, the same on every rank, or loaded without weights; sharded in place. Weights that are trained
            are float32.
        optimizer: The optimizer; `tokens_per_pack` counts for each rank.
        objective: Clip bounds and KL of the loss.
        cluster: How the weights are sharded.
        temperature: Of the distribution that responses are sampled from.
        dtype: Compute type; weights that are not trained are held in it already.
        per_machine: Ranks on each machine, numbered machine by machine; None if all are on one.

    Raises:
        UserError: No parameter is trained, `cluster.shard` does not divide the ranks, or the optimizer cannot be
        sharded.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        optimizer: OptimizerSettings,
        objective: ObjectiveSettings,
        cluster: ClusterSettings,
        *,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
        per_machine: int | None = None,
    ) -> None:
        if optimizer.kind == "adamw_8bit":
            raise UserError(
                "optimizer.kind = 'adamw_8bit': bitsandbytes cannot step sharded weights: take adamw, whose moments "
                "are sharded, too, or optimizer.offload"
            )
        self.cluster = cluster
        self.mesh = policy_mesh(cluster, vlm.device.type, per_machine)
        super().__init__(vlm, optimizer, objective, temperature=temperature, dtype=dtype)

    def _start(self, temperature: float) -> None:
        self.logprob_model: LogprobModel = ShardedLogprobModel(
            self.vlm, self.settings, self.cluster, self.mesh, temperature=temperature, dtype=self.dtype
        )

    def base(self) -> LogprobModel:
        """Return the model under the LoRA adapters, which never changes, as a reference that takes no memory."""
        model = copy(self.logprob_model)
        model.adapters = False
        return model


def rank_memory(policy: ShardedPolicy, reference: LogprobModel | None) -> TrainingMemory:
    """Return the bytes that training takes on this rank's device, without activations.

    To its shards (`training_memory`) an update adds weights as they are gathered, in the compute type, and their
    gradients in float32 until they are reduced: the root's for the whole pass, and two layers', one of them ahead; of
    all layers the weights, where `cluster.reshard` is off.

    Args:
        policy: Of this rank.
        reference: As for `training_memory`.
    """
    memory = training_memory(policy, reference)
    *layers, root = gathered_together(policy.logprob_model.score)
    layers.sort(key=_numbers, reverse=True)
    kept = [*root, *(weight for layer in layers[: 2 if policy.cluster.reshard else None] for weight in layer)]
    reduced = [weight for part in (root, *layers[:2]) for weight in part if weight.requires_grad]
    weights = sum(weight.numel() * min(weight.itemsize, policy.dtype.itemsize) for weight in kept)
    gradients = memory.update["gradients"] + sum(weight.nbytes for weight in reduced)
    return replace(memory, update={"gathered weights": weights, "gradients": gradients})


def _numbers(weights: Sequence[Tensor]) -> int:
    return sum(weight.numel() for weight in weights)


class ShardedLogprobModel(LogprobModel):
    """A sharded source of log-probabilities: of the policy, or of a frozen reference model.

    Args:
        vlm: The model, the same on every rank, or loaded without weights; sharded in place.
        settings: Token budget of a pack on each rank, rows of logits at once, offloading.
        cluster: How the weights are sharded.
        mesh: Of `policy_mesh`.
        temperature: Of the distribution that is scored.
        dtype: Compute type.

    Raises:
        UserError: The model was loaded without weights, and with them it cannot compute.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        settings: OptimizerSettings,
        cluster: ClusterSettings,
        mesh: DeviceMesh,
        *,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(vlm, settings, temperature=temperature)
        self.trains_tower = trains_tower(vlm.model)
        self._costs = _Costs(vlm)
        unchecked = is_empty(vlm.model)
        shard(self.score, mesh, dtype=dtype, reshard=cluster.reshard, offload=settings.offload)
        if unchecked:
            self._check_computes()

    def _check_computes(self) -> None:
        """Score a word after an image, as `load_model` has a whole model do; all ranks together."""
        vlm, place = self.vlm, f"model.path = {self.vlm.model.config.name_or_path!r}"
        try:
            (logprobs,) = self.logprobs([_trial(vlm)])
        except MACHINE_FAULTS:
            raise
        except Exception as error:  # whatever values that do not fit make transformers raise
            raise UserError(f"{place}: config.json describes a model that cannot compute: {brief(error)}") from error
        vlm.features.clear()
        if not all(tensor.isfinite().all() for tensor in (logprobs, *vlm.model.buffers())):
            raise UserError(f"{place}: the model answers NaN or infinity to any question: correct its config.json")

    def packs(self, groups: Sequence[Group]) -> Iterator[Pack]:
        """Yield this rank's pack of each pass."""
        if not groups:
            return
        shared = shares_prefix(self.vlm.model)
        pieces = [
            Piece(span, size, self._costs.work(groups[span.group], span))
            for index, group in enumerate(groups)
            for span, size in pieces_within(group, index, self.budget, shared)
        ]
        idle = _smallest_response(groups)
        rank, ranks = distributed.get_rank(), distributed.get_world_size()
        for each in plan_passes(pieces, self.budget if shared else 0, ranks):
            run = [tuple(piece.span for piece in members) or (idle,) for members in each]
            shown = [any(groups[span.group].prompt.image_grid is not None for span in spans) for spans in run]
            yield replace(
                build_pack(self.vlm, groups, run[rank]),
                share=1.0 if each[rank] else 0.0,
                blank_image=self.trains_tower and any(shown) and not shown[rank],
            )
        # What no backward pass has given back: the next step's weights are others.
        for module in sharded_modules(self.score):
            module.reshard()

    def joined(self, values: Tensor) -> Tensor:
        """Return the sum of all ranks' values."""
        distributed.all_reduce(values)
        return values


class _Costs:
    """What a piece costs, in multiply-adds of the forward pass: the parameters that each token and patch meets.

    A frozen tower has no backward pass, two thirds of the arithmetic; attention is left out, a tenth of it at 2,000
    tokens of a 3B model.

    Args:
        vlm: Not sharded yet.
    """

    def __init__(self, vlm: VisionLanguageModel) -> None:
        def size(part: torch.nn.Module) -> int:
            return sum(weight.numel() for weight in part.parameters())

        model = vlm.model
        self._token, self._target = size(model.model.language_model.layers), size(model.lm_head)
        self._patch = size(model.model.visual.blocks) // (1 if trains_tower(model) else 3)

    def work(self, group: Group, span: ResponseSpan) -> int:
        """Return the cost of a span, its prompt included."""
        lengths = group.lengths[span.first : span.last]
        grid = group.prompt.image_grid
        patches = 0 if grid is None else int(grid.prod(dim=1).sum())
        tokens = len(group.prompt.ids) + sum(lengths) - len(lengths)
        return tokens * self._token + sum(lengths) * self._target + patches * self._patch


def _trial(vlm: VisionLanguageModel) -> Group:
    """Return a group of one response of one token, to an image of four between two words."""
    images = vlm.processor.image_processor
    side = 2 * images.merge_size  # in patches
    ids = torch.tensor([0, *[vlm.model.config.image_token_id] * 4, 0])
    prompt = Prompt(
        ids=ids,
        token_types=(ids == vlm.model.config.image_token_id).long(),
        pixel_values=torch.zeros(side**2, 3 * images.temporal_patch_size * images.patch_size**2),
        image_grid=torch.tensor([[1, side, side]]),
        image_digests=(b"",),
        stream=0,
    )
    nothing = torch.zeros(1)
    response = Completion(ids=torch.tensor([0]), logprobs=nothing, text="", version=0, finish="stop")
    example = Example(id="", messages=(), images=(), answer="")
    return Group(example, prompt, (response,), nothing, nothing.bool(), nothing, 0.0, nothing)


def _smallest_response(groups: Sequence[Group]) -> ResponseSpan:
    """Choose what an idle rank runs: of a prompt without images if there is one, and of those the shortest."""
    index, group = min(
        enumerate(groups), key=lambda each: (each[1].prompt.image_grid is not None, _shortest_sequence(each[1]))
    )
    first = min(range(len(group.lengths)), key=group.lengths.__getitem__)
    return ResponseSpan(index, first, first + 1)


def _shortest_sequence(group: Group) -> int:
    return len(group.prompt.ids) + min(group.lengths)
