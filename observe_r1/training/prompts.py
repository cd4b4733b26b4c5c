"""Prompts in the data's order, decoded and preprocessed ahead of the sampler in a background thread."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from observe_r1.data.alike import Alike
from observe_r1.data.order import Order
from observe_r1.data.same_rows import check_rows, row_digests
from observe_r1.errors import UserError
from observe_r1.model.encoding import PromptTooLongError
from observe_r1.records import Example, Prompt
from observe_r1.threads import encoding_thread

Encode = Callable[[Example, int], Prompt]


AHEAD = 32
"""Prompts encoded ahead at least: one image may be huge, the next come from a slow server."""


class Drawn(NamedTuple):
    """An example and its prompt, with the row of the dataset that it is."""

    row: int
    example: Example
    prompt: Prompt


class PromptStream:
    """Draws examples and encodes them ahead; prompts over the limit are dropped, named and counted.

    Args:
        examples: the dataset.
        order: of its rows; advanced one row a draw, `ahead` draws before they are handed out.
        encode: `(example, draw number) → Prompt`.
        note: called with a line for the first dropped prompts, later ones are counted (`Alike`).
        limit: prompts to draw in all; None for no end.
        ahead: prompts encoded before they are asked for; fewer than one `take` takes keep it waiting.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        order: Order,
        encode: Encode,
        note: Callable[[str], None],
        limit: int | None = None,
        ahead: int = AHEAD,
    ) -> None:
        self.examples = examples
        self.order = order
        self.encode = encode
        self.notes = Alike(note)
        """What a run says of its prompts, the sampler's warnings included."""
        self.limit = limit
        self.ahead = ahead
        self.drawn = 0
        self.dropped = 0
        self._queue: deque[tuple[int, Future[tuple[Example, Prompt]]]] = deque()
        self._thread = encoding_thread()
        self._digests = row_digests(examples)

    @property
    def exhausted(self) -> bool:
        """Whether `limit` prompts have been drawn."""
        return self.limit is not None and self.drawn >= self.limit

    def take(self, count: int) -> list[Drawn]:
        """Return the next `count` prompts, fewer at the stream's end.

        Errors: `UserError` where a whole pass over the data, or the whole run, held no prompt within the limit.
        """
        taken: list[Drawn] = []
        barren = 0
        while len(taken) < count and not self.exhausted:
            self._fill(count - len(taken) + self.ahead)
            row, future = self._queue.popleft()
            self.drawn += 1
            try:
                taken.append(Drawn(row, *future.result()))
                barren = 0
            except PromptTooLongError as error:
                self.dropped += 1
                barren += 1
                self.notes.add(str(error), start="dropped: ")
                if barren >= len(self.examples) or (self.exhausted and self.dropped == self.drawn):
                    raise UserError("every prompt is over data.max_prompt_tokens: raise it") from error
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream stands, as JSON values: the order, and the rows drawn from it but not handed out."""
        state = {"drawn": self.drawn, "dropped": self.dropped, "ahead": [row for row, _ in self._queue]}
        return state | {"order": self.order.state_dict(), "rows": self._digests}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last prompt that was handed out when `state` was taken.

        Errors: `UserError` where the dataset then had other rows.
        """
        self._drop_ahead()
        self.drawn, self.dropped = state["drawn"], state["dropped"]
        self.order.load_state_dict(state["order"])
        check_rows(state["rows"], self.examples, "data.path")
        for row in state["ahead"]:
            self._submit(row)

    def close(self) -> None:
        """Stop encoding, and say what was counted."""
        self.notes.close()
        self._drop_ahead()
        self._thread.shutdown()

    def _drop_ahead(self) -> None:
        for _, future in self._queue:
            future.cancel()
        self._queue.clear()

    def _fill(self, wanted: int) -> None:
        while len(self._queue) < wanted and (self.limit is None or self.drawn + len(self._queue) < self.limit):
            self._submit(self.order.next())

    def _submit(self, row: int) -> None:
        number = self.drawn + len(self._queue)
        self._queue.append((row, self._thread.submit(self._encode, row, number)))

    def _encode(self, row: int, number: int) -> tuple[Example, Prompt]:
        example = self.examples[row]
        return example, self.encode(example, number)
