"""The demo: a synthetic world of coloured shapes, a tiny vision-language model, and every step from data to figure.

`scene` draws images, `tasks` asks about them and demonstrates answers, `dataset` writes both to disk, `tiny_model`
makes a small Qwen2.5-VL, `steps` runs the demo, `outcome` shows what came out.
"""
