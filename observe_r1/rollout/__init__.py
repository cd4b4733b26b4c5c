"""The Engine interface, and the samplers behind it: the embedded one, and vLLM."""
