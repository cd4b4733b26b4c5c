"""docs/scaling.md: what it tells to type or to apply is well-formed, and our commands mean what they should."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from ray.scripts.scripts import start, symmetric_run

from observe_r1.cli.options import parse_settings
from observe_r1.config import TrainSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SHELL = [text for kind, text in BLOCKS if kind in ("bash", "slurm")]
(MANIFEST,) = (yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml")

FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": set(
        "activeDeadlineSeconds backoffLimit rayClusterSpec submitterPodTemplate metadata clusterSelector"
        " submitterConfig managedBy deletionStrategy entrypoint runtimeEnvYAML jobId submissionMode entrypointResources"
        " entrypointNumCpus entrypointNumGpus ttlSecondsAfterFinished shutdownAfterJobFinishes suspend".split()
    ),
    "spec.rayClusterSpec": set(
        "suspend managedBy autoscalerOptions headServiceAnnotations enableInTreeAutoscaling gcsFaultToleranceOptions"
        " headGroupSpec rayVersion workerGroupSpecs".split()
    ),
    "spec.rayClusterSpec.headGroupSpec": set("template headService enableIngress rayStartParams serviceType".split()),
    "spec.rayClusterSpec.workerGroupSpecs.0": set(
        "suspend groupName replicas minReplicas maxReplicas idleTimeoutSeconds rayStartParams template scaleStrategy"
        " numOfHosts".split()
    ),
}
"""Of ray.io/v1, from KubeRay's API reference."""


def commands():
    """Every `observe-r1 train` of the page, as words."""
    joined = [text.replace("\\\n", " ") for text in SHELL] + [MANIFEST["spec"]["entrypoint"]]
    lines = [line for text in joined for line in text.splitlines()]
    return [shlex.split(line[line.index("observe-r1 train") :]) for line in lines if "observe-r1 train" in line]


@pytest.mark.parametrize("text", SHELL)
def test_shell_blocks_are_shell(text):
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_are_taken(words):
    settings = parse_settings(TrainSettings, words[2:], verb="train")
    asked = settings.cluster.gpus
    assert asked == (int(words[words.index("--cluster.gpus") + 1]) if "--cluster.gpus" in words else None)


def test_there_are_commands_for_one_gpu_eight_and_four_machines():
    settings = [parse_settings(TrainSettings, words[2:], verb="train").cluster for words in commands()]
    assert {(None, None), (8, None), (32, "auto")} <= {(each.gpus, each.address) for each in settings}


def test_the_scripts_take_the_old_flags_shown():
    (line,) = (text.replace("\\\n", " ") for text in SHELL if "scripts/train_r1.sh" in text)
    *environment, script = shlex.split(line)[:3]
    assert [word.partition("=")[0] for word in environment] == ["MODEL", "DATA"] and (ROOT / script).is_file()
    settings = parse_settings(
        TrainSettings,
        ["observe_r1", "--model.path", "m", "--data.path", "d", *shlex.split(line)[3:]],
        verb="train",
    )
    cluster = settings.cluster
    assert (cluster.gpus, cluster.layout, cluster.engines, cluster.reshard) == (8, "colocated", 8, False)


@pytest.mark.parametrize("line", [line for text in SHELL for line in text.splitlines() if line.startswith("ray start")])
def test_ray_knows_the_options_of_its_own_command(line):
    assert start.make_context("start", shlex.split(line)[2:])  # parses, and runs nothing


@pytest.mark.parametrize(
    ("script", "recipe"), [("r1", "observe_r1"), ("grpo", "grpo"), ("random", "observe_r1_random")]
)
@pytest.mark.parametrize(
    ("given", "cluster"),
    [
        ({}, (None, None, None, True)),
        ({"GPUS": "1"}, (None, None, None, True)),
        ({"GPUS": "2"}, (2, None, 2, False)),
        ({"GPUS": "8", "NODES": "4"}, (32, "auto", 32, False)),
    ],
)
@pytest.mark.parametrize("is_tiny", [False, True])
def test_the_scripts_run_the_recipes_on_so_many_gpus(script, recipe, given, cluster, is_tiny, tmp_path, monkeypatch):
    copy_scripts(tmp_path)
    places = {} if is_tiny else {"MODEL": "m", "DATA": "d"}
    run = run_script(tmp_path, script, "--run.steps", "2", **given, **places)
    command, *words = run.stdout.splitlines()
    monkeypatch.chdir(ROOT)
    settings = parse_settings(TrainSettings, words, verb=command)
    assert words[0] == f"recipes/{'tiny/' * is_tiny}{recipe}.yaml" and settings.run.steps == 2
    found = settings.cluster
    assert (found.gpus, found.address, found.engines, found.reshard) == cluster and found.layout == "colocated"
    assert settings.rollout.engine == ("vllm" if found.used and not is_tiny else "embedded")


def test_the_scripts_refuse_half_of_what_they_need(tmp_path):
    copy_scripts(tmp_path)
    for given, message in (({"NODES": "2"}, "NODES needs GPUS"), ({"MODEL": "m"}, "set both MODEL and DATA")):
        run = run_script(tmp_path, "r1", **given)
        assert run.returncode == 2 and message in run.stderr and run.stderr.count("\n") == 1


def copy_scripts(folder):
    """Copy the scripts beside a command that only prints its words, one a line."""
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    (folder / "runs" / "demo" / "warm" / "model").mkdir(parents=True)
    stand_in = folder / ".venv" / "bin" / "observe-r1"
    stand_in.parent.mkdir(parents=True)
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)


def run_script(folder, name, *words, **given):
    kept = {name: value for name, value in os.environ.items() if name not in ("MODEL", "DATA", "GPUS", "NODES")}
    script = ["bash", str(folder / "scripts" / f"train_{name}.sh"), *words]
    return subprocess.run(script, env=kept | given, text=True, capture_output=True)


def test_ray_has_the_command_of_the_slurm_script():
    assert "--min-nodes" in CliRunner().invoke(symmetric_run, ["--help"]).output


@pytest.mark.parametrize("place", FIELDS)
def test_the_manifest_has_only_fields_of_a_ray_job(place):
    part = MANIFEST
    for name in filter(None, place.split(".")):
        part = part[int(name)] if name.isdigit() else part[name]
    assert part and part.keys() <= FIELDS[place]


def test_the_manifest_asks_for_the_gpus_that_the_command_uses():
    spec = MANIFEST["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    gpus = group["replicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert f"--cluster.gpus {gpus}" in spec["entrypoint"]
    pinned = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert spec["rayClusterSpec"]["rayVersion"] == pinned[1]
    volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    for params in (group["rayStartParams"], spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]):
        assert all(isinstance(value, str) for value in params.values())
