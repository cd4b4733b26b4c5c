"""What large images and long rows may take of memory, whatever their number."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from observe_r1.data import images
from observe_r1.data.images import opened_image
from observe_r1.threads import Budget, in_order

MIB = 2**20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    Image.new("1", (6000, 5000)).save(folder / "a.png")
    rows = ({"problem": f"<image>{n}?", "images": ["a.png"], "answer": str(n)} for n in range(12))
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.mark.parametrize(
    ("words", "most"),
    [
        (["data", "check", "a.jsonl"], 700),  # 270 MiB; without a bound 1,340
        (["ladder", "screen", "--data.sources", "a.jsonl", "--run.output", "out"], 1300),  # 780 MiB; 1,970
    ],
)
def test_many_large_images_take_the_memory_of_few(large: Path, words: list[str], most: int) -> None:
    program = f"""if True:
        import re
        from observe_r1.cli.main import main
        assert main({words!r}) == 0
        print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])"""
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True, cwd=large)
    assert int(done.stdout.splitlines()[-1]) / 1024 < most


def test_images_count_as_long_as_they_are_in_use(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MEMORY", Budget(MIB))
    second = threading.Event()

    def open_another() -> None:
        with opened_image(str(large / "a.png"), "row"):
            second.set()

    with opened_image(str(large / "a.png"), "row"):
        thread = threading.Thread(target=open_another)
        thread.start()
        assert not second.wait(1)
    thread.join()
    assert second.is_set()


def test_rows_read_ahead_are_bounded_by_what_they_hold() -> None:
    begun: list[int] = []

    def items():
        for number in range(20):
            begun.append(number)
            yield number

    found = in_order(lambda item: -item, items(), at_once=8, weigh=lambda item: 10 if item < 10 else 1, most=25)
    for number, result in enumerate(found):
        assert result == (number, -number)
        assert len(begun) - number <= (4 if number < 8 else 9)
    assert len(begun) == 20
