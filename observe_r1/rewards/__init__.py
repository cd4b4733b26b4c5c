"""What a response earns: accuracy, format, and the user's own rewards."""

from observe_r1.rewards.accuracy import accuracy_reward, verifiable
from observe_r1.rewards.format import format_reward
from observe_r1.rewards.scorer import PendingScores, Scorer, Scores

__all__ = ["PendingScores", "Scorer", "Scores", "accuracy_reward", "format_reward", "verifiable"]
