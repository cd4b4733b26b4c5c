"""The stream of prompts: encoded ahead, long ones dropped and counted, broken rows refused when they are reached."""

from contextlib import closing
from threading import Event

import pytest

from observe_r1.config import DataSettings
from observe_r1.data.order import ladder
from observe_r1.errors import UserError
from observe_r1.model.encoding import PromptTooLongError
from observe_r1.records import Example, Prompt
from observe_r1.run.setup import prompt_stream
from observe_r1.training.prompts import AHEAD, PromptStream


def encode(example, number):
    return Prompt(ids=None, token_types=None, stream=number)


def stream(count=50, encode=encode, note=print):
    examples = [Example(str(row), (), (), "1", origin=f"row {row + 1}") for row in range(count)]
    return PromptStream(examples, ladder(DataSettings(path="d"), count, 0), encode, note)


@pytest.mark.parametrize("a_step", [1, AHEAD + 30])
def test_a_whole_step_is_encoded_before_it_is_asked_for(a_step):
    ready, wanted = Event(), a_step + max(a_step, AHEAD)

    def encode(example, number):
        if number == wanted - 1:
            ready.set()
        return Prompt(ids=None, token_types=None, stream=number)

    examples = [Example(str(row), (), (), "1") for row in range(7)]
    data = DataSettings(path="d")
    with closing(prompt_stream(examples, encode, data, 0, None, print, a_step)) as stream:
        assert [each.prompt.stream for each in stream.take(a_step)] == list(range(a_step))
        assert ready.wait(30), "the next step's prompts wait to be asked for"


def test_prompts_over_the_limit_are_dropped_named_and_counted():
    notes = []

    def sometimes(example, number):
        if number % 2:
            raise PromptTooLongError(
                f"{example.origin}: the prompt has 900 tokens, data.max_prompt_tokens is 10", tokens=900
            )
        return encode(example, number)

    source = stream(encode=sometimes, note=notes.append)
    assert [each.prompt.stream for each in source.take(3)] == [0, 2, 4]
    assert source.dropped == 2 and notes[0].startswith("dropped: row 2: the prompt has 900 tokens")


def test_a_dataset_of_nothing_but_long_prompts_is_an_error():
    def never(example, number):
        raise PromptTooLongError("too long", tokens=900)

    with pytest.raises(UserError, match=r"every prompt is over data\.max_prompt_tokens"):
        stream(count=5, encode=never).take(1)


def test_a_broken_row_ends_the_run_when_it_is_reached_not_before():
    def broken(example, number):
        if number == 2:
            raise UserError("row 3: image missing")
        return encode(example, number)

    source = stream(encode=broken)
    assert len(source.take(2)) == 2
    with pytest.raises(UserError, match="row 3"):
        source.take(1)


def test_the_position_in_a_dataset_of_another_size_is_refused():
    source, other = stream(count=5), stream(count=4)
    source.take(3)
    before = other.state_dict()
    with pytest.raises(UserError, match=r"data\.path: the saved run had 5 rows, there are 4 now"):
        other.load_state_dict(source.state_dict())
    assert other.state_dict() == before
