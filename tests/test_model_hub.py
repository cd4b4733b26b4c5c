"""What a model's path may be, and one line at once for what it may not."""

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from observe_r1.errors import UserError
from observe_r1.model.hub import check_model_path


def test_a_folder_is_taken_and_a_run_s_folder_names_the_model_in_it(tmp_path):
    check_model_path(str(tmp_path))
    (tmp_path / "model").mkdir()
    check_model_path(str(tmp_path))
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match=r"is a run folder; its model is in '.*/model'"):
        check_model_path(str(tmp_path))


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


def test_git_lfs_pointers_in_a_model_s_folder_are_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    with pytest.raises(
        UserError, match=r"/model\.safetensors: is a Git LFS pointer, not the file itself: run `git lfs"
    ):
        check_model_path(str(tmp_path))
