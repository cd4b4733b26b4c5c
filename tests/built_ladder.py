"""Build folders of made-up ladders, and a strict reader of the pages that are made from them."""

import json
from html.parser import HTMLParser
from io import BytesIO

from PIL import Image

from observe_r1.report.pages import render_template

VOID = {"meta", "img", "source"}


def image_bytes(color="red", size=(8, 6)):
    buffer = BytesIO()
    Image.new("RGB", size, color).save(buffer, format="PNG")
    return buffer.getvalue()


def message(text, *images):
    parts = [{"type": "image", "image": image} for image in images]
    return json.dumps([{"role": "user", "content": [*parts, {"type": "text", "text": text}]}])


def row(number, *, correct=4, tries=8, slot=0, images=("images/a.png",), **columns):
    return {
        "message": message(f"Question {number}?", *images),
        "answer": str(number),
        "id": f"id-{number}",
        "source": "world",
        "difficulty": 1 - correct / tries,
        "complexity": 100.0 + number,
        "slot": slot,
        "complexity_correct": 90.0 + number if correct else None,
        "well_formed": 0.75,
        **columns,
    }


def measured(row, tries=8):
    correct = round((1 - row["difficulty"]) * tries)
    names = ("id", "difficulty", "complexity", "complexity_correct", "well_formed")
    return {name: row[name] for name in names} | {"tries": tries, "correct": correct}


def responses(id, *answers):
    texts = (f"<think>So it is {answer}.</think><answer>{answer}</answer>" for answer in answers)
    return [response(id, number, text) for number, text in enumerate(texts)]


def response(id, number, text):
    return {"id": id, "number": number, "text": text, "tokens": 7, "correct": 0, "well_formed": True, "finish": "stop"}


def build(folder, **files):
    """Write `ladder=[rows]`, `unsolved=[rows]`, … as JSON lines, and the image `images/a.png`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "a.png").write_bytes(image_bytes())
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Page(HTMLParser):
    """A page that is read to its end: tags balance, only its own script runs, nothing is loaded from elsewhere."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.script = [], [], [], ""
        content = path.read_bytes().decode()
        assert not [char for char in content if ord(char) < 32 and char != "\n"]
        assert content.startswith("<!DOCTYPE html>\n<html lang=")
        self.feed(content)
        self.close()
        assert self.open == []
        assert self.count("script") == 1 and self.script == render_template("look.js")
        self.text = " ".join(" ".join(self.texts).split())

    def count(self, tag, **attributes):
        return sum(name == tag and attributes.items() <= given.items() for name, given in self.tags)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert tag not in {"iframe", "object", "embed", "link", "base", "form", "svg"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "srcset"):
            assert attributes.get(name, "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith(("#", "review"))
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.script += data
        elif self.open[-1:] != ["style"]:
            self.texts.append(data)
