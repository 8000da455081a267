"""The driver: which device kernels run on."""

from __future__ import annotations

from typing import Any

import torch
from triton.backends import driver as base
from triton.backends.compiler import GPUTarget


class CpuDriver(base.DriverBase):  # type: ignore[misc]
    """The host as a device with one stream."""

    @classmethod
    def is_active(cls) -> bool:
        """Always there."""
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        """Only compiled launchers need C++ types."""
        raise NotImplementedError("the cpu backend has no compiled launcher; set TRITON_INTERPRET=1")

    def get_current_target(self) -> GPUTarget:
        """One thread per warp."""
        return GPUTarget("cpu", 0, 1)

    def get_active_torch_device(self) -> torch.device:
        """Where tensors live."""
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        """The module with torch's functions of the device."""
        return torch.cpu

    def get_benchmarker(self) -> Any:
        """Autotuning is the same as elsewhere."""
        from triton.testing import do_bench  # noqa: PLC0415 - it imports the runtime, which imports this driver

        return do_bench

    def get_current_device(self) -> int:
        """There is one device."""
        return 0

    def set_current_device(self, device: int) -> None:
        """There is one device."""

    def get_current_stream(self, device: int = 0) -> int:
        """There is one stream."""
        del device
        return 0
