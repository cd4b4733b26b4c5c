"""One rank of `test_sharded_policy`: `main` runs every case and saves what it says; RANK 0 of 0 is the local policy."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch

import observe_r1.model  # noqa: F401  # lets transformers be imported

# isort: split
from tiny import keep_float64, random_group, random_model, training_group
from torch import distributed

from observe_r1.cluster.sharded_policy import ShardedLogprobModel, ShardedPolicy, rank_memory
from observe_r1.cluster.sharding import policy_mesh
from observe_r1.config import ClusterSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from observe_r1.errors import UserError
from observe_r1.model.adapters import add_adapters
from observe_r1.policy.policy import Policy
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.records import TrainingBatch

RATE = 1e-3
FEW, MANY = 2, 5
"""Steps of most cases, and of those that stand for them on up to two ranks."""
LONG = ("tower trained", "tower frozen", "adapters", "each rank a copy")
HOW = ("budget", "chunk", "recompute", "offload", "reshard", "shard")
"""Of a case what changes how the policy computes, and not what."""
CASES = {
    "tower trained": {},
    "tower frozen": {"frozen": True},
    "one group": {"take": slice(1)},
    "text only": {"take": slice(1, 6, 2)},
    "one sub-pack a response": {"budget": 1},
    "one pack": {"budget": 10_000},
    "gradient checkpointing": {"recompute": True},
    "head by chunks": {"chunk": 4},
    "adapters": {"lora": True},
    "deepstack": {"family": "qwen3_vl"},
    "one row a response": {"family": "sliding window"},
    "tied": {"tied": True},
    "merger alone": {"only": "model.visual.merger"},
    "offload": {"offload": True},
    "kept gathered": {"reshard": False},
    "copies": {"shard": 2},
    "each rank a copy": {"shard": 1},
    "bfloat16": {"dtype": torch.bfloat16},
    "float32": {"weights": torch.float32},
}


class Patch:
    """The part of pytest's `monkeypatch` that `keep_float64` uses."""

    setattr = staticmethod(setattr)


def groups(dtype=torch.float64):
    """Images and texts, lengths far apart."""
    with_images = ([(4, 6)], [5, 9, 3]), ([(4, 4)], [6, 1, 8]), ([(4, 4), (8, 4)], [2, 2])
    texts = ([], [4, 7, 2]), ([], [30]), ([], [1])
    shapes = [shape for pair in zip(with_images, texts, strict=True) for shape in pair]
    return tuple(random_group(grids, lengths, seed=i, dtype=dtype) for i, (grids, lengths) in enumerate(shapes))


def batch(chosen, dtype):
    generator = torch.Generator().manual_seed(0)
    found = []
    for group in chosen:
        draw = [torch.randn(sum(group.lengths), generator=generator, dtype=torch.float64).to(dtype) for _ in range(5)]
        streams = {"old_logprobs": draw[2] * 0.3 - 5, "reference_logprobs": draw[3] * 0.3 - 5}
        streams |= {"token_advantages": draw[0], "loss_weights": draw[1].abs() / 10, "kl_weights": draw[4].abs() / 100}
        found.append(replace(training_group(group), **streams))
    return TrainingBatch(tuple(found), learning_rate=RATE)


def model(weights=torch.float64, family="qwen2_5_vl", **case):
    vlm = random_model(family, scale=0.2, dtype=weights)
    if case.get("tied"):
        vlm.model.lm_head.weight = vlm.model.model.language_model.embed_tokens.weight
    if case.get("lora"):
        add_adapters(vlm.model, ModelSettings(path="tiny", lora_rank=2))
        for number, weight in enumerate(vlm.model.parameters()):
            if weight.requires_grad:
                torch.manual_seed(number)
                weight.data = torch.randn(weight.shape, dtype=weights) * 0.2
    for name, weight in vlm.model.named_parameters():
        if case.get("frozen") and name.startswith("model.visual"):
            weight.requires_grad_(False)
        if "only" in case:
            weight.requires_grad_(name.startswith(case["only"]))
        if case.get("dtype") and not weight.requires_grad:
            weight.data = weight.data.to(case["dtype"])
    if case.get("recompute"):
        vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return vlm


def whole(tensor):
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def steps(name, ranks):
    return MANY if ranks == 0 or (ranks < 4 and name in LONG) else FEW


