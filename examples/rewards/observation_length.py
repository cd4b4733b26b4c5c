"""A reward for observations of a useful length: 1 from 5 to 60 words, less the further outside.

observe-r1 train … --rewards.functions accuracy=1,format=1,examples/rewards/observation_length.py=0.2
"""

import re

SHORTEST, LONGEST = 5, 60
OBSERVATION = re.compile(r"<observe>(.*?)</observe>", re.DOTALL)


def reward(response, answer, example):
    """Score one response; `example` holds the question's messages, images, source and difficulty."""
    found = OBSERVATION.search(response)
    words = len(found[1].split()) if found else 0
    return min(words / SHORTEST, 1.0, LONGEST / max(words, 1))
