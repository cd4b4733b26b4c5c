"""What is loaded of a model that an engine samples with, whose weights the engine may have itself."""

import pytest
import torch

from observe_r1.config import LadderSettings, ModelSettings
from observe_r1.demo.tiny_model import make_tiny_model
from observe_r1.ladder import inference
from observe_r1.model.loading import load_model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(make_tiny_model(tmp_path_factory.mktemp("tiny") / "model"))


class Sharing:
    """Samples with the model that it is given."""

    def __init__(self, vlm, rollout):
        self.vlm, self.rollout = vlm, rollout

    @classmethod
    def from_settings(cls, vlm, rollout, data, dtype):
        return cls(vlm, rollout)

    def close(self):
        self.vlm = None


class Copying(Sharing):
    """Has weights of its own."""

    def load_weights(self, weights):
        raise AssertionError("never published to")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "device"), [(Sharing, "cpu"), (Copying, "meta")])
def test_weights_are_loaded_for_an_engine_that_samples_with_them(path, monkeypatch, kind, device, dtype):
    monkeypatch.setattr(inference, "load", lambda group, name: kind)
    settings = LadderSettings.model_validate(
        {"model": {"device": "cpu", "dtype": dtype}, "rollout": {"vllm": {"seed": 3}}}
    )
    with inference.load_engine(path, settings) as (engine, encode):
        held = {tensor.device.type for tensor in (*engine.vlm.model.parameters(), *engine.vlm.model.buffers())}
        assert engine.rollout.vllm == {"seed": 3}
        assert {weight.dtype for weight in engine.vlm.model.parameters()} == {getattr(torch, dtype)}
        assert held == {device} and encode.keywords["processor"] is engine.vlm.processor
    assert engine.vlm is None, "it is closed after the block"


def test_a_model_without_weights_is_the_same_otherwise(path):
    whole, bare = (load_model(ModelSettings(path=path, device="cpu"), frozen=True, weights=w) for w in (True, False))
    assert (bare.stop_ids, bare.suppressed_ids) == (whole.stop_ids, whole.suppressed_ids)
    assert bare.model.config.to_dict() == whole.model.config.to_dict()
    assert bare.model.config._name_or_path == path
    shapes = [{name: weight.shape for name, weight in vlm.model.state_dict().items()} for vlm in (bare, whole)]
    assert shapes[0] == shapes[1]
