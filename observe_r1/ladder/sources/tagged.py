r"""Answers that stand inside a longer text: in a command such as `\boxed{…}`, or between tags."""

import re

from observe_r1.errors import UserError

_BRACED = r"{((?:[^{}]|{(?:[^{}]|{(?:[^{}]|{[^{}]*})*})*})*)}"


def in_braces(text: str, command: str) -> list[str]:
    r"""Return what stands in each `\command{…}` of `text`, braces nested up to three deep included."""
    return [found.strip() for found in re.findall(rf"\\{command}\s*{_BRACED}", text)]


def in_answer_tags(text: str, where: str) -> str:
    """Return what stands in the last `<answer>…</answer>`. Errors: `UserError` where there is nothing."""
    found = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    if not found or not found[-1].strip():
        raise UserError(f"{where}: needs the answer in <answer>…</answer>, got {text!r:.80}: add it")
    return str(found[-1]).strip()
