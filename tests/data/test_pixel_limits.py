"""`model.min_pixels` and `model.max_pixels`: images come to the model in the size that Qwen's own rule gives."""

import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from observe_r1.config import DataSettings, ModelSettings
from observe_r1.demo.tiny_model import make_tiny_model
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.processor import load_processor
from observe_r1.records import Example

PATCH, MERGE = 14, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("size", [(30, 20), (200, 120), (640, 480), (900, 100)])
@pytest.mark.parametrize(("low", "high"), [(3136, 12544), (50176, 100352), (3136, 2560000)])
def test_images_are_brought_between_the_limits(folder, tmp_path, size, low, high):
    Image.new("RGB", size).save(tmp_path / "a.png")
    content = [{"type": "image"}, {"type": "text", "text": "How many?"}]
    example = Example("a", ({"role": "user", "content": content},), (str(tmp_path / "a.png"),), "1")
    processor = load_processor(ModelSettings(path=str(folder), min_pixels=low, max_pixels=high))
    prompt = encode_prompt(example, processor, DataSettings(path="x"))
    _, rows, columns = prompt.image_grid[0].tolist()
    width, height = size
    expected = smart_resize(height, width, factor=PATCH * MERGE, min_pixels=low, max_pixels=high)
    assert (rows * PATCH, columns * PATCH) == expected
    assert low <= rows * columns * PATCH**2 <= high
    assert int(prompt.token_types.sum()) == rows * columns // MERGE**2
