"""Flags of OpenRLHF that place a run on GPUs: what several of them together make of the section `cluster`."""

from observe_r1.cli.openrlhf.kinds import Flag, Translation, integer
from observe_r1.errors import UserError

_NODES, _EACH = "actor nodes", "GPUs of each"
_ENGINES, _TENSOR_PARALLEL = "engines", "GPUs of an engine"
_TOGETHER, _STAGE, _ASYNC, _QUEUE = "together", "ZeRO stage", "asynchronous", "queue"

_ORIGINAL_EACH = 8
"""`--actor_num_gpus_per_node` where only other numbers are given."""

_CAP = 5.0
"""Of the importance weights under `--async_train`, as under `--enable_vllm_is_correction`."""


def _number(what: str, sets: tuple[str, ...], remark: str) -> Flag:
    """Make a flag whose number `place` reads."""

    def rule(translation: Translation, words: list[str]) -> None:
        number = integer(translation, words[0])
        other, before = translation.asked.get(what, (translation.flag, number))
        if before != number:
            raise UserError(f"--{other} {before} and --{translation.flag} {number} contradict each other: give one")
        translation.asked[what] = (translation.flag, number)

    return Flag(sets, remark, rule)


def _asks(what: str, sets: tuple[str, ...], remark: str) -> Flag:
    """Make a flag without a value that `place` reads."""

    def rule(translation: Translation, words: list[str]) -> None:
        translation.asked[what] = (translation.flag, 1)

    return Flag(sets, remark, rule, "none")


PLACED = {
    "actor_num_nodes actor.num_nodes": _number(
        _NODES,
        ("cluster.gpus", "cluster.address"),
        "nodes × GPUs of each, and under `apart` those of the engines; on several nodes the address is auto",
    ),
    "actor_num_gpus_per_node actor.num_gpus_per_node": _number(
        _EACH, ("cluster.gpus",), f"{_ORIGINAL_EACH} where only other numbers are given; 1 in all is one process"
    ),
    "vllm_num_engines vllm.num_engines": _number(
        _ENGINES,
        ("cluster.engines", "rollout.engine"),
        "vllm; engines have GPUs of their own (cluster.layout: apart) without --colocate_all_models",
    ),
    "vllm_tensor_parallel_size vllm.tensor_parallel_size": _number(
        _TENSOR_PARALLEL, ("cluster.tensor_parallel",), "with --vllm_num_engines"
    ),
    "colocate_all_models train.colocate_all": _asks(_TOGETHER, ("cluster.layout",), "colocated"),
    "zero_stage ds.zero_stage": _number(
        _STAGE, ("cluster.reshard",), "3: true; 2, 1 and 0: false; no effect on one GPU"
    ),
    "async_train train.async_enable": _asks(
        _ASYNC,
        ("rollout.ahead", "objective.old_logprobs", "objective.importance_cap"),
        f"--async_queue_size or 1, policy, and {_CAP:g} unless another flag says so; no effect without engines on GPUs"
        " of their own",
    ),
    "async_queue_size train.async_queue_size": _number(_QUEUE, ("rollout.ahead",), "with --async_train"),
}
"""The names of each of these flags; their numbers are only collected, and `place` is called after all."""


def place(translation: Translation) -> None:
    """Set the section `cluster` as the collected flags say together.

    Raises:
        UserError: a number is below 1, or colocated engines need more GPUs than there are.
    """
    asked = translation.asked
    if asked and "cluster.gpus" not in translation.known:
        _say(translation, "no effect: this command uses one GPU", *asked)
        return
    for what in (_NODES, _EACH, _TENSOR_PARALLEL, _QUEUE):
        if what in asked and asked[what][1] < 1:
            raise UserError(f"--{asked[what][0]} {asked[what][1]}: must be 1 or more")
    if not {_NODES, _EACH, _ENGINES}.isdisjoint(asked):
        _place_gpus(translation)
    elif _TOGETHER in asked:
        _say(translation, "no effect: sampling and training take turns in one process", _TOGETHER)
    if _TENSOR_PARALLEL in asked and _ENGINES not in asked:
        _say(translation, "no effect without --vllm_num_engines", _TENSOR_PARALLEL)
    _shard(translation)
    _sample_ahead(translation)


