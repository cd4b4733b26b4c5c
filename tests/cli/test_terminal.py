"""Standard output and error that nobody reads, that are full, or that lack characters: none of it ends a run."""

import io
import os
import signal
import subprocess
import sys
from multiprocessing import get_context

import pytest
from transformers import AutoModelForImageTextToText

from observe_r1.cli.main import main
from observe_r1.cli.terminal import steady_streams

LONG = "observe " * 100_000
"""More than any buffer takes."""


def dead_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.fixture
def stdout(monkeypatch):
    """Replaces standard output by a descriptor, as a shell would."""

    def replace(descriptor, encoding="utf-8"):
        stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    return replace


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_dead_reader_is_no_error(stdout, end):
    stream = stdout(dead_pipe())
    with steady_streams() as outlets:
        print(LONG, end=end)
        sys.stdout.flush()
        print(LONG)
    assert outlets["stdout"].lost is None and sys.stdout is stream


def test_a_slow_reader_gets_everything_though_the_pipe_does_not_block(stdout):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stdout(writer)
    copy = subprocess.Popen([sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"], stdin=reader,
                            stdout=subprocess.PIPE)  # fmt: skip
    os.close(reader)
    with steady_streams():
        print(LONG, end="")
    os.close(writer)
    assert int(copy.communicate()[0]) == len(LONG)


def test_a_full_disk_is_said_for_the_result_has_been_asked_for(stdout, capsys):
    for command, code in ((["--version"], 2), (["--help"], 2), (["trian"], 2)):
        stdout(os.open("/dev/full", os.O_WRONLY))
        assert main(command) == code
        complaint = capsys.readouterr().err.splitlines()[-1]
        said = "unknown command" if command == ["trian"] else "standard output is incomplete: No space left on device"
        assert complaint.startswith(f"observe-r1: error: {said}")
    stdout(os.open("/dev/full", os.O_WRONLY))
    assert main(["train", "--help"]) == 2
    stdout(os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--help"])
    assert ended.value.code == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_characters_that_the_encoding_lacks_become_escapes(stdout, encoding, world, tmp_path):
    """Help has ≥, the figures of a dataset ×, and rows anything."""
    output = tmp_path / "out"
    stdout(os.open(output, os.O_WRONLY | os.O_CREAT), encoding)
    assert main(["train", "--help"]) == 0
    assert main(["data", "check", str(world / "train" / "train.jsonl")]) == 0
    text = output.read_bytes().decode(encoding)
    assert "(default null, \\u2265 1)" in text
    assert ("84 \\xd7 84" if encoding == "ascii" else "84 × 84") in text


def test_streams_that_are_closed_or_no_files_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with steady_streams() as outlets:
        assert outlets == {} and sys.stdout is None
    assert main(["--version"]) == 0 and main(["trian"]) == 2
    assert "unknown command" in sys.stderr.getvalue()


# A run


def train_unread(words, which):
    """Train; after two steps whoever reads the output dies, and the run is sent a signal."""
    from observe_r1.run.progress import Progress

    reader, writer = os.pipe()
    for descriptor in (1, 2):
        os.dup2(writer, descriptor)
    os.close(writer)
    signal.signal(which, signal.default_int_handler)  # whatever the tests were started to ignore
    update = Progress.update

    def leave(self, step, metrics):
        update(self, step, metrics)
        if step == 2:
            os.close(reader)
            signal.raise_signal(which)

    Progress.update = leave
    sys.exit(main(words))


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGHUP])
def test_a_run_whose_reader_dies_saves_when_it_is_asked_to_stop(world, tmp_path, which):
    """As `train … 2>&1 | tee log` and Ctrl-C, which ends both; as a terminal that is closed."""
    paths = ["--model.path", str(world / "warm" / "model"), "--data.path", str(world / "train" / "train.jsonl")]
    sizes = ["--rollout.prompts", "2", "--rollout.group_size", "2", "--rollout.max_new_tokens", "20"]
    cpu = ["--optimizer.minibatch", "2", "--run.threads", "1", "--model.device", "cpu"]
    run = tmp_path / "run"
    context = get_context("forkserver")
    context.set_forkserver_preload(["observe_r1.run.train"])
    words = ["train", *paths, *sizes, *cpu, "--run.steps", "9", "--run.output", str(run)]
    process = context.Process(target=train_unread, args=(words, which))
    process.start()
    process.join()
    assert process.exitcode == 130
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000002"]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert AutoModelForImageTextToText.from_pretrained(run / "model")
