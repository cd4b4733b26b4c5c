"""The final answer in a response: between which tags it stands, and what it is without its markup and its sentence.

Every pattern is anchored or takes one step a character, and the text is cut to `MAX_CHARS`: no time limit is needed.
"""

import html
import re
from collections.abc import Iterator

MAX_CHARS = 2000
"""A final answer that is longer is no answer."""

_OPEN, _CLOSE, _THOUGHT = "<answer>", "</answer>", "</think>"

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_GREEK_NAMES = "alpha beta gamma delta epsilon theta lambda rho sigma phi omega Delta Sigma".split()
_SIGNS = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | str.maketrans(
    {"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "∶": ":", "∗": "*", "º": "°", "˚": "°", "￥": "¥"}
    | {"≤": r"\le ", "≥": r"\ge ", "≦": r"\le ", "≧": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx "}
    | {"≅": r"\approx ", "≃": r"\approx ", "±": r"\pm ", "∈": r"\in ", "∪": r"\cup ", "∅": r"\emptyset ", "⌀": r"\emptyset "}
    | {"½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"}
    | {"⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}"}
    | {"⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}", "μ": "µ", "Ω": "Ω"}
    | {"“": '"', "”": '"', "″": '"', "‘": "'", "’": "'", "′": "'", "，": ",", "、": ",", "；": ";", "。": "."}
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", "")
    | dict(zip("αβγδεθλρσφωΔΣ", (f"\\{name} " for name in _GREEK_NAMES), strict=True))
    | {"∠": r"\angle ", "△": r"\triangle ", "⊙": r"\odot ", "√": r"\sqrt ", "π": r"\pi ", "∞": r"\infty "}
)
_HTML_TAG = re.compile(r"</?(?:b|i|em|strong|u|p|span|div|code|mark|center|br|font)(?: [^<>]{0,80})?/?>", re.IGNORECASE)
_SUP_TAG = re.compile(r"<sup>([^<>]{1,20})</sup>", re.IGNORECASE)
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")
_TEXT = re.compile(
    r"\\(?:text(?:normal|bf|it|rm|sf|tt)?|math(?:rm|bf|it|sf|bb)|mbox|emph|underline|bm|boldsymbol|operatorname|hbox)"
    r"\*? ?\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_SIZE = re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits|rm|bf)(?![A-Za-z])\.?")
_SPACE = re.compile(r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|(?<!\d)~|~(?!\d)|\s")
_PAIRED = re.compile(r"\$\$([^$]+)\$\$|(?<!\\)\$([^$\\]*(?:\\[^$][^$\\]*)*)(?<!\\)\$|\\\((.*?)\\\)|\\\[(.*?)\\\]", re.DOTALL)
_ALIASES = re.compile(
    r"\\(dfrac|tfrac|cfrac|leq|leqslant|geq|geqslant|neq|lt|gt|colon|lbrace|rbrace|varnothing|land|lor|mid|vert|lvert|rvert"
    r"|degree|cdotp|simeq|cong|sim|%|\$|&)(?![A-Za-z])"
)
_ALIAS = {"dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "leq": r"\le ", "leqslant": r"\le ", "geq": r"\ge "} | {
    "geqslant": r"\ge ", "neq": r"\ne ", "lt": "<", "gt": ">", "colon": ":", "lbrace": r"\{", "rbrace": r"\}",
    "varnothing": r"\emptyset ", "land": " and ", "lor": " or ", "mid": "|", "vert": "|", "lvert": "|", "rvert": "|",
    "degree": "°", "cdotp": r"\cdot ", "simeq": r"\approx ", "cong": r"\approx ", "sim": r"\approx ",
    "%": "%", "$": "¤", "&": "&",
}  # fmt: skip
_DEGREE = re.compile(r"\{ ?(\^ ?\\circ|\^ ?\{\\circ\}|°) ?\}")
_MARKDOWN = re.compile(r"(?<![\w*])(\*\*\*|\*\*|\*|__)(?=[^\s*])(.+?)(?<=[^\s*])\1(?![\w*])")

_FAREWELL = re.compile(r"(?<=[.!])\s*(?:i hope (?:it|this|that) is correct|thank you|hope this helps)[.!]?$", re.IGNORECASE)
_BULLET = re.compile(r"^(?:[#>✅✓☑•*-]+\s+|[✅✓☑•])+\s*")
_ABOUT = re.compile(r"(?:(?:about|approximately|approx\.?|roughly|exactly)(?![A-Za-z])|\\approx(?![A-Za-z])|约)\s*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?;]\s|\n")
_STATES = re.compile(r"[\d?!;]|\.\s|\\(?:frac|sqrt)")
_CUE = re.compile(
    r"(?:(?:^|(?<=[\s.,;:!?#*-]))(?:(?:final|correct|right|my|the|best|our)\s+)*ans(?:wer|\.)(?:\s+(?:choice|option))?"
    r"(?:(?<=\.)|\s*(?:(?:is|are|was|should be|would be|must be|equals)(?![A-Za-z])\s*:?|[:=]))"
    r"|(?:最终|正确|标准)?答案(?:选项)?(?:应?该?[是为选]|等于)?\s*[::]?|故?应?选(?:择|项)?\s*[::]?)\s*",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:(?:so|therefore|thus|hence|then|finally|okay|ok|consequently|in conclusion|∴|\\therefore)(?![A-Za-z])\s*,?"
    r"|因此|所以|综上|故|即|,|:|=(?![=>]))\s*",
    re.IGNORECASE,
)
_CHOOSE = re.compile(r"(?:i (?:would )?)?(?:choose|select|pick|option|choice)\s*:?\s*(?=[(\[]?[A-Za-z][)\]]?(?![A-Za-z]))|选项\s*", re.IGNORECASE)
_PRONOUN = re.compile(
    r"(?:i (?:think|believe)(?: that)?(?= )|(?:it|this|that)'s(?= ))\s*"
    r"|(?:it|this|that|the (?:result|value|solution)|result|value|solution)\s*(?:is|are|was|should be|would be|must be|equals|[:=])(?![A-Za-z])\s*"
    r"|等于|[是为](?=.)",
    re.IGNORECASE,
)
_TAIL = re.compile(r"\s+is\s+(?:the\s+)?(?:final\s+)?(?:correct|right|answer)(?:\s+(?:answer|option|choice|one))?$", re.IGNORECASE)
_REASON = re.compile(r"(?:,\s*|\s+)(?:since|because|as|given that|which|so that)\b|,\s*(?:not|因为)(?![A-Za-z])", re.IGNORECASE)
_REFUSES = re.compile(
    r"\b(?:not|never|no|neither|nor|none|cannot|except|but|maybe|might|may|could|either|perhaps|possibly|if|unless|whether|or"
    r"|wrong|incorrect|false|impossible|other|besides|least|most|than|without|between|anything)\b|n't\b|不|非|错|或",
    re.IGNORECASE,
)
_VERB = re.compile(
    r"(?:\b(?:is|are|was|were|equals?|be|shows?|reads?|has|have|had|measures?|count|counted|find|found|get|got|gives?|becomes?"
    r"|there are|comes to|contains?|costs?|weighs?|needs?|takes?)\b(?:\s+(?:equal to|exactly))?|[是为有共](?!\d*[是为有共])|等于|:(?= ))\s*",
    re.IGNORECASE,
)


def final_answer(response: str) -> str:
    """Return the text between the last complete pair of answer tags; lacking one, what follows the thought.

    Longer texts are cut to their last `MAX_CHARS` characters.
    """
    close = response.rfind(_CLOSE)
    opening = response.rfind(_OPEN, 0, close) if close >= 0 else -1
    if opening < 0:
        untagged = response[-MAX_CHARS:].rpartition(_THOUGHT)[2]
        return untagged.replace(_OPEN, " ").replace(_CLOSE, " ").strip()
    start = opening + len(_OPEN)
    end = response.index(_CLOSE, start)
    return response[max(start, end - MAX_CHARS) : end].strip()


def plain(text: str) -> str:
    """Return a final answer in one notation: ASCII signs or LaTeX commands, without dollars, boxes, fonts and markup.

    A dollar sign that is money becomes `¤`. The last box, where there is one, is the answer, with the unit after it.
    """
    text = html.unescape(_SUP_TAG.sub(r"^{\1}", text.replace("`", "")))
    text = _HTML_TAG.sub(" ", text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda found: f"^{{{found[0].translate(_SUPERSCRIPTS)}}}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda found: f"_{{{found[0].translate(_SUBSCRIPTS)}}}", text)
    text = "".join(str(int(c)) if c.isdecimal() and not c.isascii() else c for c in text.translate(_SIGNS))
    if "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    text = _unboxed(text)
    for _ in range(8):
        bare = _TEXT.sub(r" \1 ", text)
        if bare == text:
            break
        text = bare
    text = _ALIASES.sub(lambda found: _ALIAS[found[1]], _SIZE.sub("", text.replace(r"\!", "")))
    text = _PAIRED.sub(lambda found: f" {next((part for part in found.groups() if part is not None), '')} ", text)
    text = _DEGREE.sub(r"\1", text.replace("$", "¤").replace("{,}", ",").replace("{:}", ":"))
    text = _MARKDOWN.sub(r"\2", _SPACE.sub(" ", text))
    return " ".join(text.split())


def _unboxed(text: str) -> str:
    """`text`, or where it has boxes the content of the last one and what stands right after it."""
    for command in (r"\boxed", r"\fbox"):
        at = text.rfind(command)
        opening = text.find("{", at, at + len(command) + 2) if at >= 0 else -1
        if opening < 0:
            continue
        depth = 0
        for end in range(opening, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                unit = re.match(r"\s*\$?\s*(?:percent|pct|%|\\%)", text[end + 1 :])
                return text[opening + 1 : end] + (" %" if unit else "")
    return text


def cores(text: str) -> Iterator[tuple[str, bool]]:
    """Yield what a plain text answers, from the whole of it inwards, each with whether a sentence was taken apart for it.

    Taken off are "therefore", "the answer is", "I choose", "it is", "… is correct", a reason after the answer, and at last
    a subject and its verb, where the subject states no number, doubt, negation or alternative.
    """
    text = _trimmed(_FAREWELL.sub("", text))
    *_, cue = [None, *_CUE.finditer(text)]
    if cue and text[cue.end() :].strip() and not _REFUSES.search(_SENTENCE_END.split(text[: cue.start()])[-1]):
        text = _trimmed(text[cue.end() :])
    yield text, False
    bare = _without_lead(text)
    yield bare, False
    if (reason := _REASON.search(bare)) and reason.start():
        bare = _without_lead(bare[: reason.start()])
        yield bare, False
    *_, verb = [None, *_VERB.finditer(bare)]
    if verb and not _REFUSES.search(bare[: verb.start()]) and not _STATES.search(bare[: verb.start()]):
        yield _without_lead(bare[verb.end() :]), True


def _without_lead(text: str) -> str:
    text = _trimmed(text)
    while True:
        shorter = _trimmed(_TAIL.sub("", text))
        for pattern in (_LEAD, _PRONOUN, _CHOOSE, _ABOUT):
            found = pattern.match(shorter)
            if found and found.end() < len(shorter):
                shorter = _trimmed(shorter[found.end() :])
        if shorter == text:
            return text
        text = shorter


def _trimmed(text: str) -> str:
    text = _BULLET.sub("", text.strip()).rstrip(" .,;:")
    if len(text) > 2 and text[0] in "\"'" and text[-1] == text[0] and text.count(text[0]) == 2:
        return _trimmed(text[1:-1])
    return text
