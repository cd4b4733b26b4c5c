"""Tokenizer, chat template and image processor of a model folder: broken ones, and those of another model."""

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_folders import change, change_text, load, refusal, unlink, write

from observe_r1.cli.main import main
from observe_r1.config import DataSettings, ModelSettings
from observe_r1.demo.dataset import write_questions
from observe_r1.errors import UserError
from observe_r1.model.encoding import encode_prompt
from observe_r1.model.processor import load_processor
from observe_r1.model.saving import save_model
from observe_r1.records import Example


@pytest.fixture
def folder(sound_model, tmp_path):
    return shutil.copytree(sound_model, tmp_path / "model")


TEMPLATES = {
    "": "no chat template: copy chat_template.jinja",
    "{% for %}": "the model's chat template fails: TemplateSyntaxError: Expected an expression",
    "{{ raise_exception('no images') }}": "the model's chat template fails: TemplateError: no images",
    "{{ messages[0].x.y }}": "the model's chat template fails: UndefinedError",
    "{{ messages + 1 }}": "the model's chat template fails: TypeError",
    "{% for i in range(10**9) %}{{ i }}{% endfor %}": "the model's chat template fails: OverflowError",
    "{% for m in messages %}{{ m.role + m.content }}{% endfor %}": "the model's chat template fails: TypeError",
    "{{ messages[0].content[1].text }}": "the chat template leaves 0 places for one image",
    "<|image_pad|><|image_pad|>{{ messages[0].content[1].text }}": "the chat template leaves 2 places for one image",
    "<|image_pad|>": "the model's chat template leaves out text of the user turn: correct it",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_that_do_not_write_a_question(template, folder):
    write("chat_template.jinja", template)(folder)
    assert refusal(load, folder).startswith(TEMPLATES[template])


def test_a_missing_template_is_not_blamed_on_the_tokenizer_nor_the_other_way_round(folder):
    unlink("chat_template.jinja")(folder)
    assert refusal(load, folder).startswith("no chat template")
    unlink("tokenizer.json")(folder)
    assert refusal(load, folder).startswith("no tokenizer: tokenizer.json is missing")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{{ raise_exception('only users') if messages[0].role == 'system' }}",
            "chat template fails: TemplateError: only",
        ),
        ("", "chat template leaves out text of the system turn"),
    ],
)
def test_a_template_without_a_system_turn_names_the_question_and_the_way_out(template, reason, folder):
    parts = "{% for p in m.content if p.text %}{{ p.text }}{% endfor %}"
    users = "{% for m in messages if m.role == 'user' %}<|image_pad|>" + parts + "{% endfor %}"
    write("chat_template.jinja", template + users)(folder)
    processor = load_processor(ModelSettings(path=str(folder)))
    example = Example("x", ({"role": "user", "content": [{"type": "text", "text": "Why?"}]},), (), "1", origin="row 1")
    with pytest.raises(
        UserError, match=rf"^row 1: the model's {reason}.*: correct it, or, .*format_prompt_place suffix"
    ):
        encode_prompt(example, processor, DataSettings(path="x"))
    encode_prompt(example, processor, DataSettings(path="x", format_prompt_place="suffix"))


def change_images(**values):
    def apply(folder):
        config = json.loads((folder / "processor_config.json").read_text())
        change(folder / "processor_config.json", image_processor=config["image_processor"] | values)

    return apply


