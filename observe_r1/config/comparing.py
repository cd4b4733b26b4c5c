"""The settings of `observe-r1 compare`."""

from pydantic import Field

from observe_r1.config.section import PathText, Section


class CompareOptions(Section):
    """Which runs are compared, and how that is shown."""

    runs: tuple[PathText, ...] = Field(min_length=1)
    """Folders of two to six runs; differences are taken from the first."""
    to: PathText | None = None
    """Also write the runs as one page into this file (`--to`)."""
    json_summary: bool = False
    """Print the comparison as one JSON object instead of tables (`--json`)."""


class CompareSettings(Section):
    """All of `observe-r1 compare`."""

    compare: CompareOptions
