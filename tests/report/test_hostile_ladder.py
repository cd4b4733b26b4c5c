"""Pages and files stay what they are, whatever strangers and models write."""

import json
import re

import pytest
import yaml
from built_ladder import Page, build, measured, response, row
from huggingface_hub import DatasetCard

from observe_r1.report.ladder_page import write_ladder_report
from observe_r1.report.pages import clean
from observe_r1.report.review_page import write_review

HOSTILE = [
    "<script>alert(1)</script>",
    "</style></title><script>alert(1)</script>",
    "</p></article></details></body></html><!--",
    "\"'><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %} ${x} <%= y %>",
    "\x00\x01\x08\x0b\x1b[31m\x7f\x85\x9f",
    "lone \ud800 and \udfff, noncharacters \ufdd0\ufffe\uffff, right-to-left \u202e override",
    "| a | b |\n|---|---|\n# heading\n---\nlicense: mit\n---\n",
    "[link](javascript:alert(1)) ![](http://example.org/x.png) `code` <b>bold</b> &lt;i&gt;",
    "- id: other\n  action: keep\n# comment: *alias &anchor !!python/object:os.system",
    "&lt;script&gt; &#60; &amp;",
    "<" * 300_000,
]


@pytest.fixture(params=range(len(HOSTILE)), ids=[repr(text[:12]) for text in HOSTILE])
def hostile(request, tmp_path):
    """A build folder in which everything that can be is one hostile text; and that text."""
    text = HOSTILE[request.param]
    asked = re.sub(r"[\ud800-\udfff]", "", text)  # a question with half a character is refused when it is read
    chat = json.dumps(
        [{"role": "user", "content": [{"type": "image", "image": asked[:90]}, {"type": "text", "text": asked}]}]
    )
    columns = {"message": chat, "answer": text, "source": text}
    rows = [row(0, id=text, **columns), row(1, id=text + "1", **columns)]
    unsolved = [row(2, id=text, correct=0, **columns)]
    dropped = [{"id": text, "source": text, "stage": text, "reason": text}]
    said = [response(text, 0, text), response(text, 1, f"<answer>{text}</answer>")]
    folder = tmp_path / (re.sub(r"[\x00/\ud800-\udfff]", "", text)[:40])
    build(
        folder,
        ladder=rows,
        measured=[measured(each) for each in rows],
        unsolved=unsolved,
        dropped=dropped,
        responses=said,
    )
    source = asked.replace("\0", "")[:200]  # others are refused where settings are read
    (folder / "ladder.yaml").write_text(yaml.safe_dump({"data": {"sources": [source]}}))
    return folder, text


def shown(text, length=150):
    """The beginning of `text` as a page shows it, white space collapsed."""
    return " ".join(clean(text)[:length].split())


def test_pages_show_it_as_text_and_the_card_as_a_line(hostile):
    folder, text = hostile
    write_ladder_report(folder)
    write_review(folder)
    for name in ("ladder.html", "review.html"):
        assert Page(folder / name).text.count(shown(text, 80)) >= 4
        assert (folder / name).stat().st_size < 1_500_000
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "unknown"
    check_markdown("\n".join(line for line in card.text.splitlines() if not line.startswith("    ")))


def check_markdown(body):
    assert not re.search(r"(?<!\\)[<&]", body)
    assert body.count("\n#") == 1 + 5
    links = re.findall(r"(?<!\\)\]\(([^)]*)\)", body)
    assert [link for link in links if not link.startswith("figures/")] == ["https://arxiv.org/abs/2505.12432"]
    assert len({line.count("|") - line.count("\\|") for line in body.split("## Sources")[1].splitlines() if line}) <= 2


def test_the_review_file_says_the_same(hostile):
    folder, text = hostile
    write_review(folder)
    assert yaml.safe_load((folder / "review.yaml").read_text()) == [
        {"id": text, "answer": text, "action": "undecided", "note": ""}
    ]
    write_review(folder)
    assert len(yaml.safe_load((folder / "review.yaml").read_text())) == 1


def test_a_source_does_not_turn_the_card_around(tmp_path):
    build(tmp_path, ladder=[row(0, source="a\u202eb\u2066c\u200bd")])
    write_ladder_report(tmp_path)
    assert "| a\ufffdb\ufffdc\ufffdd |" in (tmp_path / "README.md").read_text()


def test_the_review_file_shows_marks_that_are_not_seen(tmp_path):
    unsolved = [row(0, answer="\u202e21", correct=0), row(1, answer="角\n度", correct=0)]
    write_review(build(tmp_path, unsolved=unsolved))
    text = (tmp_path / "review.yaml").read_text()
    assert 'answer: "\\u202E21"' in text and 'answer: "角\\n度"' in text


def test_only_what_is_no_text_is_replaced():
    text = "naïve ∠ABC = 30° 角 👩‍👩‍👧 \u2067ما\u2069\tx\n"
    assert clean(text) == text
    assert clean("a\x00b\ud800c\ufffe\u202e21") == "a\ufffdb\ufffdc\ufffd\ufffd21"