def rename_image_token(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        write(name, (folder / name).read_text().replace("<|image_pad|>", "<|other|>"))(folder)


def add_token(folder):
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    change(folder / "tokenizer.json", added_tokens=[*tokens, tokens[0] | {"id": 600, "content": "<new>"}])


def no_end(folder):
    unlink("generation_config.json")(folder)
    change(folder / "tokenizer_config.json", eos_token=None)
    change_text(folder, eos_token_id=None)


def lose_vocabulary(folder):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    change(folder / "tokenizer.json", model=model | {"vocab": {}, "merges": []})


MISFITS = {
    "a tokenizer without words": (lose_vocabulary, "the tokenizer loses text: of '<|im_start|>"),
    "an image token too few": (rename_image_token, "the tokenizer has no image token"),
    "another image token": (
        lambda folder: change(folder / "config.json", image_token_id=7),
        "the image token is 5 in the processor's files and 7 in config.json",
    ),
    "no image token": (
        lambda folder: change(folder / "config.json", image_token_id=None),
        "config.json describes no model",
    ),
    "more tokens than embeddings": (
        add_token,
        "the tokenizer gives ids up to 495, the model has embeddings for 495 tok",
    ),
    "other patches": (
        change_images(patch_size=16),
        "the patch size is 16 in the processor's files and 14 in config.json",
    ),
    "other merging": (change_images(merge_size=1), "the merge size is 1 in the processor's files and 2 in config.json"),
    "no merging": (change_images(merge_size=0), "its image processor's settings are not valid: ZeroDivisionError"),
    "a mean that is text": (change_images(image_mean="x"), "its image processor's settings are not valid: TypeError"),
    "a deviation of 0": (change_images(image_std=[0.0, 1.0, 1.0]), "its image processor makes NaN or infinite pixels"),
    "another model's processor": (
        lambda folder: change(folder / "processor_config.json", processor_class="LlavaProcessor"),
        "the chat template leaves 0 places for one image",
    ),
    "a length that is no number": (
        lambda folder: change(folder / "tokenizer_config.json", model_max_length="long"),
        "its tokenizer fails: TypeError",
    ),
    "no end": (no_end, "no token ends a response"),
    "an end that is text": (
        lambda folder: change(folder / "generation_config.json", eos_token_id=["<|im_end|>"]),
        "generation_config.json: eos_token_id = '<|im_end|>': it should be the id of a token, 0 to 494",
    ),
    "an end that no token has": (
        lambda folder: change(folder / "generation_config.json", eos_token_id=[2, 151645]),
        "generation_config.json: eos_token_id = 151645: it should be the id of a token, 0 to 494",
    ),
    "no heads": (
        lambda folder: change_text(folder, num_attention_heads=0),
        "config.json describes no model that can be",
    ),
    "no such activation": (
        lambda folder: change_text(folder, hidden_act="x"),
        "config.json describes no model that can be",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_files_of_different_models(kind, folder):
    damage, reason = MISFITS[kind]
    damage(folder)
    assert refusal(load, folder).startswith(reason)


# Whatever the files hold

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def fuzzed(sound_model, tmp_path_factory):
    return shutil.copytree(sound_model, tmp_path_factory.mktemp("fuzzed") / "model")


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json"]
)
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_ends_in_a_model_that_can_be_saved_or_in_one_line(name, sound_model, fuzzed, data):
    config = json.loads((sound_model / name).read_text())
    sections = [config, *(value for value in config.values() if isinstance(value, dict))]
    section = data.draw(st.sampled_from(sections))
    section[data.draw(st.sampled_from(sorted(section)))] = data.draw(VALUES)
    (fuzzed / name).write_text(json.dumps(config))
    try:
        vlm = load(fuzzed)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        save_model(vlm, fuzzed.parent / "saved", DataSettings(path="x"))
    shutil.copy(sound_model / name, fuzzed / name)


# The commands


@pytest.mark.parametrize("verb", ["train", "sft", "ladder", "data"])
def test_every_command_says_it_in_one_line_and_writes_nothing(verb, folder, tmp_path, capsys):
    unlink("chat_template.jinja")(folder)
    write_questions(tmp_path / "data", "train", seed=0, count=10)
    questions, run = str(tmp_path / "data" / "train.jsonl"), tmp_path / "run"
    model = ["--model.path", str(folder)]
    arguments = {
        "train": ["--data.path", questions, "--run.output", str(run), "--run.steps", "1", *model],
        "sft": ["--data.path", questions, "--run.output", str(run), "--run.steps", "1", *model],
        "ladder": ["build", questions, "--output", str(run), *model],
        "data": ["check", questions, *model],
    }[verb]
    assert main([verb, *arguments]) == 2
    *progress, line = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"observe-r1: error: model.path = {str(folder)!r}: no chat template: copy chat_template.jinja"
    )
    assert "Traceback" not in "".join(progress)
    left = {path.name for path in run.rglob("*") if path.is_file()}
    assert left <= {"config.yaml"}
