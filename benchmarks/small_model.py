"""The small Qwen2.5-VL of the benchmarks: 23 million parameters, six layers each in text model and image tower."""

from observe_r1.world.tiny_model import Sizes

SIZES = Sizes(
    width=512,
    layers=6,
    heads=8,
    kv_heads=4,
    mlp=1024,
    vision_width=320,
    vision_depth=6,
    vision_heads=5,
    vision_mlp=640,
)
