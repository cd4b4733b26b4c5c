"""Prompts in the data's order, decoded and preprocessed ahead of the sampler in a background thread."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from observe_r1.data.alike import Alike
from observe_r1.data.order import Order
from observe_r1.data.same_rows import check_rows, row_digests
from observe_r1.errors import UserError
from observe_r1.model.encoding import PromptTooLongError
from observe_r1.records import Example, Prompt
from observe_r1.threads import encoding_thread

PromptEncoder = Callable[[Example, int], Prompt]
"""Makes a prompt of an example and the number of the draw, counted from 0 over the whole run."""

AHEAD = 32
"""Fewest prompts encoded ahead: one image may be huge, and the next may come from a slow server."""


class PromptSource(Protocol):
    """Where a run's prompts come from: a `PromptStream`, or a sampler of groups with its leftovers."""

    @property
    def drawn(self) -> int:
        """Prompts drawn so far, dropped ones included."""
        ...

    @property
    def dropped(self) -> int:
        """Prompts over the token limit so far."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return its position."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position."""
        ...


class Drawn(NamedTuple):
    """An example with its row in the dataset, and its prompt."""

    row: int
    example: Example
    prompt: Prompt


class PromptStream:
    """Draws examples and encodes them ahead; prompts over the token limit are dropped, named and counted.

    Args:
        examples: The dataset.
        order: Of its rows. It advances one row per draw, `ahead` draws before `take` returns them.
        encode: Makes the prompts; its `PromptTooLongError` drops one.
        note: Called with a line for the first dropped prompts; later ones are counted (`Alike`).
        limit: Prompts to draw in all; None for no end.
        ahead: Prompts encoded before they are asked for; with fewer than a `take` returns, it has to wait.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        order: Order,
        encode: PromptEncoder,
        note: Callable[[str], None],
        limit: int | None = None,
        ahead: int = AHEAD,
    ) -> None:
        self.examples = examples
        self.order = order
        self.encode = encode
        self.notes = Alike(note)
        """The run's lines about its prompts, including the sampler's warnings."""
        self.limit = limit
        self.ahead = ahead
        self.drawn = 0
        """Prompts drawn so far, dropped ones included."""
        self.dropped = 0
        """Prompts over the token limit so far."""
        self._queue: deque[tuple[int, Future[tuple[Example, Prompt]]]] = deque()
        self._thread = encoding_thread()
        self._digests = row_digests(examples)

    @property
    def exhausted(self) -> bool:
        """Whether `limit` prompts have been drawn."""
        return self.limit is not None and self.drawn >= self.limit

    def take(self, count: int) -> list[Drawn]:
        """Return the next `count` prompts, fewer at the stream's end.

        Raises:
            UserError: No prompt of a whole pass over the data, or of the whole run, is within the token limit.
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
        """Return the stream's position as JSON values: the order, and the rows drawn from it but not yet returned."""
        state = {"drawn": self.drawn, "dropped": self.dropped, "ahead": [row for row, _ in self._queue]}
        return state | {"order": self.order.state_dict(), "rows": self._digests}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the last prompt that `take` had returned when `state` was taken.

        Raises:
            UserError: The dataset had other rows then.
        """
        check_rows(state["rows"], self.examples, "data.path")
        self._drop_ahead()
        self.drawn, self.dropped = state["drawn"], state["dropped"]
        self.order.load_state_dict(state["order"])
        for row in state["ahead"]:
            self._submit(row)

    def close(self) -> None:
        """Stop encoding, and note what was counted."""
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
