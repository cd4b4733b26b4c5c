"""The Dockerfile, as far as can be seen without Docker: its stages, what it copies, and what its commands would do."""

import re
import shlex
import subprocess
import tomllib
from fnmatch import fnmatch

from doc_pages import ROOT, check_other

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = [
    tuple(line.split(None, 1))
    for line in re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    if line.strip()
]
"""Each with its name and the rest of its (joined) line."""


def test_stages_stand_on_stages_that_are_there():
    arguments = {rest.partition("=")[0] for name, rest in INSTRUCTIONS if name == "ARG"}
    stages = set()
    for name, rest in INSTRUCTIONS:
        source = rest.split(" AS ")[0] if name == "FROM" else "".join(re.findall(r"--from=(\S+)", rest))
        assert not source or source in stages or re.fullmatch(r"python:\$\{PYTHON\}-slim-bookworm", source), source
        if name == "FROM":
            stages.add(rest.split(" AS ")[1])
    assert {"cpu", "cuda"} <= stages and arguments == {"PYTHON"}


def test_the_python_is_one_that_is_supported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (version,) = re.findall(r"^ARG PYTHON=(\S+)", TEXT, re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]


def test_what_is_copied_exists_and_is_sent_to_docker():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = [line[1:] for line in ignored if line.startswith("!")]
    copied = [
        word for name, rest in INSTRUCTIONS if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]
    ]
    assert "observe_r1" in copied and "pyproject.toml" in copied
    for word in copied:
        assert (ROOT / word).exists() and any(fnmatch(word, pattern) for pattern in sent), word
    assert set(sent) == set(copied), "what is sent and not copied makes the context large"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {project["project"]["readme"], *project["project"]["license-files"]}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert needed <= set(copied), "building the package needs these"


def test_what_is_run_is_shell_and_its_installs_are_possible():
    """`make resolve` resolves every extra with constraints.txt; here the extras exist and the options are known."""
    installs = 0
    for line in (rest for name, rest in INSTRUCTIONS if name == "RUN"):
        checked = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, ""), line
        for command in line.split("&&"):
            words = shlex.split(command)
            if words[0] in ("pip", "uv"):
                check_other(words)
                installs += "install" in words
    assert installs == 3


def test_it_runs_our_command_as_somebody_who_is_not_root():
    by_name = dict(INSTRUCTIONS)  # the last of each name
    assert by_name["ENTRYPOINT"] == '["observe-r1"]' and by_name["USER"] == "1000"
    assert [name for name, _ in INSTRUCTIONS].index("USER") < [name for name, _ in INSTRUCTIONS].index("ENTRYPOINT")
    assert "--uid 1000" in TEXT


def test_whoever_user_names_has_a_home_to_write_to():
    """Ray, Triton and Matplotlib keep files in it; for a uid that the image does not know, Docker sets HOME to `/`."""
    variables = dict(pair.split("=", 1) for name, rest in INSTRUCTIONS if name == "ENV" for pair in rest.split())
    (home,) = re.findall(r"--home-dir (\S+)", TEXT)
    assert variables["HOME"] == dict(INSTRUCTIONS)["WORKDIR"] == home and f"chmod 1777 {home}" in TEXT
    assert variables["USER"] == "observer", "getpass asks for a name before it asks for the uid's"
