"""The format reward: does the response say what it sees, think, and answer, each once and in this order?

Tags are found by plain search, not by a pattern, so that the time is linear in the response whatever it holds.
"""

from dataclasses import dataclass
from itertools import pairwise
from unicodedata import category

from observe_r1.errors import UserError

TEMPLATES: dict[str, tuple[str, ...]] = {
    "observe": ("observe", "think", "answer"),
    "think": ("think", "answer"),
}
"""The tags of each template, in their order."""

REWARD = 0.5
"""What a well-formed response earns."""

_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and signs that are blank: those of Hangul, and the empty pattern of Braille."""

_TAGS = ("observe", "think", "answer")


def format_reward(response: str, template: str = "observe") -> float:
    """Return 0.5 for a well-formed response, else 0.

    `observe` asks for `<observe>…</observe> <think>…</think> <answer>…</answer>` in this order, or for the
    observation nested inside the thought: `<think>… <observe>…</observe> …</think> <answer>…</answer>`.
    `think` asks for thought and answer and allows no observe tags. Each tag occurs exactly once, and no content is
    blank; a thought must hold something besides a nested observation. Any text may surround the tags.

    Args:
        response: What the model wrote; anything but a string earns 0.
        template: `observe` or `think`.

    Raises:
        UserError: There is no such template.

    Source: Observe-R1 (arXiv 2505.12432), multimodal format constraint.
    """
    if template not in TEMPLATES:
        raise UserError(f"unknown template {template!r}: known: {', '.join(TEMPLATES)}")
    if not isinstance(response, str):
        return 0.0
    return REWARD if _well_formed(response, TEMPLATES[template]) else 0.0


def format(response: str, answer: str, template: str) -> float:
    """`format_reward` with the signature that every reward function has; the gold answer is not used."""
    return format_reward(response, template)


@dataclass(frozen=True, slots=True)
class _Block:
    """Offsets of a pair of tags."""

    start: int
    content_start: int
    content_end: int
    end: int

    def holds(self, other: "_Block") -> bool:
        return self.content_start <= other.start and other.end <= self.content_end


def _well_formed(response: str, wanted: tuple[str, ...]) -> bool:
    blocks: dict[str, _Block] = {}
    for name in _TAGS:
        block = _only_block(response, name) if name in wanted else None
        if block is not None:
            blocks[name] = block
        elif name in wanted or f"<{name}>" in response or f"</{name}>" in response:
            return False
    contents = [response[block.content_start : block.content_end] for block in blocks.values()]
    sequence = [blocks[name] for name in wanted]
    if "observe" in blocks and blocks["think"].holds(blocks["observe"]):
        observed, thought = sequence[:2]
        before = response[thought.content_start : observed.start]
        contents.append(before + response[observed.end : thought.content_end])
        sequence = sequence[1:]
    in_order = all(first.end <= second.start for first, second in pairwise(sequence))
    return in_order and not any(_is_blank(content) for content in contents)


def _only_block(response: str, name: str) -> _Block | None:
    """Return the pair of tags where opening and closing occur exactly once each and in this order, else None."""
    opening, closing = f"<{name}>", f"</{name}>"
    if response.count(opening) != 1 or response.count(closing) != 1:
        return None
    start, content_end = response.index(opening), response.index(closing)
    content_start = start + len(opening)
    if content_end < content_start:
        return None
    return _Block(start, content_start, content_end, content_end + len(closing))


def _is_blank(content: str) -> bool:
    """Whether nothing in `content` can be seen: white space, control, zero-width and filling characters only."""
    return not any(
        character.isprintable()
        and not character.isspace()
        and character not in _FILLERS
        and not category(character).startswith("M")
        for character in content
    )
