"""The settings of `observe-r1 report`."""

from pydantic import Field

from observe_r1.config.section import PathText, Section


class ReportOptions(Section):
    """What the page shows, and where it goes."""

    folders: tuple[PathText, ...] = Field(min_length=1)
    """Folders of runs, ladders and evaluations; all are on one page, and runs in the same charts."""
    to: PathText | None = None
    """File to write; by default `report.html` in the first folder."""
    serve: bool = False
    """Serve the page on this machine (127.0.0.1) instead, until Ctrl-C. It refreshes itself while a run goes on."""
    port: int = Field(8421, ge=0, le=65535)
    """Port of `serve`; 0 takes a free one."""


class ReportSettings(Section):
    """All of `observe-r1 report`."""

    report: ReportOptions
