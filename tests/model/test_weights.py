"""Weights that are not those of the model that `config.json` describes, and sound ones under all their names."""

import json
import re
import shutil

import pytest
import torch
from model_folders import (
    INDEX,
    UP,
    WEIGHTS,
    change,
    change_text,
    change_vision,
    change_weights,
    fill,
    load,
    put,
    refusal,
    shards,
    without,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, Qwen2_5_VLForConditionalGeneration

from observe_r1.errors import UserError
from observe_r1.model.checkpoint import check_finite
from observe_r1.model.device import MACHINE_FAULTS
from observe_r1.model.hub import check_model_path


@pytest.fixture
def folder(sound_model, tmp_path):
    return shutil.copytree(sound_model, tmp_path / "model")


def old_names(folder):
    """As the checkpoints that Qwen2-VL and Qwen2.5-VL were published with."""
    change_weights(
        folder,
        lambda weights: {
            name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): weight
            for name, weight in weights.items()
        },
    )


def new_names(folder):
    """As the model itself names them."""
    names = {name: weight for name, weight in load(folder).model.state_dict().items() if name != "lm_head.weight"}
    save_file(names, folder / WEIGHTS, metadata={"format": "pt"})


def head(folder, tied=True):
    def change(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        if not tied:
            del weights["model.embed_tokens.weight"]

    change_weights(folder, change)


def older_files(folder):
    """The image processor's settings in a file of their own, the chat template in another."""
    images = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(images | {"processor_class": "Qwen2_5_VLProcessor"}))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))


SOUND = {
    "as it is": lambda folder: None,
    "shards": shards,
    "bfloat16": lambda folder: change_weights(folder, lambda w: {name: v.bfloat16() for name, v in w.items()}),
    "old names": old_names,
    "new names": new_names,
    "head as well": head,
    "head alone": lambda folder: head(folder, tied=False),
    "older files": older_files,
    "no generation_config.json": lambda folder: (folder / "generation_config.json").unlink(),
    "an index of the one file": lambda folder: (folder / INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(load_file(folder / WEIGHTS), WEIGHTS)})
    ),
}


@pytest.mark.parametrize("kind", SOUND)
def test_sound_folders_load_every_weight(kind, sound_model, folder):
    SOUND[kind](folder)
    check_model_path(str(folder))
    expected = AutoModelForImageTextToText.from_pretrained(sound_model, dtype=torch.float32).state_dict()
    loaded = load(folder).model.state_dict()
    assert loaded.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(loaded[name], weight, rtol=2**-8 if kind == "bfloat16" else 0, atol=0)


UNFIT = {
    "a weight is missing": (without(UP), r"missing, and so random: 'model\.language_model\.layers\.1\.mlp\.up_proj"),
    "a layer is missing": (
        lambda folder: change_weights(folder, lambda w: {k: v for k, v in w.items() if ".layers.1." not in k}),
        r"missing, and so random: 'model\.language_model\.layers\.1\..* and 11 more \(fetch the weights again\)",
    ),
    "a head that is not tied is missing": (
        lambda folder: change(folder / "config.json", tie_word_embeddings=False),
        r"missing, and so random: 'lm_head\.weight' \(.* set tie_word_embeddings to true",
    ),
    "embeddings and head are missing": (
        without("embed_tokens.weight"),
        r"missing, and so random: 'lm_head\.weight' and 1 more",
    ),
    "a surplus weight": (
        put("value_head.weight", torch.zeros(3)),
        r"without a place in the model: 'value_head\.weight'",
    ),
    "fewer layers than weights": (
        lambda folder: change_text(folder, num_hidden_layers=1, layer_types=None),
        r"without a place in the model: 'model\.language_model\.layers\.1\..* and 11 more \(correct config\.json",
    ),
    "another shape": (
        put(UP, torch.zeros(5, 5)),
        r"of another shape: '.*up_proj\.weight' \(\(5, 5\) stored, \(256, 64\)",
    ),
    "text_config is null, so that of the largest model": (
        lambda folder: change(folder / "config.json", text_config=None),
        r"missing, and so random: .*; of another shape: ",
    ),
    "two that should be one": (
        lambda folder: (head(folder), fill("lm_head.weight", 7.0)(folder)),
        "lm_head and the embeddings are one weight, but two that differ are stored: set tie_word_embeddings to false",
    ),
    "NaN": (fill(UP, float("nan")), rf"{WEIGHTS}: 1 of 16,384 values of '{UP}' are NaN or infinite"),
    "infinite": (fill(UP, float("-inf")), rf"{WEIGHTS}: 1 of 16,384 values of '{UP}' are NaN or infinite"),
    "NaN in bfloat16": (
        lambda folder: (fill(UP, float("nan"))(folder), SOUND["bfloat16"](folder)),
        "values of .* are NaN or infinite",
    ),
}


