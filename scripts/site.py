"""What `make docs` does to the pages of docs/ on their way to the site: they are written to be read on GitHub, too.

- Files outside docs/ that pages link to (`../CONTRIBUTING.md`, `../examples/…`) come along.
- A `<picture>` follows the reader's system; on the site it follows the site's own switch between light and dark.
- So that code fits a phone: names in tables may continue on the next line after a sign such as `/` or `_`; options of a
  command may not after their hyphens; JSON lines are coloured and broken as JSON is.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_OUTSIDE = re.compile(r"\]\(\.\./(?!docs/)([^)#]+)")
_CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
_NAMES = re.compile(r"(?<=<code>)[^<]+(?=</code>)")
_JOINT = re.compile(r"((?<=\w)[/_.,=@:]|,)(?=[^\s;])")
_CODE = re.compile(r"<code>.*?</code>", re.DOTALL)
_OPTION = re.compile(r"(?<![\w-])(--?[A-Za-z](?:[\w.-]|<wbr>)*)")
_PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="([^"]+)">\s*'
    r'<img src="([^"]+)"(?: width="(\d+)")? alt="([^"]+)">\s*</picture>'
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ that a page links to, and those that these link to in turn."""
    waiting = [
        name for file in files.documentation_pages() for name in _OUTSIDE.findall(Path(file.abs_src_path).read_text())
    ]
    while waiting:
        name = waiting.pop()
        if files.get_file_from_path(name) is None and (ROOT / name).is_file():
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
            waiting += _OUTSIDE.findall((ROOT / name).read_text()) if name.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page, and its pictures."""
    if (Path(config.docs_dir) / page.file.src_uri).exists():
        markdown = _OUTSIDE.sub(r"](\1", markdown)
    else:  # it stands outside docs/, and the site has docs/ as its root
        markdown = re.sub(r"\]\((?:\.\./)?docs/", "](" + "../" * page.file.src_uri.count("/"), markdown)
    return _PICTURE.sub(_both, markdown.replace("```jsonl\n", "```json\n"))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mark where code may be broken, and where not."""
    html = _CELL.sub(lambda cell: _NAMES.sub(lambda names: _JOINT.sub(r"\1<wbr>", names[0]), cell[0]), html)
    return _CODE.sub(lambda code: _OPTION.sub(r'<span class="option">\1</span>', code[0]), html)


def _both(found: re.Match[str]) -> str:
    dark, light, width, alt = found.groups()
    wide = f"{{ width={width} }}" if width else ""
    return f"![{alt}]({light}#only-light){wide}![{alt}]({dark}#only-dark){wide}"
