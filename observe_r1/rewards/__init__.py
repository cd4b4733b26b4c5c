"""What a response earns: accuracy and format, and a pool of processes that scores under a time limit.

Importing this package is cheap: math-verify and sympy are loaded only by the worker processes.
"""

from observe_r1.rewards.accuracy import accuracy_reward, verifiable
from observe_r1.rewards.format import format_reward
from observe_r1.rewards.scorer import PendingScores, Scorer, Scores

__all__ = ["PendingScores", "Scorer", "Scores", "accuracy_reward", "format_reward", "verifiable"]
