"""Model folders whose files are damaged, missing or of another kind: one line that names the file and the fix."""

import os
import shutil

import pytest
import torch
from model_folders import INDEX, UP, WEIGHTS, change, change_text, load, put, refusal, shards, unlink, write
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from observe_r1.config import ModelSettings
from observe_r1.model import checkpoint
from observe_r1.model.hub import check_model_path
from observe_r1.model.processor import load_processor


@pytest.fixture
def folder(sound_model, tmp_path):
    return shutil.copytree(sound_model, tmp_path / "model")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"


def lose_shard(folder):
    (folder / shards(folder)[1]).unlink()


def only(name, content=b""):
    return lambda folder: (unlink(WEIGHTS)(folder), write(name, content)(folder))


def link_to_nothing(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("/nowhere/blob")


def twice(folder):
    weights = load_file(folder / WEIGHTS)
    shards(folder)
    save_file(weights, folder / WEIGHTS)


def twice_in_shards(folder):
    file = folder / shards(folder)[1]
    save_file(load_file(file) | {UP: torch.zeros(1)}, file)


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


def in_a_subfolder(folder):
    (folder / "checkpoint-500").mkdir()
    for path in [*folder.iterdir()]:
        if path.is_file():
            path.rename(folder / "checkpoint-500" / path.name)


def adapter(folder):
    write("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "owner/base"}')(folder)


BROKEN = {
    "a shard is missing": (
        lose_shard,
        f"1 of the 2 weight files that {INDEX} names are missing, the first is 'model-0000",
    ),
    "an index that is a list": (lambda folder: (shards(folder), write(INDEX, "[1]")(folder)), f"{INDEX} holds [1]"),
    "an index without files": (
        lambda folder: (shards(folder), write(INDEX, "{}")(folder)),
        f"{INDEX} has no weight_map",
    ),
    "an index of numbers": (
        lambda folder: (shards(folder), write(INDEX, '{"weight_map": {"a": 3}}')(folder)),
        f"{INDEX} has no weight_map",
    ),
    "weights twice": (twice, f"holds weights twice, in {WEIGHTS} and in the files"),
    "a weight in two shards": (
        twice_in_shards,
        f"'{UP}' is in model-00001-of-00002.safetensors and again in model-00002",
    ),
    "8 bits": (put(UP, torch.zeros(128, 64, dtype=torch.int8)), f"{WEIGHTS}: '{UP}' is held as int8: quantized"),
    "FP8": (put(UP, torch.zeros(3).to(torch.float8_e4m3fn)), f"{WEIGHTS}: '{UP}' is held as float8_e4m3fn: quantized"),
    "a download that stopped": (
        lambda folder: os.truncate(folder / WEIGHTS, 9000),
        f"{WEIGHTS} is damaged, or was not",
    ),
    "weights of no bytes": (write(WEIGHTS, ""), f"{WEIGHTS} is damaged, or was not fetched whole"),
    "weights that are an LFS pointer": (write(WEIGHTS, LFS), f"{WEIGHTS} is a Git LFS pointer, not the file itself"),
    "a tokenizer that is an LFS pointer": (write("tokenizer.json", LFS), "tokenizer.json is a Git LFS pointer"),
    "weights that are a link to nothing": (link_to_nothing, f"{WEIGHTS} is a link to '/nowhere/blob', which is not"),
    "weights that are a folder": (
        lambda folder: (unlink(WEIGHTS)(folder), (folder / WEIGHTS).mkdir()),
        f"{WEIGHTS} is no file",
    ),
    "pickled": (
        only("pytorch_model.bin"),
        "its weights are pickled (pytorch_model.bin), and unpickling can run any code",
    ),
    "a trainer's state": (only("model_world_size_8_rank_0.pt"), "model_world_size_8_rank_0.pt is a trainer's own"),
    "GGUF": (only("model-q4.gguf"), "its weights are GGUF's"),
    "no weights": (unlink(WEIGHTS), f"no weights: it has neither {WEIGHTS} nor {INDEX}"),
    "empty": (empty, "the folder is empty"),
    "one level too high": (in_a_subfolder, "no model: it has no config.json; 'checkpoint-500' in it has one"),
    "an adapter": (lambda folder: (empty(folder), adapter(folder)), "a LoRA adapter of 'owner/base'"),
    "an adapter beside its model": (adapter, "adapter_config.json makes it a LoRA adapter of 'owner/base'"),
    "no config": (unlink("config.json"), "no model: it has no config.json"),
    "a text model": (
        write("config.json", '{"model_type": "qwen2"}'),
        "architecture 'qwen2' is not supported; supported: q",
    ),
    "an unknown architecture": (
        lambda folder: change(folder / "config.json", model_type=["a"]),
        "architecture ['a'] is not supported",
    ),
    "no tokenizer": (unlink("tokenizer.json"), "no tokenizer: tokenizer.json is missing"),
    "no image processor": (unlink("processor_config.json"), "no image processor: preprocessor_config.json"),
    "as many layers as there is memory": (
        lambda folder: change_text(folder, num_hidden_layers=10**12),
        "config.json: num_hidden_layers = 1000000000000: it should be a number of layers",
    ),
    "weights elsewhere": (
        lambda folder: change(folder / "config.json", transformers_weights="other.safetensors"),
        "config.json takes the weights from another file (transformers_weights)",
    ),
    "settings that could not be saved": (
        lambda folder: change(folder / "generation_config.json", do_sample=False, temperature=0.5),
        "generation_config.json is not valid, and could not be saved after training",
    ),
    **{
        f"quantized by {method}": (
            lambda folder, method=method: change(folder / "config.json", quantization_config={"quant_method": method}),
            f"config.json says that its weights are quantized ('{method}')",
        )
        for method in ("gptq", "awq", "fp8", "bitsandbytes", "new")
    },
    "a quantized text model": (
        lambda folder: change_text(folder, quantization_config=[4]),
        "config.json says that its weights are quantized ([4])",
    ),
    **{
        f"{content or 'nothing'!r:.12} for {name}": (write(name, content), f"{name} {what}")
        for name in (
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "processor_config.json",
            "preprocessor_config.json",
            "generation_config.json",
        )
        for content, what in (
            ("[1]", "holds [1], not a JSON object: fetch it again"),
            ("null", "holds null, not a JSON object"),
            ('{"a": ', "is not JSON (Expecting value: line 1"),
            ("", "is not JSON (Expecting value: line 1"),
            (b"\xff\xfe\x00", "is not JSON ("),
            ("[" * 100_000, "is not JSON (RecursionError"),
            ('{"a": ' + "9" * 5000 + "}", "is not JSON ("),
        )
    },
    **{
        f"{{}} for {name}": (write(name, "{}"), f"{name} holds an empty JSON object")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
    },
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_folders_are_named_without_loading_anything(kind, folder, monkeypatch):
    damage, reason = BROKEN[kind]
    damage(folder)
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", None)
    message = refusal(lambda path: check_model_path(str(path)), folder)
    assert message.startswith(reason) or reason in message
    assert refusal(load, folder) == message


def test_a_file_or_folder_that_may_not_be_read(folder, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint.Path, "read_bytes", refuse)
    assert refusal(load, folder) == "config.json cannot be read (Permission denied)"
    monkeypatch.setattr(checkpoint.Path, "iterdir", refuse)
    assert refusal(load, folder) == "the folder cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "code.Kind", "AutoModelForImageTextToText": "code.Kind"}}),
        ("config.json", {"model_type": "mine", "auto_map": {"AutoConfig": "code.Kind"}}),
        ("processor_config.json", {"processor_class": "Mine", "auto_map": {"AutoProcessor": "code.Kind"}}),
        ("processor_config.json", {"image_processor": {"auto_map": {"AutoImageProcessor": "code.Kind"}}}),
        ("tokenizer_config.json", {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["code.Kind", None]}}),
    ],
    ids=str,
)
def test_code_in_a_checkpoint_is_refused_and_not_run(file, values, folder, tmp_path):
    change(folder / file, **values)
    (folder / "code.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n")
    for check in (load, lambda path: load_processor(ModelSettings(path=str(path)))):
        assert refusal(check, folder).startswith(f"{file} asks for Python code that ships in the checkpoint (auto_map)")
    assert not (tmp_path / "run").exists()


def test_pickled_weights_are_never_opened(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "run"), "w")

    unlink(WEIGHTS)(folder)
    torch.save(Bomb(), folder / "pytorch_model.bin")
    assert "its weights are pickled" in refusal(load, folder)
    assert not (tmp_path / "run").exists()
