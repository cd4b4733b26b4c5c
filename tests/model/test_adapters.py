"""LoRA adapters: they start as nothing, learn by the chain rule, merge, and step aside for the base model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from learning import (
    DATA,
    OPTIMIZER,
    assert_resumes,
    equal,
    group,
    in_bfloat16,
    learn,
    load,
    logprobs,
    policy,
    trained_names,
    wide_checkpoint,
)
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from observe_r1.cli.main import main
from observe_r1.config import TrainSettings
from observe_r1.errors import UserError
from observe_r1.model.adapters import published_weights
from observe_r1.model.families import prepare_model
from observe_r1.model.loading import VisionLanguageModel, load_model
from observe_r1.model.saving import save_model
from observe_r1.policy.token_logprobs import LogprobModel
from observe_r1.training import parts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return wide_checkpoint(tmp_path_factory.mktemp("adapters"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_untrained_adapters_change_no_bit(checkpoint, dtype):
    base, adapted = load(checkpoint, frozen=True, dtype=dtype), load(checkpoint, lora_rank=4, dtype=dtype)
    adapted = in_bfloat16(adapted) if dtype == "bfloat16" else adapted
    assert equal(logprobs(base), logprobs(adapted))


def test_adapters_go_to_the_text_model_s_linear_layers_unless_others_are_named(checkpoint):
    layers = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    names = trained_names(load(checkpoint, lora_rank=4))
    assert all(name.startswith("model.language_model.layers.") and ".lora_" in name for name in names)
    assert {name.split(".")[-4] for name in names} == layers
    assert len(names) == 3 * len(layers) * 2  # three layers, A and B

    named = trained_names(load(checkpoint, lora_rank=4, lora_targets=("self_attn.q_proj", "attn.qkv")))
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in named} == {"q_proj", "qkv"}
    some = trained_names(load(checkpoint, lora_rank=4, freeze=("model.visual", "model.language_model.layers.0")))
    assert {name.split(".")[3] for name in some} == {"1", "2"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lora_targets": ("q_prj",)},
            "lora_targets: no layer that is not frozen ends in 'q_prj'; known: q_proj",
        ),
        ({"lora_targets": ("proj",)}, "ends in 'proj'"),
        ({"lora_targets": ("lm_head",)}, "ends in 'lm_head'"),
        ({"freeze": ("model.language_model",)}, "model.freeze leaves no linear layer"),
        ({"freeze": ("model.nothing",)}, "model.freeze: no parameter starts with 'model.nothing'"),
    ],
)
def test_adapters_that_have_no_place_are_refused_in_one_line(checkpoint, settings, message):
    settings = {"freeze": ("model.visual",)} | settings
    with pytest.raises(UserError) as error:
        load(checkpoint, lora_rank=4, **settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_gradients_are_the_full_model_s_by_the_chain_rule(checkpoint):
    """W = W₀ + s·B·A: dA = s·Bᵀ·dW and dB = s·dW·Aᵀ, where dW is the gradient of the merged model's own weight."""
    adapted, full = load(checkpoint, lora_rank=8, lora_alpha=24), load(checkpoint)
    a, b = (
        {name.split(".lora_")[0]: p for name, p in adapted.model.named_parameters() if f".lora_{side}." in name}
        for side in "AB"
    )
    assert len(a) == len(b) == 21
    for name, weight in b.items():
        torch.nn.init.normal_(weight, 0, 0.02)
        full.model.get_submodule(name).weight.data += 3.0 * (weight @ a[name]).detach()
    for vlm in (adapted, full):
        scorer = LogprobModel(vlm, OPTIMIZER)
        (pack,) = scorer.packs([group(vlm)])
        scorer.score(pack).logprobs.sum().backward()
    for name in a:
        gradient = full.model.get_submodule(name).weight.grad
        close = {"atol": 1e-5 * float(gradient.abs().max()), "rtol": 1e-3}
        torch.testing.assert_close(b[name].grad, 3.0 * gradient @ a[name].T, **close)
        torch.testing.assert_close(a[name].grad, 3.0 * b[name].T @ gradient, **close)


