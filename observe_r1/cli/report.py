"""`observe-r1 report`: runs, ladders and evaluations as one page, in a file or served while a run goes on."""

import os
from functools import partial
from pathlib import Path

from observe_r1.cli.start import heavy_imports
from observe_r1.config import ReportOptions, ReportSettings
from observe_r1.errors import UserError
from observe_r1.report.folder_kinds import folder_kinds
from observe_r1.report.pages import REPORT
from observe_r1.report.run_records import label_runs
from observe_r1.run import Ended
from observe_r1.run.progress import Progress


def run(settings: ReportSettings, view: Progress) -> Ended:
    """Write the page, or serve it until Ctrl-C.

    Args:
        settings: Which folders, and where to.
        view: Shows what is being done; entered already.

    Raises:
        UserError: A folder is no run, ladder or evaluation, or the page cannot be written or served.
    """
    options = settings.report
    folders = [Path(folder) for folder in options.folders]
    to = Path(options.to) if options.to is not None else folders[0] / REPORT
    if options.serve and options.to is not None:
        raise UserError("--to and --serve exclude each other: the page is written to a file, or served")
    label_runs(folders)
    folder_kinds(folders)
    if options.serve:
        return _serve(options, folders, view)
    write_page(folders, to, view)
    view.close()
    print(f"the report is in {to} ({to.stat().st_size / 1e6:.1f} MB); any browser opens it")
    return Ended(0, "")


def check_target(to: Path) -> None:
    """Raise `UserError` unless a page can be written to the file `to`."""
    if to.is_dir():
        raise UserError(f"--to {str(to)!r}: is a folder: name a file in it, {str(to / REPORT)!r}")
    if not to.parent.is_dir():
        raise UserError(f"--to {str(to)!r}: there is no folder {str(to.parent)!r}: make it, or name another file")
    if not os.access(to.parent, os.W_OK):
        raise UserError(f"--to {str(to)!r}: nothing can be written to that folder: name another file")


def write_page(folders: list[Path], to: Path, view: Progress) -> None:
    """Write the page of `folders` to the file `to`; raise `UserError` if it cannot be made or written."""
    check_target(to)
    with heavy_imports():
        from observe_r1.report.run_page import write_report
    try:
        write_report(folders, to, view.now)
    except OSError as error:
        raise UserError(f"--to {str(to)!r}: cannot be written: {error.strerror}") from error


def _serve(options: ReportOptions, folders: list[Path], view: Progress) -> Ended:
    with heavy_imports():
        from observe_r1.report.memory import Memory
        from observe_r1.report.run_page import render_report
        from observe_r1.report.serving import PageServer
    page = partial(render_report, folders, memory=Memory())
    with PageServer(folders, options.port, lambda version: page(version=version)) as server:
        server.page()  # a folder that is none of ours is an error here, not in the browser
        view.close()
        print(f"{server.url} shows the report and refreshes itself; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")
    return Ended(0, "")
