"""The compiler: there is none, the kernels run in Triton's interpreter."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NoReturn

from triton.backends import compiler as base

INTERPRETER_ONLY = "the cpu backend has no compiler; set TRITON_INTERPRET=1"


class CpuBackend(base.BaseBackend):  # type: ignore[misc]
    """Stands where Triton looks for a compiler."""

    @staticmethod
    def supports_target(target: base.GPUTarget) -> bool:
        """The target of `driver.CpuDriver`."""
        return bool(target.backend == "cpu")

    def hash(self) -> str:
        """Part of the key of Triton's cache."""
        return "cpu-interpreter"

    def parse_options(self, options: dict[str, Any]) -> NoReturn:
        """Called to compile a kernel."""
        raise NotImplementedError(INTERPRETER_ONLY)

    def add_stages(self, stages: dict[str, Any], options: object, *more: Any) -> NoReturn:
        """Called to compile a kernel."""
        raise NotImplementedError(INTERPRETER_ONLY)

    def load_dialects(self, context: object) -> None:
        """No MLIR is made."""

    def get_module_map(self) -> dict[str, ModuleType]:
        """No device library."""
        return {}
