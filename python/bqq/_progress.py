"""What the progress argument of long work means."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Report = Callable[[int, int], object]
Progress = bool | Report | None


@contextmanager
def importing_tqdm() -> Iterator[None]:
    """Its defaults come from the environment as it is imported."""
    try:
        yield
    except ValueError as error:
        names = ", ".join(name for name in os.environ if name.upper().startswith("TQDM_"))
        raise ValueError(f"tqdm can't be imported with {names} in the environment: {error}") from error


class reporter:
    """Turns the progress argument into a callable or None, and closes the bar however the work ends."""

    def __init__(self, progress: Progress, title: str) -> None:
        if progress is not None and not isinstance(progress, bool) and not callable(progress):
            raise TypeError(f"progress is {progress!r}, expected True, False, None or a callable")
        self._progress = progress
        self._title = title
        self._bar: Any = None

    def __enter__(self) -> Report | None:
        if self._progress is not True:
            return self._progress or None
        with importing_tqdm():
            from tqdm.auto import tqdm  # only where a bar is asked for

        if sys.stderr is None:  # as under pythonw: nowhere to draw it
            return None

        def report(done: int, total: int) -> None:
            if self._bar is None:  # made with its total: a widget of a notebook does not change its own
                self._bar = tqdm(total=total, unit="step", unit_scale=True, desc=self._title)
            self._bar.update(done - self._bar.n)

        return report

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