@pytest.mark.parametrize(
    ("kind", "weights"), [*((kind, True) for kind in UNFIT), ("a weight is missing", False), ("NaN", False)]
)
def test_weights_that_are_not_the_model_s(kind, weights, folder):
    damage, reason = UNFIT[kind]
    damage(folder)
    message = refusal(lambda path: load(path, weights=weights), folder)
    assert re.search(reason, message), message


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_that_load_together_read_each_weight_once(ranks, folder):
    """The one that reads a weight finds its fault; ranks that load the weights, quantized, look for all themselves."""
    spoilt = {name: torch.full_like(weight, torch.nan) for name, weight in load_file(folder / WEIGHTS).items()}
    sound = load_file(folder / WEIGHTS)
    for name in spoilt:
        save_file(sound | {name: spoilt[name]}, folder / WEIGHTS, metadata={"format": "pt"})
        finds = []
        for rank in range(ranks):
            try:
                check_finite(folder, "model.path", (rank, ranks))
            except UserError as error:
                assert f"values of {name!r} are NaN or infinite" in str(error)
                finds.append(rank)
        assert len(finds) == 1, name
    for share in [(0, 2), (1, 2)]:
        assert "are NaN or infinite" in refusal(lambda path, share=share: load(path, share=share), folder)
    refusals = [not _loads(folder, (rank, ranks)) for rank in range(ranks)]
    assert sum(refusals) == 1


def _loads(folder, share):
    try:
        return load(folder, weights=False, share=share)
    except UserError:
        return None


ROPE = {"rope_type": "default", "rope_theta": 10.0}
UNCOMPUTABLE = {
    "sections that do not add up": (
        lambda folder: change_text(folder, rope_parameters=ROPE | {"mrope_section": [1, 1, 1]}),
        "split_sizes to sum exactly to",
    ),
    "no sections": (lambda folder: change_text(folder, rope_parameters=ROPE), "split_sizes"),
    "sections that are a word": (
        lambda folder: change_text(folder, rope_parameters=ROPE | {"mrope_section": "x"}),
        "must be tuple of ints, not str",
    ),
    "a window smaller than a patch": (lambda folder: change_vision(folder, window_size=3), "ZeroDivisionError"),
    "a negative window": (lambda folder: change_vision(folder, window_size=-1), "RuntimeError"),
    "heads that do not divide the width": (lambda folder: change_vision(folder, num_heads=3), "RuntimeError: shape"),
}
NOT_FINITE = {
    "frequencies to the base of 0": lambda folder: change_text(
        folder, rope_parameters={"rope_type": "default", "rope_theta": 0.0, "mrope_section": [2, 3, 3]}
    ),
    "a root of a negative number": lambda folder: change_text(folder, rms_norm_eps=-9.0),
}


@pytest.mark.parametrize("kind", UNCOMPUTABLE)
def test_settings_that_fit_the_weights_and_cannot_be_computed(kind, folder):
    damage, reason = UNCOMPUTABLE[kind]
    damage(folder)
    message = refusal(load, folder)
    assert message.startswith("config.json describes a model that cannot compute: ") and reason in message


@pytest.mark.parametrize("kind", MACHINE_FAULTS)
def test_what_a_gpu_cannot_do_is_no_fault_of_the_checkpoint(kind, sound_model, monkeypatch):
    def fail(*arguments, **options):
        raise kind("no kernel image is available for execution on the device")

    monkeypatch.setattr(Qwen2_5_VLForConditionalGeneration, "forward", fail)
    with pytest.raises(kind, match="no kernel image"):
        load(sound_model)


@pytest.mark.parametrize("kind", NOT_FINITE)
def test_settings_that_make_every_answer_nan(kind, folder):
    NOT_FINITE[kind](folder)
    assert refusal(load, folder).startswith("the model answers NaN or infinity to any question")
