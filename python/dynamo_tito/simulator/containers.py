"""Reads the routed experts of an answer that the embedded engine has written, and writes others in their place."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .encode import routing_bare, routing_npy, routing_object
from .model import Model

__all__ = ["Container", "containers"]

_NPY = "k05VTVBZ"  # base64 of the first bytes of an .npy file


@dataclass(frozen=True, slots=True)
class Container:
    """One place in an answer that holds routed experts, in one of the three forms of the wires."""

    holder: dict[str, Any]
    rows: NDArray[np.generic]

    def put(self, rows: NDArray[np.generic], *, start: int | None = None) -> None:
        """Write other rows in the same form; `start` is stamped where the form has one."""
        before = self.holder["routed_experts"]
        if isinstance(before, dict):
            self.holder["routed_experts"] = routing_object(rows, before["start"] if start is None else start)
        else:
            write = routing_npy if before.startswith(_NPY) else routing_bare
            self.holder["routed_experts"] = write(rows)

    def drop(self) -> bool:
        """Take the rows out: null where the wire writes null, else nothing at all."""
        if "finish_reason" in self.holder and "index" in self.holder:
            self.holder["routed_experts"] = None
        else:
            del self.holder["routed_experts"]
        return True


def containers(answer: dict[str, Any], model: Model) -> Iterator[Container]:
    """Every place of the answer that holds routed experts."""
    extension = answer.get("nvext") or {}
    holders = [*(answer.get("choices") or ()), extension, extension.get("engine_data"), answer.get("meta_info")]
    for holder in holders:
        value = (holder or {}).get("routed_experts")
        if value is not None:
            yield Container(holder, _rows(value, model))


def _rows(value: Any, model: Model) -> NDArray[np.generic]:
    if isinstance(value, dict):
        rows = np.frombuffer(base64.b64decode(value["data"]), dtype=value["dtype"])
        return rows.reshape(value["shape"])
    data = base64.b64decode(value)
    if value.startswith(_NPY):
        loaded: NDArray[np.generic] = np.load(io.BytesIO(data), allow_pickle=False)
        return loaded
    return np.frombuffer(data, dtype="<i4").reshape(-1, model.num_layers, model.top_k)
