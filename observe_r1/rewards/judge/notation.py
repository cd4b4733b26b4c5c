"""One notation for all answers: Unicode, LaTeX, Markdown and HTML become ASCII signs and a few LaTeX commands."""

import html
import re
from unicodedata import normalize

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_COMMANDS = {
    "le": "≤≦⩽", "ge": "≥≧⩾", "ne": "≠", "approx": "≈≃", "pm": "±", "in": "∈", "cup": "∪", "emptyset": "∅⌀",
    "angle": "∠", "triangle": "△", "odot": "⊙", "sqrt": "√", "pi": "π", "infty": "∞", "alpha": "α", "beta": "β",
    "gamma": "γ", "delta": "δ", "epsilon": "ε", "theta": "θ", "lambda": "λ", "rho": "ρ", "sigma": "σ", "phi": "φ",
    "omega": "ω", "Delta": "Δ", "Sigma": "Σ", "ldots": "…", "sim": "∼∽", "cong": "≅≌", "parallel": "∥", "perp": "⊥",
}  # fmt: skip
_ASCII = {
    "-": "−–—‐‑﹣", "°C": "℃", "°F": "℉", ":": "∶", "*": "∗", "°": "º˚", "¥": "￥", "µ": "μ", "Ω": "Ω", '"': "“”″",
    "'": "‘’′", ",": "，、", ";": "；", ".": "。", "": "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u061c",
}  # fmt: skip
_FRACTIONS = {
    "½": "12", "⅓": "13", "⅔": "23", "¼": "14", "¾": "34", "⅕": "15", "⅖": "25", "⅗": "35", "⅘": "45", "⅙": "16",
    "⅛": "18", "⅜": "38", "⅝": "58", "⅞": "78",
}  # fmt: skip
_SIGNS = (
    {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full width
    | {ord(sign): rf"\{name} " for name, signs in _COMMANDS.items() for sign in signs}
    | {ord(sign): name for name, signs in _ASCII.items() for sign in signs}
    | {
        ord(sign): rf"\frac{{{over}}}{{{under}}}"
        for sign, (over, under) in ((sign, [*digits]) for sign, digits in _FRACTIONS.items())
    }
)
_SIGNS |= {ord("∛"): r"\sqrt[3]", ord("∜"): r"\sqrt[4]", ord("⇒"): r"\Rightarrow ", ord("→"): r"\to "}
_SIGNS |= {  # 𝐁, 𝑥, ℝ
    code: letter
    for code in (*range(0x1D400, 0x1D800), *range(0x2100, 0x2150))
    if len(letter := normalize("NFKC", chr(code))) == 1 and letter.isascii()
}
_TIMES_TEN = re.compile(r"(?<=\d) ?x ?(?=10\^)", re.IGNORECASE)
_HTML_TAG = re.compile(r"</?(?:b|i|em|strong|u|p|span|div|code|mark|center|br|font)(?: [^<>]{0,80})?/?>", re.IGNORECASE)
_SUP_TAG = re.compile(r"<sup>([^<>]{1,20})</sup>", re.IGNORECASE)
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")
_TEXT = re.compile(
    r"\\(?:text(?:normal|bf|it|rm|sf|tt)?|math(?:rm|bf|it|sf|bb)|mbox|emph|underline|bm|boldsymbol|operatorname|hbox|ce)"
    r"\*? ?\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_OLD_FONT = re.compile(r"\{ ?\\(?:rm|bf|it|sf|tt)(?![A-Za-z])([^{}]*)\}")
_SIZE = re.compile(
    r"\\(?:text)?color *\{[a-zA-Z]{1,20}\}|\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits|rm|bf)(?![A-Za-z])\.?|\\!"
)
_SPACE = re.compile(r"(?<!\\)\\(?:[,;: ]|$)|\\q?quad(?![A-Za-z])|(?<!\d)~|~(?!\d)|\s")
_PAIRED = re.compile(
    r"\$\$([^$]+)\$\$|(?<!\\)\$([^$\\]*(?:\\[^$][^$\\]*)*)(?<!\\)\$|\\\((.*?)\\\)|\\\[(.*?)\\\]", re.DOTALL
)
_ALIASES = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "leq": r"\le ", "leqslant": r"\le ", "geq": r"\ge ",
    "geqslant": r"\ge ", "neq": r"\ne ", "lt": "<", "gt": ">", "colon": ":", "lbrace": r"\{", "rbrace": r"\}",
    "varnothing": r"\emptyset ", "langle": "(", "rangle": ")", "overrightarrow": r"\vec", "dots": r"\ldots ",
    "cdots": r"\ldots ", "land": " and ", "lor": " or ", "mid": "|", "vert": "|", "lvert": "|", "rvert": "|",
    "degree": "°", "cdotp": r"\cdot ", "simeq": r"\approx ",
    "%": "%", "$": "¤", "&": "&",
}  # fmt: skip
_ALIAS = re.compile(rf"\\({'|'.join(map(re.escape, _ALIASES))})(?![A-Za-z])")
_OVER = re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}")
_DEGREE = re.compile(r"(?:\{ ?\} ?)?\^ ?(?:\{ ?\\circ ?\}|\\circ(?![A-Za-z]))")
_BRACED_DEGREE = re.compile(r"\{ ?° ?\}")
_MARKDOWN = re.compile(r"(?<![\w*])(\*\*\*|\*\*|\*|__)(?=[^\s*])(.+?)(?<=[^\s*])\1(?![\w*])")
_SIMPLE = re.compile(r"[A-Za-z0-9.,:;/ -]*")


def plain(text: str) -> str:
    """Return a final answer in one notation: ASCII signs and LaTeX commands, without dollars, boxes, fonts and markup.

    A dollar sign that means money becomes `¤`. If there are boxes, the last one is the answer, with a percent sign
    after it.
    """
    if _SIMPLE.fullmatch(text):
        return " ".join(text.split())
    text = html.unescape(_SUP_TAG.sub(r"^{\1}", text.replace("`", "")))
    text = _MARKDOWN.sub(r"\2", _HTML_TAG.sub(" ", text))
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda found: f"^{{{found[0].translate(_SUPERSCRIPTS)}}}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda found: f"_{{{found[0].translate(_SUBSCRIPTS)}}}", text)
    text = "".join(str(int(c)) if c.isdecimal() and not c.isascii() else c for c in text.translate(_SIGNS))
    if "\\begin" not in text:
        text = _DOUBLED.sub(r"\\", text)
    text = _unboxed(text.replace("+/-", r"\pm "))
    for _ in range(8):
        bare = _TEXT.sub(r" \1 ", text)
        if bare == text:
            break
        text = bare
    text = _OVER.sub(r"\\frac{\1}{\2}", _OLD_FONT.sub(r" \1 ", text))
    text = _ALIAS.sub(lambda found: _ALIASES[found[1]], _SIZE.sub("", text))
    text = _PAIRED.sub(lambda found: f" {next((part for part in found.groups() if part is not None), '')} ", text)
    text = _BRACED_DEGREE.sub("°", _DEGREE.sub("°", text))
    text = _TIMES_TEN.sub(r"\\times ", text)
    text = text.replace("$", "¤").replace("{,}", ",").replace("{:}", ":").replace("US¤", "¤")
    text = _MARKDOWN.sub(r"\2", _SPACE.sub(" ", text))
    return " ".join(text.split())


def _unboxed(text: str) -> str:
    """Return `text`; if it has boxes, the content of the last one, with a percent sign right after it."""
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
