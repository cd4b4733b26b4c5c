"""What a model's path may be, and one line at once for what it may not."""

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

from observe_r1.config import ModelSettings
from observe_r1.demo.tiny_model import make_tiny_model
from observe_r1.errors import UserError
from observe_r1.model.hub import check_model_path, checkpoint_folder
from observe_r1.model.loading import load_model


def test_a_folder_is_taken_and_a_run_s_folder_names_the_model_in_it(tmp_path):
    folder = make_tiny_model(tmp_path / "run" / "model")
    check_model_path(str(folder))
    (folder.parent / "config.yaml").touch()
    with pytest.raises(UserError, match=r"is a run folder; its model is in '.*/model'"):
        check_model_path(str(folder.parent))
    with pytest.raises(UserError, match=r"config.json': is a file; give the folder that holds the model, '.*/model'"):
        check_model_path(str(folder / "config.json"))


@pytest.mark.parametrize("path", ["nothing", "/no/such", "./no/such", "../no", "~/x", "a/b/c", "here/model"])
def test_what_can_only_be_a_folder_never_asks_the_hub(path, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(HfApi, "repo_info")
    with pytest.raises(UserError, match=r"no such folder$"):
        check_model_path(path)


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch):
    asked = []

    def unreachable(self, name, **settings):
        asked.append(name)
        raise HTTPError("Name or service not known")

    monkeypatch.setattr(HfApi, "repo_info", unreachable)
    with pytest.raises(UserError, match="no such folder, and the Hugging Face Hub cannot be reached: Name or service"):
        check_model_path("owner/model")
    assert asked == ["owner/model"]


def test_a_name_that_the_hub_has_is_left_to_transformers(monkeypatch):
    monkeypatch.setattr(HfApi, "repo_info", lambda self, name, **settings: name)
    check_model_path("owner/model")


def test_a_model_on_the_hub_is_fetched_once_and_checked_like_a_folder(tmp_path, monkeypatch):
    folder, asked = make_tiny_model(tmp_path / "snapshot"), []

    def download(name, **settings):
        asked.append((name, settings["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr(HfApi, "repo_info", lambda self, name, **settings: name)
    monkeypatch.setattr("observe_r1.model.hub.snapshot_download", download)
    vlm = load_model(ModelSettings(path="owner/model", device="cpu"))
    assert vlm.model.config._name_or_path == str(folder)
    ((name, patterns),) = asked
    assert name == "owner/model" and "*.safetensors" in patterns and not {"*.py", "*.bin", "*"} & set(patterns)
    checkpoint_folder("owner/model", trust_code=True, weights=False)
    assert "*.py" in asked[-1][1] and "*.safetensors" not in asked[-1][1]

    (folder / "config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"^model.path = 'owner/model': config.json holds \[1\], not a JSON object"):
        load_model(ModelSettings(path="owner/model", device="cpu"))


def test_a_download_that_breaks_off_is_one_line(monkeypatch):
    def broken(name, **settings):
        raise LocalEntryNotFoundError("cannot find the file\non disk")

    monkeypatch.setattr(HfApi, "repo_info", lambda self, name, **settings: name)
    monkeypatch.setattr("observe_r1.model.hub.snapshot_download", broken)
    with pytest.raises(UserError, match=r"'owner/model': cannot be fetched from the Hugging Face Hub: cannot find the"):
        load_model(ModelSettings(path="owner/model", device="cpu"))
