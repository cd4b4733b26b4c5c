"""The demo: a synthetic world of coloured shapes, a tiny vision-language model, and every step from data to picture."""
