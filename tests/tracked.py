"""What the tests of trackers write, and how they read it back: by the library, or by a reader that did not write it."""

import io
import json
import os
import struct
import sys

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from observe_r1.config import DataSettings, RunSettings
from observe_r1.evaluation.accuracy import GradedQuestion
from observe_r1.evaluation.figures import GradedResponse
from observe_r1.records import Completion, Example, Group, Prompt
from observe_r1.run.trackers import Trackers
from observe_r1.run.trackers.tables import evaluation_table, group_table, png

METRICS = {"reward/mean": 0.5, "evaluation/avg@8": 1.25, "rewards/http://x/../y": 2.0}
HOSTILE = (
    "<script>alert(1)</script> ![x](http://evil/p.png) <img src=x onerror=y> [a](javascript:b)\n"
    "| # *b* `c` _d_ | \ud800\x1b[2J"
)
SHOWN = HOSTILE.replace("\ud800", "\ufffd").replace("\x1b", "\ufffd")
DATA = DataSettings(path="d")


def opened(folder, note=pytest.fail, **settings):
    return Trackers(folder, RunSettings(**settings), note)


def picture(size=(40, 30), noise=False):
    image = Image.frombytes("RGB", size, os.urandom(3 * size[0] * size[1])) if noise else Image.new("RGB", size, "red")
    return png(image)


def example(images=(), question="How many?"):
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    return Example("q1", ({"role": "user", "content": content},), tuple(images), "7", origin="row 1")


def group(text="<answer>7</answer>", images=(), question="How many?"):
    """Return a group of two responses, the first of them right."""
    ids = torch.ones(3, dtype=torch.long)
    prompt = Prompt(ids=ids, token_types=torch.zeros(3, dtype=torch.long))
    completions = tuple(Completion(ids, torch.zeros(3), each, 0, "stop") for each in (text, "<answer>8</answer>"))
    parts = {"accuracy": torch.tensor([1.0, 0.0]), "format": torch.tensor([0.5, 0.0])}
    values = {"correct": torch.tensor([True, False]), "bonus": torch.tensor([0.25, 0.0]), "weight": 1.5}
    return Group(
        example=example(images, question),
        prompt=prompt,
        completions=completions,
        rewards=torch.tensor([1.5, 0.0]),
        advantages=torch.tensor([0.75, -0.75]),
        parts=parts,
        **values,
    )


def tables(text=HOSTILE, images=None):
    images = [picture()] if images is None else images
    graded = GradedQuestion(example(images), GradedResponse(text, True, False, 5, "stop"))
    return [group_table([group(text, images)], 4, 2_000_000, DATA), evaluation_table([graded], 2_000_000, DATA)]


def tensorboard(folder):
    events = EventAccumulator(str(folder / "tensorboard"), {"tensors": 0, "images": 0, "scalars": 0}).Reload()
    steps = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            assert name not in steps.setdefault(event.step, {})
            steps[event.step][name] = event.value
    found = {}
    for name in events.Tags()["tensors"]:
        for event in events.Tensors(name):
            text = event.tensor_proto.string_val[0].decode()
            found.setdefault(event.step, {})[name.removesuffix("/text_summary")] = text
    images = {
        tag: [Image.open(io.BytesIO(i.encoded_image_string)).size for i in events.Images(tag)]
        for tag in events.Tags()["images"]
    }
    return steps, found, images


def wandb_records(folder):
    """Yield what wandb's offline files hold: LevelDB's log format, in blocks of 32 KiB, of protobuf records."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"), key=os.path.getmtime):
        data, at, record = path.read_bytes(), 7, b""
        assert data[:4] == b":W&B"
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            _, length, kind = struct.unpack("<IHB", data[at : at + 7])
            record += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or its last part
                yield path, Record.FromString(record)
                record = b""


def wandb(folder):
    steps, shown, config, ids, images = {}, {}, {}, set(), {}
    sys.modules["wandb"].teardown()  # until then a file may not be whole
    for path, record in wandb_records(folder):
        if record.HasField("run"):
            ids.add((record.run.run_id, record.run.project))
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("artifact"):
            (image,) = (each for each in record.artifact.manifest.contents if each.path.endswith(".png"))
            images[record.artifact.name.rpartition("-")[2]] = Image.open(image.local_path).size
        if record.HasField("history"):
            row = {}
            for item in record.history.item:
                first, *inner = item.nested_key or [item.key]
                if inner:
                    row.setdefault(first, {})[inner[0]] = json.loads(item.value_json)
                else:
                    row[first] = json.loads(item.value_json)
            step = row.pop("_step")
            for name, value in row.items():
                if isinstance(value, dict) and value.get("_type") == "table-file":
                    shown.setdefault(step, {})[name] = json.loads((path.parent / "files" / value["path"]).read_text())
                elif not name.startswith("_"):
                    assert name not in steps.setdefault(step, {})
                    steps[step][name] = value
    return steps, shown, config, ids, images


def mlflow(experiment, run_id=None):
    """Read a run of an experiment; without `run_id`, its only one."""
    from mlflow import MlflowClient

    client = MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    (run,) = (run for run in runs if run_id in (None, run.info.run_id))
    steps = {}
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            assert name not in steps.setdefault(metric.step, {})
            steps[metric.step][name] = metric.value
    return steps, run, client
