import json
import re
from base64 import b64decode, b64encode
from collections import Counter
from hashlib import sha256
from io import BytesIO
from textwrap import dedent

import datasets
import matplotlib
import numpy as np
import pytest
import yaml
from built_ladder import Page, build, image_bytes, measured, message, row
from datasets import load_dataset
from huggingface_hub import DatasetCard
from PIL import Image

from observe_r1.data import load_examples
from observe_r1.errors import UserError
from observe_r1.report import question
from observe_r1.report.build_folder import open_build
from observe_r1.report.ladder_page import EXAMPLES_PER_LEVEL, write_ladder_report
from observe_r1.report.ladder_summary import summarize_ladder
from observe_r1.report.question import SIDE, inline_image

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
    "base-uri 'none'; form-action 'none'"
)


def ladder_rows(count=60):
    """Rows of all levels but d = 1, each level in its own slot and the next."""
    rows = [
        row(i, correct=8 - i % 8, slot=i % 8 + i // 8 % 2, source=("mathvision", "mine")[i % 3 == 0])
        for i in range(count)
    ]
    return sorted(rows, key=lambda each: each["slot"])


@pytest.fixture
def built(tmp_path):
    rows = ladder_rows()
    unsolved = [row(number, correct=0) for number in range(100, 104)]
    dropped = [
        {"id": str(i), "source": "mine", "stage": "answer", "reason": ("free text", "proof")[i > 2]} for i in range(5)
    ]
    (tmp_path / "ladder.yaml").write_text("arrange:\n  measured: .\n")
    return build(
        tmp_path, ladder=rows, measured=[measured(each) for each in rows + unsolved], unsolved=unsolved, dropped=dropped
    )


def summary_of(folder):
    return summarize_ladder(open_build(folder))


def test_counts_and_means_are_those_of_the_rows(built):
    rows, summary = ladder_rows(), summary_of(built)
    assert [level.difficulty for level in summary.levels] == [i / 8 for i in range(9)]
    for place, level in enumerate(summary.levels):
        own = [each for each in rows if each["difficulty"] == level.difficulty]
        assert level.count == len(own)
        assert level.measured == len(own) + 4 * (place == 8)
        if own:
            assert level.complexity == pytest.approx(np.mean([each["complexity"] for each in own]))
            assert level.complexity_correct == pytest.approx(np.mean([each["complexity_correct"] for each in own]))
    pairs = Counter((each["slot"], each["difficulty"]) for each in rows)
    assert {(s, d / 8): n for s, slot in enumerate(summary.slots) for d, n in enumerate(slot) if n} == pairs
    assert {name: sum(counts) for name, counts in summary.sources.items()} == {"mathvision": 40, "mine": 20}
    assert summary.dropped == (("answer", "free text", 3), ("answer", "proof", 2))
    assert (summary.count, summary.measured, summary.unsolved) == (60, 64, 4)


def test_levels_follow_the_number_of_tries_or_what_occurs(tmp_path):
    rows = [row(0, correct=3, tries=4), row(1, correct=1, tries=4)]
    build(tmp_path, ladder=rows, measured=[measured(each, 4) for each in rows])
    assert [level.difficulty for level in summary_of(tmp_path).levels] == [0, 0.25, 0.5, 0.75, 1]
    (tmp_path / "measured.jsonl").unlink()
    assert [level.difficulty for level in summary_of(tmp_path).levels] == [0.25, 0.75]


def test_the_measurement_that_was_arranged_counts(built):
    build(built / "refreshed-1", measured=[measured(each) for each in ladder_rows(20)])
    (built / "ladder.yaml").write_text("arrange:\n  measured: refreshed-1\n")
    assert summary_of(built).measured == 20


def test_a_corrected_question_counts_where_it_is_now(tmp_path):
    rows = [row(0), row(1, correct=8)]
    build(tmp_path, ladder=rows, measured=[measured(rows[0]), measured(row(1, correct=0)), measured(row(2, correct=0))])
    assert [level.measured for level in summary_of(tmp_path).levels] == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_the_card_is_one_and_its_folder_loads(built, tmp_path_factory, monkeypatch):
    write_ladder_report(built)
    card = DatasetCard.load(built / "README.md")
    assert card.data.license == "unknown"
    assert card.data.size_categories == ["n<1K"]
    assert "visual-question-answering" in card.data.task_categories
    loaded = load_dataset(str(built), split="train", cache_dir=str(tmp_path_factory.mktemp("cache")))
    monkeypatch.chdir(built)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    (code,) = re.findall(r"\n((?: {4}.*\n|\n)*    ladder = load_dataset.*\n)", card.text)
    exec(dedent(code), names := {})
    rows = ladder_rows()
    assert loaded.to_list() == names["ladder"].to_list() == rows
    assert all(f"| `{column}` |" in card.text for column in rows[0])
    assert load_examples(built / "ladder.jsonl")[0].id == rows[0]["id"]


def test_the_card_counts_and_warns(built):
    write_ladder_report(built)
    text = (built / "README.md").read_text()
    assert "| 0.125 | 8 | 13.3% | 8 |" in text
    assert "| `mine` |" in text
    assert "    observe-r1 train observe_r1 --model.path CHECKPOINT --data.path FOLDER" in text
    assert "> - `mathvision`: all of it is a benchmark" in text
    assert "no response solved, set aside for review: 4." in text
    assert "    arrange:\n      measured: .\n" in text
    assert "absolute paths" not in text


@pytest.mark.parametrize(("name", "options"), [("observe", ""), ("think", " --data.format_prompt think")])
def test_the_card_says_where_the_format_prompt_stands_in_the_questions(tmp_path, name, options):
    build(tmp_path, ladder=[row(0)])
    (tmp_path / "ladder.yaml").write_text(f"arrange: {{format_prompt: {name}}}")
    write_ladder_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert f"--data.path FOLDER{options}\n" in text
    assert f"(`{name}`) is already part of every question" in text


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "not settings in YAML"),
        ("- a", "should hold settings, section by section"),
        ("arrange: 3", "arrange = 3"),
        ("arrange: {measured: 3}", r"arrange\.measured = 3"),
    ],
)
def test_settings_that_are_none_are_named(tmp_path, text, error):
    build(tmp_path, ladder=[row(0)])
    (tmp_path / "ladder.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"ladder\.yaml: {error}"):
        write_ladder_report(tmp_path)


def test_the_card_says_where_images_are_of_this_machine_only(tmp_path):
    build(tmp_path, ladder=[row(0), row(1, images=(f"{tmp_path}/images/a.png",))])
    write_ladder_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "absolute paths" in text and "observe-r1 ladder arrange FOLDER --arrange.images copy" in text


@pytest.mark.parametrize(
    ("sources", "licence"),
    [
        (["mathvision", "geometry3k"], "mit"),
        (["mathvision", "m3cot"], ["cc-by-sa-4.0", "mit"]),
        (["scienceqa"], "cc-by-nc-sa-4.0"),
        (["mathvision", "world"], "unknown"),
        (["multimodal_open_r1"], "unknown"),
    ],
)
def test_licence_is_stated_only_where_every_source_states_one(tmp_path, sources, licence):
    build(tmp_path, ladder=[row(i, source=source) for i, source in enumerate(sources)])
    write_ladder_report(tmp_path)
    front = (tmp_path / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["license"] == licence


def test_the_page_holds_all_in_one_file(built):
    paths = write_ladder_report(built)
    assert {path.relative_to(built).as_posix() for path in paths} == {
        "README.md", "ladder.html", "figures/share.png", "figures/complexity.png", "figures/slots.png"
    }  # fmt: skip
    page = Page(built / "ladder.html")
    assert page.count("figure") == page.count("source") == 3
    assert page.count("article") == 8 * EXAMPLES_PER_LEVEL == page.count("img", decoding="async")
    assert "Also used to evaluate models mathvision : all of it" in page.text
    assert "answer free text 3 one gold answer that can be verified answer proof 2" in page.text
    digest = b64encode(sha256(page.script.encode()).digest()).decode()
    assert page.count("meta", content=POLICY.format(digest=digest)) == 1
    assert page.count("figcaption") == 3 and "how many questions it has" in page.text


def test_the_report_needs_the_ladder_only(tmp_path):
    build(tmp_path, ladder=[row(0)])
    write_ladder_report(tmp_path)
    text = Page(tmp_path / "ladder.html").text
    assert "1 questions" not in text and "measured" not in text.split("By difficulty")[1]
    assert "| measured |" not in (tmp_path / "README.md").read_text()


def test_the_same_ladder_gives_the_same_bytes_whatever_the_style(built):
    first = {path: path.read_bytes() for path in write_ladder_report(built)}
    with matplotlib.rc_context({"font.family": "serif", "axes.linewidth": 5, "savefig.dpi": 30}):
        assert {path: path.read_bytes() for path in write_ladder_report(built)} == first


def test_every_way_to_name_an_image_is_shown_and_broken_ones_say_why(tmp_path):
    uri = f"data:image/png;base64,{b64encode(image_bytes()).decode()}"
    build(tmp_path, ladder=[
        row(0, images=("images/a.png", f"{tmp_path}/images/a.png", f"file://{tmp_path}/images/a.png", uri)),
        row(1, images=("images/none.png",)),
        row(2, images=("ladder.jsonl", *["images/a.png"] * 5)),
    ])  # fmt: skip
    write_ladder_report(tmp_path)
    page = Page(tmp_path / "ladder.html")
    assert page.count("img", decoding="async") == 4 + 3
    assert page.count("p", **{"class": "missing"}) == 3
    assert "no such file" in page.text
    assert "2 more images" in page.text


def test_copies_of_images_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(question, "_MAX_COPY_BYTES", 4_000)
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    copy = inline_image(buffer.getvalue(), "row 1", str(tmp_path))
    assert len(copy.uri) < 4_000 * 4 / 3 + 40
    assert max(copy.width, copy.height) <= SIDE
    assert copy.width / copy.height == pytest.approx(4 / 3, abs=0.02)
    rgb = Image.fromarray(np.indices((300, 400)).sum(0).astype(np.uint8)).convert("RGB")
    rgb.save(few := BytesIO(), format="PNG")
    shown = Image.open(BytesIO(b64decode(inline_image(few.getvalue(), "row 1", "").uri.partition(",")[2])))
    assert np.array_equal(shown, rgb)
    small = inline_image(image_bytes(size=(8, 6)), "row 1", str(tmp_path))
    assert (small.width, small.height, small.small) == (8, 6, True)


@pytest.mark.parametrize(
    ("column", "value", "needed"),
    [
        *[("slot", value, "number from 0 to 9,999") for value in (None, -1, 1e9, float("nan"), float("inf"))],
        *[("difficulty", value, "number from 0 to 1") for value in ("hard", 1.5)],
        ("well_formed", 2, "number from 0 to 1"),
        ("complexity", float("inf"), "finite number of at least 0"),
    ],
)
def test_a_ladder_without_its_columns_is_named(tmp_path, column, value, needed):
    build(tmp_path, ladder=[row(0), row(1, **{column: value})])
    with pytest.raises(UserError, match=rf"ladder.jsonl row 2, '{column}': needs a {needed}, got"):
        write_ladder_report(tmp_path)


def test_page_and_card_name_the_model_that_measured_and_how_often_it_was_asked(built):
    (built / "ladder.yaml").write_text("model: {path: Qwen/3B}\narrange: {measured: refreshed-1}\n")
    build(built / "refreshed-1", measured=[measured(each) for each in ladder_rows()])
    (built / "refreshed-1" / "ladder.yaml").write_text("model: {path: Qwen/7B}\n")
    write_ladder_report(built)
    assert "Each was answered 8 times by `Qwen/7B`:" in (built / "README.md").read_text()
    assert "Each was answered 8 times by Qwen/7B :" in Page(built / "ladder.html").text


def test_examples_are_few_where_levels_are_many(tmp_path):
    rows = [row(i, correct=i % 33, tries=32, slot=32 - i % 33) for i in range(99)]
    build(tmp_path, ladder=rows, measured=[measured(each, 32) for each in rows])
    write_ladder_report(tmp_path)
    assert Page(tmp_path / "ladder.html").count("article") == 33


def test_short_lengths_keep_a_decimal(tmp_path):
    build(tmp_path, ladder=[row(0, complexity=19.44), row(1, complexity=99.96, correct=0), row(2, complexity=1234.5)])
    write_ladder_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "| 0.5 | 2 | 66.7% | 627 |" in text and "| 1 | 1 | 33.3% | 100 |" in text
    assert "· 19.4 tokens" in Page(tmp_path / "ladder.html").text


def test_an_empty_ladder_is_named(tmp_path):
    with pytest.raises(UserError, match="the ladder is empty"):
        write_ladder_report(build(tmp_path, ladder=[]))


def test_several_images_are_numbered_where_they_stand(tmp_path):
    chat = json.loads(message("is left of", "images/a.png"))
    chat[0]["content"].append({"type": "image", "image": "images/a.png"})
    build(tmp_path, ladder=[row(0, message=json.dumps([{"role": "system", "content": "Think."}, *chat]))])
    write_ladder_report(tmp_path)
    text = Page(tmp_path / "ladder.html").text
    assert "[image 1] is left of [image 2]" in text
    assert "Think." not in text
