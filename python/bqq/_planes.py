"""Where the bits of a matrix are: on the host, on CUDA devices, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bqq import _core

if TYPE_CHECKING:
    from bqq._core import DeviceMatrix, _Layout
    from bqq._core import Matrix as HostMatrix


class Planes:
    """The bits that a matrix and its transpose share, copied to where they are needed on first use, and kept there.

    A matrix is either these planes or, `transposed`, the transpose of what they stand for.
    """

    __slots__ = ("_transpose", "copies", "device", "host", "library")

    def __init__(self, host: HostMatrix | None, on: DeviceMatrix | None = None, library: str = "") -> None:
        self.host = host  # None until it is needed, of planes on a device
        self.device = None if on is None else on.device  # where the matrix is
        self.copies = {} if on is None else {on.device: on}
        self.library = library  # of the arrays that reconstruct() makes on a device
        self._transpose: HostMatrix | None = None

    def layout(self, transposed: bool) -> _Layout:
        """Of the matrix or its transpose."""
        return (self.host or self._home()).layout(transposed)

    def _home(self) -> DeviceMatrix:
        (only,) = self.copies.values()
        return only

    def on_host(self, transposed: bool = False) -> HostMatrix:
        """The matrix in the host's memory; its transpose is one with planes of its own."""
        if self.host is None:
            self.host = self._home().to_host()
        if not transposed:
            return self.host
        if self._transpose is None:
            self._transpose = self.host.transpose()
        return self._transpose

    def on_device(self, device: int) -> DeviceMatrix:
        """The planes on a device. ValueError if the matrix is on another one."""
        if self.device is not None and self.device != device:
            raise ValueError(
                f"the matrix is on cuda:{self.device}, the array on cuda:{device}: pass q.to('cuda:{device}')"
            )
        if device not in self.copies:
            self.copies[device] = _core.DeviceMatrix(self.on_host(), device)
        return self.copies[device]

    def moved(self, device: int | None) -> Planes:
        """The same planes of a matrix that is on a device, or on the host."""
        if device is None:
            return Planes(self.on_host())
        source = self if self.device is None else Planes(self.on_host())
        return Planes(None, source.on_device(device), self.library)
