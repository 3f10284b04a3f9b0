"""New prices for old rows.

A price list is corrected, an override is written, a model becomes known: then the costs in the log are computed again
from the usage in each stored record, by the same catalog that prices live traffic; it gets the stored request as well
(speech is priced by its characters, pictures by their size). A row changes only where there is a new price. What has
no price now keeps the one it had; what the provider billed stays as billed; a row whose record is gone is counted, for
a price can not be guessed from columns.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import msgspec

from streamfold.store.log_store import LogStore
from streamfold.store.query import LogQuery, walk
from streamfold.store.row import LogRow
from streamfold.stream import Catalog
from streamfold.types import JSON, AccumulatedData, Cost

__all__ = ["Repriced", "reprice"]


class Repriced(msgspec.Struct):
    """What became of the rows that were looked at."""

    changed: int = 0
    unchanged: int = 0
    unpriceable: int = 0
    """The catalog has no price; `reasons` says why."""
    billed: int = 0
    """Left alone: the provider itself said what it costs."""
    without_record: int = 0
    """Left alone: no record is stored, or none that can be read."""
    reasons: dict[str, int] = {}
    before: float = 0.0
    after: float = 0.0
    """The known cost of all these rows, before and now."""


def reprice(
    store: LogStore, query: LogQuery, catalog: Catalog, *, billed_too: bool = False, dry_run: bool = False
) -> Repriced:
    """Prices the finished rows that fit again, and writes those whose cost is another one now.

    `billed_too` asks the catalog also where the provider stated the cost. A dry run reports and writes nothing.
    Each changed row gets the next revision, so it replaces the old one on every engine.
    """
    done, reasons = Repriced(), Counter[str]()
    # By age, since a walk in the order of costs would meet again what it has just changed.
    query = msgspec.structs.replace(query, sort="created", cursor=None)
    for rows in walk(store, query, whole=True):
        fresh = [_priced(row, catalog, billed_too, done, reasons) for row in rows if row.status != "processing"]
        changed = [row for row in fresh if row is not None]
        if changed and not dry_run:
            store.write(changed)
    done.reasons = dict(reasons.most_common())
    return done


def _priced(row: LogRow, catalog: Catalog, billed_too: bool, done: Repriced, reasons: Counter[str]) -> LogRow | None:
    """The row with its new cost, or None if it stays as it is; counted either way."""
    done.before += row.cost or 0.0
    done.after += row.cost or 0.0
    if row.cost_source == "provider" and not billed_too:
        done.billed += 1
        return None
    data = _record(row)
    if data is None:
        done.without_record += 1
        return None
    cost, reason = catalog.cost_of(msgspec.structs.replace(data, cost=None, cost_reason=None), _request(row))
    if cost is None:
        done.unpriceable += 1
        reasons[reason or "no reason given"] += 1
        return None
    if cost == data.cost and cost.total_cost == row.cost:
        done.unchanged += 1
        return None
    done.changed += 1
    done.after += cost.total_cost - (row.cost or 0.0)
    return msgspec.structs.replace(
        row,
        revision=row.revision + 1,
        cost=cost.total_cost,
        input_cost=cost.input_cost,
        output_cost=cost.output_cost,
        additional_cost=cost.additional_cost,
        cost_source=cost.source,
        cost_complete=cost.complete,
        cost_reason=reason,
        record=_with_cost(row.record or "{}", cost, reason),
    )


def _record(row: LogRow) -> AccumulatedData | None:
    """The stored record, those of the logging plugin too, in which binary may be a digest; None if it is unreadable."""
    try:
        return msgspec.json.decode(row.record or "", type=AccumulatedData)
    except msgspec.ValidationError:
        with suppress(msgspec.ValidationError):
            return msgspec.convert(_without_digests(msgspec.json.decode(row.record or "")), AccumulatedData)
    except msgspec.DecodeError:
        pass
    return None


def _without_digests(value: Any) -> Any:
    """A record with some base64 in the place of each digest: nothing is priced by the bytes themselves."""
    if isinstance(value, list):
        return [_without_digests(each) for each in value]
    if not isinstance(value, dict):
        return value
    if {"size", "sha256"} <= value.keys() <= {"size", "sha256", "media_type"}:
        return "AAAA"
    return {name: _without_digests(each) for name, each in value.items()}


def _request(row: LogRow) -> JSON | None:
    """The stored request, if it is a JSON object."""
    try:
        return msgspec.json.decode(row.request or "", type=JSON)
    except msgspec.DecodeError:
        return None


def _with_cost(record: str, cost: Cost, reason: str | None) -> str:
    """The record with another cost; everything else in it stays letter for letter, also what this version knows not."""
    fields: dict[str, Any] = msgspec.json.decode(record, type=dict[str, msgspec.Raw])
    fields["cost"], fields["cost_reason"] = cost, reason
    return msgspec.json.encode(fields).decode()
