"""What is wrong with routed experts that have the right shape.

A capture can fail without a wrong byte: fused kernels that bypass it leave zeros, a buffer that is read too early
repeats rows, an offset by one makes a turn disagree with the one before. Nothing of it is an error of the document, so
it is looked for on request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from ._errors import RoutedExpertsError
from ._native import scan_routing

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_RUN = 32
_SURELY_NOT_CHANCE = 16
"""Tokens after which a layer of zeros is no coincidence even with one expert per token."""


class RoutingChecks(TypedDict, total=False):
    """What ``strict_routing`` knows of the model; the keywords of :func:`routing_report`."""

    num_experts: int | None
    dense_layers: Sequence[int]
    max_run: int


@dataclass(frozen=True, slots=True)
class RoutingReport:
    """Facts about routed experts [rows, layers, top_k]; rows are numbered as in the array.

    An *entry* is the ``top_k`` ids of one token in one layer.

    Attributes:
        region: the rows that were looked at, from the first to the one behind the last.
        zero_entries: per layer, entries whose ids are all zero.
        out_of_range: ids below 0, or not below ``num_experts``.
        first_out_of_range: row, layer and slot of the first one.
        duplicates: entries that name an expert twice, all-zero ones apart.
        first_duplicate: row and layer of the first one.
        longest_run: the longest run of equal rows: its first row and its length.
        disagreements: rows that differ from the earlier turn's.
        first_disagreement: the first one.
        findings: what a sound capture does not show, one line each, with the likely cause.
    """

    region: tuple[int, int]
    zero_entries: tuple[int, ...]
    out_of_range: int
    first_out_of_range: tuple[int, int, int] | None
    duplicates: int
    first_duplicate: tuple[int, int] | None
    longest_run: tuple[int, int]
    disagreements: int
    first_disagreement: int | None
    findings: tuple[str, ...]

    @property
    def zero_layers(self) -> tuple[int, ...]:
        """Layers that are zero in every row; dense layers are, too."""
        rows = self.region[1] - self.region[0]
        return tuple(layer for layer, count in enumerate(self.zero_entries) if rows and count == rows)


def routing_report(
    array: NDArray[np.integer[Any]],
    *,
    num_experts: int | None = None,
    region: tuple[int, int] | None = None,
    earlier: NDArray[np.integer[Any]] | None = None,
    dense_layers: Sequence[int] = (),
    max_run: int = _MAX_RUN,
) -> RoutingReport:
    """Look for signs of a broken capture, in one pass that holds no GIL.

    Args:
        array: routed experts [rows, layers, top_k]; uint8, uint16, int16 or int32.
        num_experts: experts per layer; None if unknown, and then no id is too large.
        region: look at the rows from the first to the one before the second only; None for all.
        earlier: what an earlier turn brought for the same tokens: of the region's shape.
        dense_layers: layers that have no router and are zero by nature.
        max_run: equal rows in succession that are still no finding.

    Raises:
        TypeError: no array, or of another dtype.
        ValueError: another shape, or a region beyond it.
    """
    if array.ndim != 3:
        raise ValueError(f"array must be [rows, layers, top_k], not {array.ndim} dimensions")
    first, last = (0, len(array)) if region is None else region
    if not 0 <= first <= last <= len(array):
        raise ValueError(f"region is ({first}, {last}), the array has {len(array)} rows")
    rows = np.ascontiguousarray(array[first:last])
    if earlier is not None:
        earlier = np.ascontiguousarray(earlier, dtype=_common(rows, earlier))
        rows = rows.astype(earlier.dtype, copy=False)
    facts = scan_routing(rows, num_experts=num_experts, earlier=earlier)
    out_of_range, duplicate, run = (facts[name] for name in ("first_out_of_range", "first_duplicate", "longest_run"))
    disagreement = facts["first_disagreement"]
    report = RoutingReport(
        region=(first, last),
        zero_entries=tuple(facts["zero_entries"]),
        out_of_range=facts["out_of_range"],
        first_out_of_range=None if out_of_range is None else (first + out_of_range[0], *out_of_range[1:]),
        duplicates=facts["duplicates"],
        first_duplicate=None if duplicate is None else (first + duplicate[0], duplicate[1]),
        longest_run=(first + run[0], run[1]),
        disagreements=facts["disagreements"],
        first_disagreement=None if disagreement is None else first + disagreement,
        findings=(),
    )
    findings = tuple(_findings(report, rows.shape[2], num_experts, frozenset(dense_layers), max_run))
    object.__setattr__(report, "findings", findings)
    return report


def routing_checks(strict: bool | RoutingChecks) -> RoutingChecks | None:  # noqa: FBT001 - it is the option's value
    """``strict_routing`` as given: what to check for, or None for nothing."""
    if isinstance(strict, bool):
        return RoutingChecks() if strict else None
    if not isinstance(strict, Mapping):
        raise TypeError(f"strict_routing must be a bool or a mapping, not {type(strict).__name__}")
    if unknown := set(strict) - RoutingChecks.__optional_keys__:
        raise ValueError(f"strict_routing knows no {', '.join(sorted(unknown))}")
    return strict


def refuse_findings(
    array: NDArray[np.integer[Any]], checks: RoutingChecks, *, earlier: NDArray[np.integer[Any]] | None = None
) -> None:
    """Raise a RoutedExpertsError of kind ``"routing"`` if there is anything to find."""
    report = routing_report(array, earlier=earlier, **checks)
    if report.findings:
        raise RoutedExpertsError("; ".join(report.findings), kind="routing")


def _common(one: NDArray[Any], other: NDArray[Any]) -> np.dtype[Any]:
    """The narrowest width that holds both: turns differ in width where one of them names a larger id."""
    return np.result_type(one.dtype, np.asarray(other).dtype)


def _findings(
    report: RoutingReport, top_k: int, num_experts: int | None, dense: frozenset[int], max_run: int
) -> list[str]:
    found = []
    rows = report.region[1] - report.region[0]
    certain = top_k > 1 or rows > _SURELY_NOT_CHANCE
    if certain and (zero := [layer for layer in report.zero_layers if layer not in dense]):
        found.append(
            f"layers {_listed(zero)} are zero in all {rows} rows: dense layers (name them in dense_layers), or a fused "
            "kernel that bypasses the capture"
        )
    part = [layer for layer, count in enumerate(report.zero_entries) if 0 < count < rows and layer not in dense]
    if top_k > 1 and part:
        count = sum(report.zero_entries[layer] for layer in part)
        found.append(f"{count} entries of layers {_listed(part)} are zero: rows that were never captured")
    if report.first_out_of_range is not None:
        row, layer, slot = report.first_out_of_range
        limit = "at least 0" if num_experts is None else f"from 0 to {num_experts - 1}"
        found.append(
            f"{report.out_of_range} ids are not {limit}, the first at row {row}, layer {layer}, slot {slot}: rows read "
            "with another dtype, or of another model"
        )
    if report.first_duplicate is not None:
        row, layer = report.first_duplicate
        found.append(
            f"{report.duplicates} entries name an expert twice, the first at row {row}, layer {layer}: rows read with "
            "another dtype or shape"
        )
    if report.longest_run[1] > max_run:
        row, length = report.longest_run
        found.append(f"{length} equal rows from row {row} on: a capture buffer that was not written for these tokens")
    if report.first_disagreement is not None:
        found.append(
            f"{report.disagreements} rows differ from the earlier turn's, the first is row "
            f"{report.first_disagreement}: rows shifted, or weights or batch that changed between the turns"
        )
    return found


def _listed(layers: Sequence[int]) -> str:
    """``0, 1, 2`` or, of many, the first ones."""
    shown = ", ".join(map(str, layers[:8]))
    return shown if len(layers) <= 8 else f"{shown} and {len(layers) - 8} more"
