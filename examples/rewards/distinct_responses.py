"""A reward for exploring: a response earns 1 if no other response to the same question has the same text.

It takes all responses to a question at once, in the form of the original's reward files.

    observe-r1 train … --rewards.functions accuracy=1,examples/rewards/distinct_responses.py=0.1
"""

from collections import Counter


def reward_func(queries, prompts, labels):
    """Score one group; a query is the prompt with a response, a label the gold answer."""
    times = Counter(queries)
    return [float(times[query] == 1) for query in queries]
