"""The best evaluation so far, and for how long there was none better."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Best:
    """Takes evaluations in their order; the first of equal ones is the best."""

    step: int | None = None
    """Steps done when the best was made: 0 for the starting model, None before the first evaluation."""
    accuracy: float = -1.0
    since: int = 0
    """Evaluations after the best one."""

    def take(self, step: int, accuracy: float) -> bool:
        """Take in the evaluation of `step`; return whether it is the best so far."""
        if accuracy > self.accuracy:
            self.step, self.accuracy, self.since = step, accuracy, 0
        else:
            self.since += 1
        return self.since == 0

    def state_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.step, self.accuracy, self.since = state["step"], state["accuracy"], state["since"]
