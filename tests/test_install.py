"""scripts/install.sh with stand-ins for Python, uv and the GPU: what it would run, in which case."""

import shutil
import subprocess
from pathlib import Path

import pytest

from observe_r1.run.benchmarks import RELEASE

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/bash
case "$*" in
  *version_info*) echo {version} ;;
  *urlopen*) exit {unreachable} ;;
  *playwright*) echo "python $*" >>"$LOG"; exit {unfetched} ;;
  "-m venv"*) echo "venv $*" >>"$LOG"; mkdir -p "${{@: -1}}/bin"; cp "$0" "${{@: -1}}/bin/python" ;;
  *) echo "python $*" >>"$LOG" ;;
esac
"""
UV = """#!/bin/bash
echo "uv $*" >>"$LOG"
if [[ $1 == venv ]]; then mkdir -p "${@: -1}/bin"; cp "$(dirname "$0")/python3" "${@: -1}/bin/python"; fi
"""


@pytest.fixture
def machine(tmp_path):
    """A copy of the repository's files and a PATH; returns a function that installs and returns what was run."""
    for name in ("pyproject.toml", "constraints.txt", "scripts/install.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "cat", "cp", "dirname", "mkdir", "sha256sum"):
        (tools / name).symlink_to(shutil.which(name))

    def add(name, text):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    add("chromium", "#!/bin/bash\n")

    def install(*words, version="3.12", reachable=True, fetches=True, uv=False, gpu=False, **environment):
        add("python3", PYTHON.format(version=version, unreachable=int(not reachable), unfetched=int(not fetches)))
        if uv:
            add("uv", UV)
        if gpu:
            add("nvidia-smi", "#!/bin/bash\n")
        log = tmp_path / "log"
        log.write_text("")
        command = [tmp_path / "scripts/install.sh", ".venv", *words]
        environment = {"PATH": str(tools), "LOG": str(log)} | environment
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done.returncode, log.read_text().splitlines(), done.stderr

    install.add, install.tools = add, tools
    install.folder = tmp_path
    return install


def test_pip_takes_the_cpu_build_where_there_is_no_gpu(machine):
    code, ran, said = machine()
    assert code == 0
    assert ran == [
        "venv -m venv --clear .venv",
        "python -m pip --version",
        "python -m pip install --constraint constraints.txt --editable . "
        "--extra-index-url https://download.pytorch.org/whl/cpu",
    ]
    assert said == "install: pip into .venv, torch's CPU build from https://download.pytorch.org/whl/cpu\n"


@pytest.mark.parametrize(("gpu", "extra", "build"), [(False, [], "cpu"), (True, [], "auto"), (True, ["test"], "cpu")])
def test_uv_takes_the_build_that_fits(machine, gpu, extra, build):
    code, ran, _ = machine(*extra, uv=True, gpu=gpu)
    what = ".[test]" if extra else "."
    harness = ["python -m pip install --no-deps lmms-eval==" + RELEASE] if extra else []
    assert code == 0
    assert ran == [
        "uv venv --quiet --seed --clear --python >=3.11,<3.14 .venv",
        f"uv pip install --python .venv/bin/python --torch-backend {build} "
        f"--constraint constraints.txt --editable {what}",
        *harness,
    ]


def test_pip_with_a_gpu_takes_the_ordinary_build(machine):
    _, ran, _ = machine(gpu=True)
    assert ran[-1] == "python -m pip install --constraint constraints.txt --editable ."


@pytest.mark.parametrize("uv", [False, True])
def test_an_index_out_of_reach_is_said_and_left_out(machine, uv):
    code, ran, said = machine("test", uv=uv, reachable=False)
    assert code == 0
    assert ran[-2] == "python -m pip install --constraint constraints.txt --editable .[test]"
    assert "does not answer: pip takes torch from where it is configured to; .[test] wants the CPU build" in said


def test_nothing_is_done_twice_unless_what_is_asked_for_changed(machine):
    machine()
    assert machine() == (0, [], "")
    (machine.folder / "constraints.txt").write_text("torch==2.14.0\n")
    assert len(machine()[1]) == 2  # pip, into the same environment
    assert len(machine("test")[1]) == 3  # and lmms-eval


def test_an_environment_that_does_not_run_is_made_anew(machine):
    machine()
    (machine.folder / ".venv/bin/python").unlink()
    assert machine()[1][0] == "venv -m venv --clear .venv"


def test_another_python_is_asked_for_by_name_and_kept_afterwards(machine):
    machine()
    machine.add("python3.13", PYTHON.format(version="3.13", unreachable=0, unfetched=0))
    code, ran, said = machine(PYTHON="python3.13")
    assert (code, ran[0]) == (0, "venv -m venv --clear .venv")
    assert said.startswith("install: .venv has Python 3.12 and is rebuilt with 3.13\n")
    assert machine() == (0, [], "")


@pytest.mark.parametrize("asked", [{}, {"PYTHON": "python3"}, {"PYTHON": "python3.99"}])
def test_an_unfit_python_is_one_line(machine, asked):
    name = asked.get("PYTHON", "python3")
    line = f"install: {name} is not Python 3.11, 3.12 or 3.13: set PYTHON to one, or install uv, which fetches one\n"
    assert machine(version="3.9", **asked) == (2, [], line)


FETCH = "python -m playwright install --only-shell chromium"
APT = ["apt-get update -qq", "apt-get install -y -qq chromium"]


@pytest.mark.parametrize(
    ("user", "apt", "fetched", "expected"),
    [
        (0, 0, True, APT),
        (0, None, True, [FETCH]),
        (0, 1, True, [APT[0], FETCH]),  # no such package: Ubuntu's is a snap
        (1000, 0, True, [FETCH]),
        (1000, 0, False, [FETCH]),
    ],
)
def test_the_tests_have_a_browser(machine, user, apt, fetched, expected):
    (machine.tools / "chromium").unlink()
    machine.add("id", f"#!/bin/bash\necho {user}\n")
    if apt is not None:
        machine.add("apt-get", f'#!/bin/bash\necho "apt-get $*" >>"$LOG"; exit {apt}\n')
    code, ran, said = machine("test", fetches=fetched)
    assert ran[3:] == expected and (code == 0) == fetched
    assert ("no browser for the tests of pages: install chromium or google-chrome" in said) == (not fetched)
    machine.add("google-chrome", "#!/bin/bash\n")
    assert (machine("test", fetches=False)[0], (machine.folder / ".venv/.ready-to-test").is_file()) == (0, True)


def test_a_user_needs_no_browser(machine):
    (machine.tools / "chromium").unlink()
    assert machine()[0] == 0
