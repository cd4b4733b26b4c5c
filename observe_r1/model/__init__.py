"""The vision-language model: loading, prompts, the shared-prefix attention, saving."""

import logging

from observe_r1.torch_compat import ensure_importable

# On import it warns of a faster 4-bit kernel that could be fetched, even if nothing is quantized.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
ensure_importable()  # before any module here imports transformers' models
