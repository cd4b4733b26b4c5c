"""The final answer in a response, and that answer without its markup.

Their input is cut to `MAX_CHARS` and no pattern backtracks far: the functions need no time limit.
"""

import re

MAX_CHARS = 2000
"""Of a final answer only this many characters, the last ones, are read."""

_OPEN, _CLOSE = "<answer>", "</answer>"

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_TEXT_COMMAND = re.compile(
    r"\\(?:boxed|fbox|mbox|emph|underline|bm|boldsymbol"
    r"|text(?:normal|bf|it|rm|sf|tt)?|math(?:rm|bf|it|sf))(?= ?\{)"
)
_DELIMITER = re.compile(r"\\[()\[\]]|\\?\$|\*\*|\\!|\\(?:left|right|displaystyle)(?![A-Za-z])")
_LATEX_SPACE = re.compile(r"\\[,;:> ]|~|\\q?quad(?![A-Za-z])")
_CUE = re.compile(r"\banswer(?: is|:| =)[ :]*")
_ARTICLE = re.compile(r"(?:a|an|the) (?=[a-z]{2})")


def final_answer(response: str) -> str:
    """Return the text between the last complete pair of answer tags, or lacking one, the response.

    Longer texts are cut to their last `MAX_CHARS` characters.
    """
    close = response.rfind(_CLOSE)
    opening = response.rfind(_OPEN, 0, close) if close >= 0 else -1
    if opening < 0:
        return response[-MAX_CHARS:].strip()
    start = opening + len(_OPEN)
    end = response.index(_CLOSE, start)
    return response[max(start, end - MAX_CHARS) : end].strip()


def undress(text: str) -> str:
    """Return `text` without dollar signs, boxes, text commands, bold, quotes and trailing punctuation.

    White space is collapsed, full-width characters become ASCII, braces go where no formula needs them.
    """
    text = text[-MAX_CHARS:].translate(_FULL_WIDTH)
    text = _LATEX_SPACE.sub(" ", _DELIMITER.sub("", _TEXT_COMMAND.sub("", text)))
    if not any(sign in text for sign in "\\^_"):
        text = text.replace("{", "").replace("}", "")
    text = " ".join(text.split()).lstrip('*_`"“ ').rstrip('*_`"” .,;:。')
    quoted = len(text) > 2 and text[0] in "'‘" and text[-1] in "'’"
    return text[1:-1] if quoted else text


def literal(text: str) -> str:
    """Return the form in which answers are compared literally: undressed, lower case, no "the answer is"."""
    bare = undress(_CUE.split(undress(text).casefold())[-1])
    return _ARTICLE.sub("", bare, count=1) if _ARTICLE.match(bare) else bare
