"""Ways to damage a model's folder, and what is then said of it."""

import json

import pytest
from safetensors.torch import load_file, save_file

from observe_r1.config import ModelSettings
from observe_r1.errors import UserError
from observe_r1.model.loading import load_model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
UP = "model.layers.1.mlp.up_proj.weight"  # in the file


def load(folder, **how):
    return load_model(ModelSettings(path=str(folder), device="cpu"), **how)


def refusal(check, folder):
    with pytest.raises(UserError) as error:
        check(folder)
    message = str(error.value)
    assert message.startswith(f"model.path = {str(folder)!r}: ") and "\n" not in message
    return message.removeprefix(f"model.path = {str(folder)!r}: ")


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    save_file(change(weights) or weights, folder / WEIGHTS, metadata={"format": "pt"})


def put(name, value):
    def change(weights):
        weights[name] = value

    return lambda folder: change_weights(folder, change)


def without(*ends):
    return lambda folder: change_weights(folder, lambda w: {k: v for k, v in w.items() if not k.endswith(ends)})


def fill(name, value):
    def change(weights):
        weights[name][3, 3] = value

    return lambda folder: change_weights(folder, change)


def shards(folder):
    weights = load_file(folder / WEIGHTS)
    names, files = sorted(weights), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    halves = {name: files[2 * at // len(names)] for at, name in enumerate(names)}
    for file in files:
        save_file({n: weights[n] for n in names if halves[n] == file}, folder / file, metadata={"format": "pt"})
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": halves}))
    return files


def change_text(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", text_config=config["text_config"] | values)


def change_vision(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", vision_config=config["vision_config"] | values)


def unlink(name):
    return lambda folder: (folder / name).unlink()


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
