"""Public datasets as sources of questions: one file a layout."""

from observe_r1.ladder.sources.listing import describe_sources
from observe_r1.ladder.sources.reading import SourceReader, read_source
from observe_r1.ladder.sources.source import Source

__all__ = ["Source", "SourceReader", "describe_sources", "read_source"]
