"""The prompts that ask for a response format, by the names that settings and records use."""

from observe_r1.config import QuestionSettings
from observe_r1.errors import UserError
from observe_r1.records import Example, Message
from observe_r1.registry import nearest

FORMAT_PROMPTS: dict[str, str] = {
    "observe": (
        "First describe what the image shows that bears on the question, between <observe> and </observe>. "
        "Then reason step by step between <think> and </think>. "
        "Finally give only the final answer between <answer> and </answer>."
    ),
    "think": (
        "First reason step by step between <think> and </think>. "
        "Then give only the final answer between <answer> and </answer>."
    ),
}
"""Named after the tag that a response begins with; the format reward has templates of the same names."""


def apply_format_prompt(messages: tuple[Message, ...], name: str, place: str) -> tuple[Message, ...]:
    """Return `messages` with the format prompt `name` added, unless it is already there (see `asked_format`).

    The given messages are not changed.

    Args:
        messages: A chat as in `Example.messages`, its last turn the user's.
        name: A key of `FORMAT_PROMPTS`, or `none`, which returns the chat as it is.
        place: `system` puts the prompt into the system message, after any text there; `suffix` puts it after the last
            turn.

    Raises:
        UserError: `name` or `place` is unknown.
    """
    if place not in ("system", "suffix"):
        raise UserError(f"unknown format prompt place {place!r}: known: suffix, system")
    if name in ("none", asked_format(messages)):
        return messages
    if name not in FORMAT_PROMPTS:
        known = [*FORMAT_PROMPTS, "none"]
        raise UserError(f"unknown format prompt {name!r}: known: {', '.join(known)}{nearest(name, known)}")
    prompt = FORMAT_PROMPTS[name]
    if place == "suffix":
        return (*messages[:-1], _with_text(messages[-1], prompt))
    if messages[0]["role"] == "system":
        return (_with_text(messages[0], prompt), *messages[1:])
    return ({"role": "system", "content": [{"type": "text", "text": prompt}]}, *messages)


def checked_format_prompt(example: Example, settings: QuestionSettings) -> tuple[Message, ...]:
    """Return the chat of `example` with the format prompt of `settings` if it asks for no format itself.

    Raises:
        UserError: It asks for another format already.
    """
    asked = asked_format(example.messages)
    if asked != "none" and settings.format_prompt not in (asked, "none"):
        raise UserError(
            f"{example.origin}: the question asks for the format {asked!r} already, data.format_prompt is "
            f"{settings.format_prompt!r}: give {asked!r}, or 'none'"
        )
    return apply_format_prompt(example.messages, settings.format_prompt, settings.format_prompt_place)


def asked_format(messages: tuple[Message, ...]) -> str:
    """Return the name of the format prompt at the end of a chat's first or last turn, or `none`."""
    ends = [message["content"][-1].get("text", "") for message in (messages[0], messages[-1])]
    return next((name for name, prompt in FORMAT_PROMPTS.items() if any(e.endswith(prompt) for e in ends)), "none")


def _with_text(message: Message, text: str) -> Message:
    return {**message, "content": [*message["content"], {"type": "text", "text": f"\n\n{text}"}]}
