"""The sources and what to know before training on them."""

from observe_r1 import registry
from observe_r1.ladder.sources.source import Source


def describe_sources() -> str:
    """Return all registered sources as text: name, title, Hub name, licence, and a line where one is a benchmark."""
    sources: list[Source] = [registry.load("source", name) for name in sorted(registry.REGISTRY["source"])]
    wide = max(len(source.name) for source in sources)
    lines = []
    for source in sources:
        lines.append(f"{source.name:<{wide}}  {source.title}: {source.hub} ({source.split}), licence {source.licence}")
        if source.benchmark:
            lines.append(f"{'':<{wide}}  ! {source.benchmark}")
    return "\n".join(lines)
