"""Work done ahead of time in a thread: order, how far ahead, errors, the end."""

from threading import Event, current_thread, main_thread

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from observe_r1.threads import encoding_thread, map_ahead


@given(st.lists(st.integers(), max_size=20), st.integers(0, 25))
def test_results_come_in_order(items, ahead):
    assert list(map_ahead(lambda n: n + 1, items, ahead)) == [n + 1 for n in items]


def test_items_are_computed_ahead_in_another_thread_and_no_further():
    done, threads, third = [], [], Event()

    def compute(n):
        threads.append(current_thread())
        done.append(n)
        if n == 2:
            third.set()
        return n

    results = map_ahead(compute, range(10), ahead=2)
    assert done == []
    assert next(results) == 0
    assert third.wait(60), "nothing was computed ahead of its being asked for"
    assert next(results) == 1
    results.close()
    assert done[:3] == [0, 1, 2] and len(done) <= 4
    assert main_thread() not in threads


def test_an_encoding_thread_computes_alone_and_takes_nothing_from_the_main_one():
    torch.set_num_threads(2)
    try:
        with encoding_thread() as thread:
            assert thread.submit(torch.get_num_threads).result() == 1
            torch.set_num_threads(2)  # whatever others do
            assert thread.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 2
        assert "mkl_get_max_threads() : 2" in torch.__config__.parallel_info()
    finally:
        torch.set_num_threads(1)


def test_an_error_comes_where_its_item_would():
    results = map_ahead(lambda n: 6 // n, [3, 0, 2], ahead=3)
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_drops_what_has_not_begun():
    begun, go_on, computed = Event(), Event(), []

    def compute(n):
        if n == 1:
            begun.set()
            assert go_on.wait(60)
        computed.append(n)
        return n

    results = map_ahead(compute, range(100), ahead=50)
    assert next(results) == 0
    assert begun.wait(60)
    go_on.set()
    results.close()
    assert len(computed) < 51