def run(name, ranks):
    """Return log-probabilities, the first step's gradient and metrics, and the weights before and after all steps."""
    case = CASES[name]
    weights = case.get("weights", torch.float64 if "dtype" not in case else torch.float32)
    case = case | {"weights": weights}
    settings = OptimizerSettings(
        lr=RATE,
        max_grad_norm=1e9,
        tokens_per_pack=case.get("budget", 40),
        head_chunk=case.get("chunk", 1024),
        offload=case.get("offload", False) and ranks > 0,
    )
    objective, dtype = ObjectiveSettings(kl_estimator="k3", kl_coef=0.1), case.get("dtype", torch.float32)
    if ranks:
        shard = case.get("shard")
        cluster = ClusterSettings(gpus=ranks, shard=shard and min(shard, ranks), reshard=case.get("reshard", True))
        policy = ShardedPolicy(model(**case), settings, objective, cluster, dtype=dtype)
    else:
        policy = Policy(model(**case), settings, objective, dtype=dtype)
    chosen = groups(weights)[case.get("take", slice(None))]
    found = {"logprobs": torch.cat(policy.logprobs(chosen))}
    if case.get("lora"):
        base = policy.base() if ranks else LogprobModel(policy.vlm, settings, adapters=False)
        found["base"] = torch.cat(base.logprobs(chosen))
    names = [name for name, weight in policy.weights.named_parameters() if weight.requires_grad]
    found["before"] = {n: whole(p) for n, p in zip(names, policy.parameters, strict=True)}
    gradients = {}

    def keep(*_):
        if not gradients:
            for name, parameter in zip(names, policy.parameters, strict=True):
                gradients[name] = whole(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)

    policy.optimizer.register_step_pre_hook(keep)
    found |= {"gradients": gradients, "metrics": [], "after": {}, "logprobs after": {}}
    for step in range(1, steps(name, ranks) + 1):
        found["metrics"].append(policy.update(batch(chosen, weights)))
        if step in (FEW, MANY):
            found["after"][step] = {n: whole(p) for n, p in zip(names, policy.parameters, strict=True)}
            found["logprobs after"][step] = torch.cat(policy.logprobs(chosen))
    return found


def refusal(ranks):
    """Return what a rank says of a loss that is not finite, whether its weights stayed, and whether it goes on."""
    settings = OptimizerSettings(lr=RATE, tokens_per_pack=40)
    policy = ShardedPolicy(model(), settings, ObjectiveSettings(), ClusterSettings(gpus=ranks))
    good = batch(groups(), torch.float64)
    bad = [replace(good.groups[0], loss_weights=good.groups[0].loss_weights * torch.inf), *good.groups[1:]]
    before = [whole(p) for p in policy.parameters]
    try:
        policy.update(replace(good, groups=tuple(bad)))
    except UserError as error:
        said = str(error)
    stayed = all(torch.equal(a, whole(b)) for a, b in zip(before, policy.parameters, strict=True))
    return {"said": said, "stayed": stayed, "next": policy.update(good)["policy/grad_norm"]}


def memory(ranks):
    """Return the bytes that a rank says training takes before and after an update, and what it then holds."""
    settings = OptimizerSettings(lr=RATE, tokens_per_pack=40)
    policy = ShardedPolicy(model(torch.float32), settings, ObjectiveSettings(), ClusterSettings(gpus=ranks))
    said = rank_memory(policy, None)
    policy.update(batch(groups(torch.float32), torch.float32))
    moments = [state[name] for state in policy.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    return {
        "before": (said.held, said.coming, said.update),
        "after": rank_memory(policy, None).held,
        "weights": sum(weight.to_local().nbytes for weight in policy.weights.parameters()),
        "moments": sum(moment.to_local().nbytes for moment in moments),
    }


def reference(ranks):
    """Return the log-probabilities of a frozen model, sharded too, with other images kept by each rank."""
    vlm = model()
    vlm.model.requires_grad_(False)
    settings = OptimizerSettings(tokens_per_pack=40)
    if not ranks:
        return torch.cat(LogprobModel(vlm, settings).logprobs(groups()))
    cluster = ClusterSettings(gpus=ranks)
    return torch.cat(ShardedLogprobModel(vlm, settings, cluster, policy_mesh(cluster, "cpu")).logprobs(groups()))


def _what_counts(case, ranks):
    """Two cases of which this is the same are one: locally `HOW` does not count, and there is no copy of one rank."""
    if not ranks:
        return sorted((name, value) for name, value in case.items() if name not in HOW)
    return sorted((case | {"shard": min(case.get("shard", ranks), ranks)}).items())


def main(rank, ranks, folder):
    torch.set_num_threads(1)
    if ranks:
        store = f"file://{folder}/store"
        distributed.init_process_group("gloo", store, timedelta(seconds=120), world_size=ranks, rank=rank)
    found, done = {}, {}
    for name, case in CASES.items():
        exact = "dtype" not in case and "weights" not in case
        if exact:
            keep_float64(Patch)
        kind = f"{_what_counts(case, ranks)} {steps(name, ranks)}"
        if kind not in done:
            done[kind] = run(name, ranks)
        found[name] = done[kind]
    found["reference"] = reference(ranks)
    if ranks:
        found["refusal"] = refusal(ranks)
        found["memory"] = memory(ranks)
    torch.save(found, Path(folder) / f"{rank}.pt")
    if ranks:
        distributed.destroy_process_group()