def test_only_adapters_are_trained_and_have_optimizer_state(checkpoint):
    vlm = load(checkpoint, lora_rank=4)
    trained, names = policy(vlm), trained_names(vlm)
    before = {name: parameter.detach().clone() for name, parameter in vlm.model.named_parameters()}
    learn(trained)
    moved = {name for name, parameter in vlm.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == names
    own = {id(vlm.model.get_parameter(name)) for name in names}
    assert {id(parameter) for parameter in trained.optimizer.state} == own


def test_the_saved_model_has_the_adapters_in_it_and_the_running_one_is_as_it_was(checkpoint, tmp_path):
    vlm, other = load(checkpoint, lora_rank=4), load(checkpoint, lora_rank=4)
    trained, undisturbed = policy(vlm), policy(other)
    learn(trained, steps=2)
    learn(undisturbed, steps=2)
    save_model(vlm, tmp_path / "model", DATA)
    merged = load(tmp_path / "model")
    assert {parameter.dtype for parameter in merged.model.parameters()} == {torch.float32}
    assert (
        load_file(tmp_path / "model" / "model.safetensors").keys() == load_file(checkpoint / "model.safetensors").keys()
    )
    base = logprobs(load(checkpoint))
    for ours, theirs, before in zip(logprobs(vlm), logprobs(merged), base, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        assert (theirs - before).abs().max() > 0.1

    learn(trained, steps=2, first=2)
    learn(undisturbed, steps=2, first=2)
    assert equal(vlm.model.parameters(), other.model.parameters())


def test_the_adapter_folder_is_peft_s(checkpoint, tmp_path):
    vlm = load(checkpoint, lora_rank=4, lora_alpha=6)
    learn(policy(vlm))
    save_model(vlm, tmp_path / "model", DATA)
    base = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "model" / "adapter").base_model.model
    prepare_model(model, torch.float32)
    theirs = VisionLanguageModel(model, vlm.processor, vlm.suppressed_ids, vlm.stop_ids)
    assert equal(logprobs(vlm), logprobs(theirs))


SAVE = """
import sys
from pathlib import Path
from observe_r1.torch_compat import ensure_importable
ensure_importable()
from learning import DATA, load
from observe_r1.model.saving import save_model
save_model(load(Path(sys.argv[1]), lora_rank=4), Path(sys.argv[2]), DATA)
"""


def test_every_process_writes_the_same_bytes(checkpoint, tmp_path):
    """Python gives text another hash, and sets another order, in every process."""
    folders = tmp_path / "here", tmp_path / "there"
    save_model(load(checkpoint, lora_rank=4), folders[0], DATA)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    command = [sys.executable, "-c", SAVE, str(checkpoint), str(folders[1])]
    subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}, check=True)
    one, two = ({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")} for folder in folders)
    assert Path("adapter/adapter_config.json") in one and one.keys() == two.keys()
    assert [str(name) for name in one if one[name] != two[name]] == []


@pytest.mark.parametrize("targets", [(), ("q_proj", "attn.qkv")], ids=["text model", "image tower too"])
def test_the_base_under_the_adapters_is_the_reference(checkpoint, targets):
    vlm = load(checkpoint, lora_rank=4, lora_targets=targets)
    trained = policy(vlm)
    learn(trained)
    own = logprobs(vlm)
    reference = logprobs(load(checkpoint, frozen=True))
    assert equal(logprobs(vlm, adapters=False), reference) and not equal(own, reference)
    assert equal(logprobs(vlm), own)
    assert trained_names(vlm) == {name for name, _ in vlm.model.named_parameters() if ".lora_" in name}
    learn(trained, first=3)
    assert not equal(logprobs(vlm), own)


def test_a_reference_is_loaded_only_where_there_is_no_base_to_serve(checkpoint, monkeypatch):
    loaded = []
    monkeypatch.setattr(parts, "load_model", lambda *a, **k: loaded.append(k) or load_model(*a, **k))

    def reference(rank, coefficient):
        loaded.clear()
        model = {"path": str(checkpoint), "device": "cpu", "lora_rank": rank, "dtype": "bfloat16"}
        settings = {"model": model, "data": {"path": "unused"}, "objective": {"kl_coef": coefficient}}
        return parts.load_policy(TrainSettings.model_validate(settings))[1]

    assert reference(0, 0.0) is None and len(loaded) == 1
    assert reference(4, 0.0) is None and len(loaded) == 1
    shared = reference(4, 0.1)
    assert shared is not None and len(loaded) == 1 and not shared.adapters
    separate = reference(0, 0.1)
    assert len(loaded) == 2
    assert {(p.dtype, p.requires_grad) for p in separate.vlm.model.parameters()} == {(torch.bfloat16, False)}
    assert separate.vlm.features.limit == 0  # what `model.loading` allows is the policy's alone


def test_a_checkpoint_holds_the_adapters_and_goes_on_bit_by_bit(checkpoint, tmp_path):
    path = assert_resumes(lambda: policy(load(checkpoint, lora_rank=4)), tmp_path)
    assert sum(file.stat().st_size for file in path.rglob("*")) < (checkpoint / "model.safetensors").stat().st_size


@pytest.mark.parametrize("quantize", ["none", "4bit"])
def test_a_whole_run_with_everything_that_saves_memory(world, tmp_path, quantize):
    paths = ["--model.path", world / "warm" / "model", "--data.path", world / "train" / "train.jsonl"]
    sizes = ["--rollout.prompts", 4, "--rollout.group_size", 4, "--rollout.max_new_tokens", 24, "--run.steps", 2]
    model = ["--model.lora_rank", 4, "--model.dtype", "bfloat16", "--model.gradient_checkpointing", "true"]
    small = ["--model.quantize", quantize, "--optimizer.kind", "adamw_8bit", "--optimizer.offload", "true"]
    learning = [
        "--optimizer.lr",
        1e-3,
        "--optimizer.minibatch",
        2,
        "--objective.kl_coef",
        0.01,
        "--data.order",
        "random",
    ]
    here = ["--run.output", tmp_path / "run", "--run.threads", 1, "--model.device", "cpu"]
    assert main(["train", *map(str, [*paths, *sizes, *model, *small, *learning, *here])]) == 0
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "model", dtype="auto")
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}
    base = AutoModelForImageTextToText.from_pretrained(world / "warm" / "model", dtype=torch.float32)
    peft = PeftModel.from_pretrained(base, tmp_path / "run" / "model" / "adapter")
    assert any(weight.any() for name, weight in peft.named_parameters() if ".lora_B." in name)


def test_published_weights_are_an_ordinary_model_s_by_every_name(checkpoint):
    """A sampler with weights of its own is given tied ones by each of their names."""
    plain, adapted = load(checkpoint), load(checkpoint, lora_rank=4)
    expected = plain.model.state_dict()
    for vlm in (plain, adapted):
        weights = dict(published_weights(vlm.model))
        assert weights.keys() == expected.keys() and "lm_head.weight" in weights
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
