import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from observe_r1 import torch_compat
from observe_r1.errors import UserError


@pytest.fixture
def installed(monkeypatch):
    """Return a function that pretends these builds are installed."""

    def pretend(version, vision, made_for, loads):
        cuda = "13.0" if "+cu" in version else None
        monkeypatch.setattr(torch, "__version__", version)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        found = SimpleNamespace(version=vision, requires=["numpy", f"torch{made_for}", "scipy; extra == 'scipy'"])
        monkeypatch.setattr(torch_compat.metadata, "distribution", lambda name: found)
        monkeypatch.setattr(torch_compat.metadata, "version", lambda name: "99")
        monkeypatch.setattr(torch_compat, "_loads", lambda package, pattern: loads or package != "torchvision")
        monkeypatch.setattr(
            torch_compat.torch.library, "Library", lambda *_: SimpleNamespace(define=lambda schema: None)
        )
        monkeypatch.setattr(torch_compat, "_library", None)
        monkeypatch.setattr(torch_compat, "_done", False)
        monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))

    return pretend


@pytest.mark.parametrize(
    ("torch_version", "vision", "made_for", "loads"),
    [
        ("2.13.0+cpu", "0.28.0", "==2.13.0", False),  # the package index's torchvision beside a CPU build
        ("2.13.0+cpu", "0.28.0+cpu", "==2.13.0", True),
        ("2.13.0+cu130", "0.28.0", "==2.13.0", True),
        ("2.13.0+cu130", "0.28.0+cu130", " (==2.13.0)", True),
        ("2.13.0a0+git1", "0.28.0a0", "", True),  # built from source
    ],
)
def test_builds_that_fit_are_silent(installed, capsys, torch_version, vision, made_for, loads):
    installed(torch_version, vision, made_for, loads)
    torch_compat.ensure_importable()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("torch_version", "vision", "made_for", "loads", "said"),
    [
        ("2.13.0+cpu", "0.29.0", "==2.14.0", False, "is made for torch==2.14.0, and this is torch 2.13.0+cpu"),
        ("2.13.0+cu130", "0.29.0", "==2.14.0", True, "is made for torch==2.14.0, and this is torch 2.13.0+cu130"),
        ("2.13.0+cu130", "0.28.0+cpu", "==2.13.0", True, "0.28.0+cpu does not match the build of torch 2.13.0+cu130"),
        ("2.13.0+cu126", "0.28.0", "==2.13.0", False, "0.28.0 does not match the build of torch 2.13.0+cu126"),
    ],
)
def test_builds_that_do_not_fit_are_one_line_said_once(installed, capsys, torch_version, vision, made_for, loads, said):
    installed(torch_version, vision, made_for, loads)
    torch_compat.ensure_importable()
    torch_compat.ensure_importable()
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("observe-r1: torchvision 0.2") and said in err and "docs/install.md" in err


def test_a_torchvision_that_cannot_be_imported_for_it_is_the_users_to_mend(installed, monkeypatch):
    installed("2.13.0+cu130", "0.29.0", "==2.14.0", False)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        UserError, match=r"made for torch==2.14.0.*cannot be imported \(.*torchvision.*\): install both"
    ):
        torch_compat.ensure_importable()


@pytest.mark.parametrize(
    ("name", "version"), [("transformers", "5.17.0"), ("transformers", "4.57.1"), ("torch", "2.10")]
)
def test_a_library_that_is_too_old_is_refused_at_import(monkeypatch, name, version):
    monkeypatch.setattr(torch_compat, "_done", False)
    monkeypatch.setattr(torch_compat.metadata, "version", lambda asked: version if asked == name else "99")
    for _ in range(2):
        with pytest.raises(UserError, match=rf"^{name} {version} is too old \(.*\): `pip install '{name}>=[0-9.]+'`"):
            torch_compat.ensure_importable()


def test_the_oldest_release_is_the_one_that_is_installed():
    dependencies = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["dependencies"]
    for name, (oldest, _) in torch_compat._OLDEST.items():
        assert any(line.startswith(f"{name}>={oldest}") for line in dependencies)