def _place_gpus(translation: Translation) -> None:
    asked = translation.asked
    numbers = {what: asked[what][1] if what in asked else 1 for what in (_NODES, _TENSOR_PARALLEL)}
    each = asked[_EACH][1] if _EACH in asked else _ORIGINAL_EACH
    policy = numbers[_NODES] * each
    engines = asked[_ENGINES][1] if _ENGINES in asked else 0
    if engines < 0:
        raise UserError(f"--{asked[_ENGINES][0]} {engines}: must be 0 or more")
    sampling = engines * numbers[_TENSOR_PARALLEL]
    together = _TOGETHER in asked or not engines
    if together and sampling > policy:
        raise UserError(
            f"--{asked[_ENGINES][0]} {engines} × {numbers[_TENSOR_PARALLEL]} GPUs of each are {sampling}, and"
            f" --colocate_all_models puts them on the policy's, which are {policy}: give fewer engines or more GPUs"
        )
    gpus = policy if together else policy + sampling
    names = [what for what in (_NODES, _EACH, _ENGINES, _TENSOR_PARALLEL, _TOGETHER) if what in asked]
    if gpus == 1:
        _say(translation, "no effect: sampling and training take turns on one GPU, in one process", *names)
        return
    translation.flag = asked[names[0]][0]
    translation["cluster.gpus"] = gpus
    translation["cluster.layout"] = "colocated" if together else "apart"
    where = f"{gpus} GPUs" if together else f"{policy} GPUs train, {sampling} others sample"
    default = "" if _EACH in asked else f" (--actor_num_gpus_per_node is {_ORIGINAL_EACH}, as in the original)"
    if engines:
        translation["cluster.engines"] = engines
        translation["cluster.tensor_parallel"] = numbers[_TENSOR_PARALLEL]
        translation["rollout.engine"] = "vllm"
        where += f", {engines} engines ({translation['rollout.engine']})"
    if numbers[_NODES] > 1:
        translation["cluster.address"] = "auto"
        where += ", on the Ray cluster that this machine belongs to (cluster.address: auto)"
    _say(translation, f"{where}, cluster.layout: {translation['cluster.layout']}{default}", *names)


def _shard(translation: Translation) -> None:
    if _STAGE not in translation.asked:
        return
    flag, stage = translation.asked[_STAGE]
    if stage not in (0, 1, 2, 3):
        raise UserError(f"--{flag} {stage}: only 0, 1, 2 and 3 are stages")
    if not _is_cluster(translation):
        _say(translation, "no effect: one process has nothing to shard", _STAGE)
        return
    translation.flag = flag
    translation["cluster.reshard"] = stage == 3
    if stage < 2:
        _say(translation, "as stage 2: weights, gradients and optimizer state are sharded all the same", _STAGE)


def _sample_ahead(translation: Translation) -> None:
    asked = translation.asked
    if _ASYNC not in asked:
        if _QUEUE in asked:
            _say(translation, "no effect without --async_train", _QUEUE)
        return
    names = [what for what in (_ASYNC, _QUEUE) if what in asked]
    if not _is_cluster(translation) or translation["cluster.layout"] != "apart":
        _say(translation, "no effect: sampling ahead needs engines on GPUs of their own", *names)
        return
    translation.flag = asked[_ASYNC][0]
    translation["rollout.ahead"] = asked[_QUEUE][1] if _QUEUE in asked else 1
    translation["objective.old_logprobs"] = "policy"
    if translation["objective.importance_cap"] is None:
        translation["objective.importance_cap"] = _CAP
    cap = translation["objective.importance_cap"]
    _say(translation, f"sampling may be ahead, corrected by importance weights of at most {cap}", *names)


def _is_cluster(translation: Translation) -> bool:
    return translation["cluster.gpus"] is not None or translation["cluster.address"] is not None


def _say(translation: Translation, text: str, *asked: str) -> None:
    """Tell the user `text` about these of the collected flags."""
    for what in asked:
        translation.flag = translation.asked[what][0]
        translation.say(text)
