"""Ladders measured and models evaluated on several engines, in other processes: the same bytes as in one process."""

import json
import os
import signal

import pytest
from ray.cluster_utils import Cluster

from observe_r1.cli.main import main
from observe_r1.cluster import engines_alone
from observe_r1.cluster.engines import EnginePool
from observe_r1.demo.dataset import write_questions
from observe_r1.demo.tiny_model import Sizes, make_tiny_model
from observe_r1.ladder.journal import Journal

SAMPLED = ["--rollout.max_new_tokens", "24", "--rollout.batch", "8", "--run.threads", "1", "--model.device", "cpu"]


@pytest.fixture(scope="module")
def ray_address():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 3, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A model that answers anything at all, and questions."""
    folder = tmp_path_factory.mktemp("asked")
    write_questions(folder / "train", "train", seed=0, count=20)
    return str(make_tiny_model(folder / "model", sizes=Sizes(), scale=2.0)), str(folder / "train" / "train.jsonl")


def screened(asked, folder):
    assert main(["ladder", "screen", asked[1], "--output", str(folder)]) == 0
    return folder


def measure(asked, folder, *cluster):
    words = ["ladder", "measure", str(folder), "--model", asked[0], "--rollout.group_size", "4", *SAMPLED, *cluster]
    return main(words)


class Died(BaseException):
    """The process is killed."""


def test_a_ladder_is_measured_as_in_one_process_with_engines_that_die_and_on_other_numbers_of_them(
    asked, ray_address, tmp_path, monkeypatch, capsys
):
    alone, spread = screened(asked, tmp_path / "alone"), screened(asked, tmp_path / "spread")
    assert measure(asked, alone) == 0

    commit, generate = Journal.commit, EnginePool.generate

    def one_batch_and_no_more(self, done, **kwargs):
        commit(self, done, **kwargs)
        raise Died

    def with_a_dead_engine(self, prompts, sampling, on_group=None):
        os.kill(self.processes()[0], signal.SIGKILL)
        return generate(self, prompts, sampling, on_group)

    with monkeypatch.context() as patch:
        patch.setattr(EnginePool, "generate", with_a_dead_engine)
        patch.setattr(Journal, "commit", one_batch_and_no_more)
        with pytest.raises(Died):
            measure(asked, spread, "--cluster.address", ray_address, "--cluster.gpus", "2")
    said = capsys.readouterr().err
    assert "2 engines on 1 machine" in said and "sampling engine 0 has died and starts again" in said
    assert len((spread / "measured.jsonl").read_text().splitlines()) == 8
    assert measure(asked, spread, "--cluster.address", ray_address, "--cluster.gpus", "1") == 0
    for name in ("measured.jsonl", "responses.jsonl", "asked.yaml"):
        assert (spread / name).read_bytes() == (alone / name).read_bytes()
    texts = {json.loads(line)["text"] for line in (spread / "responses.jsonl").read_text().splitlines()}
    assert len(texts) > 40


def test_an_evaluation_is_the_same_and_engines_that_always_die_end_it_in_one_line(
    asked, ray_address, tmp_path, monkeypatch, capsys
):
    def evaluate(folder, *cluster):
        words = ["evaluate", *asked, "--output", str(tmp_path / folder), "--samples", "2", *SAMPLED, *cluster]
        return main(words)

    on_ray = ["--cluster.address", ray_address, "--cluster.gpus", "1"]
    assert evaluate("alone") == 0

    def dying(self, prompts, sampling, on_group=None):
        self._restarts = 0
        os.kill(self.processes()[0], signal.SIGKILL)
        return generate(self, prompts, sampling, on_group)

    generate = EnginePool.generate
    with monkeypatch.context() as patch:
        patch.setattr(engines_alone.EnginePool, "generate", dying)
        assert evaluate("spread", *on_ray) == 2
    assert "the same command resumes after the last batch" in capsys.readouterr().err.splitlines()[-1]
    begun, begin = [], EnginePool.__init__
    monkeypatch.setattr(EnginePool, "__init__", lambda self, *a, **how: begun.append(self) or begin(self, *a, **how))
    assert evaluate("spread", *on_ray) == 0
    assert len(begun) == 1, "the greedy responses and the samples are one model's"
    summaries = [(tmp_path / folder / "summary.json").read_text() for folder in ("alone", "spread")]
    assert summaries[0] == summaries[1]


def test_what_engines_alone_cannot_do_is_one_line(asked, ray_address, tmp_path, capsys):
    folder = screened(asked, tmp_path / "ladder")
    assert measure(asked, folder, "--cluster.gpus", "2", "--cluster.layout", "apart") == 2
    assert "--cluster.layout" in capsys.readouterr().err.splitlines()[-1]
    assert measure(asked, folder, "--cluster.address", ray_address, "--cluster.gpus", "64") == 2
    assert "cluster.gpus = 64: Ray has 2" in capsys.readouterr().err.splitlines()[-1]
    wide = ["--cluster.gpus", "2", "--cluster.tensor_parallel", "2", "--cluster.address", ray_address]
    assert measure(asked, folder, *wide) == 2
    assert (
        "cluster.tensor_parallel = 2: only vLLM splits a model over several GPUs"
        in capsys.readouterr().err.splitlines()[-1]
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "model.device = 'auto': this machine has no GPU, and Ray has 3: give --model.device cuda"),
        (["--model.device", "cuda"], "model.dtype = 'auto': this machine has no GPU to ask"),
        # Believed, though there is none here: Ray has some.
        (["--model.device", "cuda", "--model.dtype", "bfloat16"], "cluster.gpus = 64: Ray has 3: ask for fewer"),
    ],
)
def test_the_machine_that_drives_a_cluster_needs_no_gpu(asked, ray_address, tmp_path, capsys, given, said):
    folder = screened(asked, tmp_path / "ladder")
    cluster = ["--cluster.address", ray_address, "--cluster.gpus", "64"]
    assert main(["evaluate", *asked, "--output", str(tmp_path / "answers"), *given, *cluster]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    run = ["train", "tiny/observe_r1", "--run.output", str(tmp_path / "run"), "--data.path", asked[1], "--model.path"]
    for words in (["ladder", "measure", str(folder), "--model"], [*run[:-1], "--model.dtype", "bfloat16", run[-1]]):
        assert main([*words, asked[0], "--model.device", "cuda", *cluster]) == 2
        assert "cluster.gpus = 64: Ray has 3: ask for fewer" in capsys.readouterr().err.splitlines()[-1]
