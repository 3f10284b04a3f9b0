"""New prices for old rows.

A price list is corrected, an override is written, a model becomes known: then the costs in the log are computed again
from the usage in each stored record, by the same catalog that prices live traffic; it gets the stored request as well
(speech is priced by its characters, pictures by their size). A row changes only where there is a new price. What has
no price now keeps the one it had; what the provider billed stays as billed; a row whose record is gone is counted, for
a price can not be guessed from columns.

While a row is priced, somebody else may change it, such as retention that removes its content. So after the writing it
is looked whether the new prices stand; where another revision came in between, the price goes onto that one.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import select

from streamfold.store.log_store import LogStore
from streamfold.store.query import LogQuery, walk
from streamfold.store.row import LogRow, repriced
from streamfold.store.schema import request_log
from streamfold.stream import Catalog
from streamfold.types import JSON, AccumulatedData, Cost

__all__ = ["Repriced", "reprice"]


TRIES: Final = 5
"""How often the same row may be changed by others while it is priced."""


class _Price(NamedTuple):
    cost: Cost
    reason: str | None


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
    Each changed row gets a later revision, so it replaces the old one on every engine.
    """
    done, reasons = Repriced(), Counter[str]()
    # By age, since a walk in the order of costs would meet again what it has just changed.
    query = msgspec.structs.replace(query, sort="created", cursor=None)
    for rows in walk(store, query, whole=True):
        prices = {}
        for row in rows:
            price = _price(row, catalog, billed_too, done, reasons) if row.status != "processing" else None
            if price is not None:
                prices[row.id] = price
        if not dry_run:
            _write(store, [row for row in rows if row.id in prices], prices)
    done.reasons = dict(reasons.most_common())
    return done


def _price(row: LogRow, catalog: Catalog, billed_too: bool, done: Repriced, reasons: Counter[str]) -> _Price | None:
    """The new cost of a row, or None if it stays as it is; counted either way."""
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
    return _Price(cost, reason)


def _write(store: LogStore, rows: list[LogRow], prices: dict[str, _Price]) -> None:
    """Writes the rows with their prices, again where somebody else was quicker."""
    for _ in range(TRIES):
        if not rows:
            return
        written = [_with_price(row, *prices[row.id]) for row in rows]
        store.write(written)
        rows = _overtaken(store, written)


def _overtaken(store: LogStore, written: list[LogRow]) -> list[LogRow]:
    """The rows as they are now that are not as they were written. One that was removed is none of them."""
    log = request_log.c
    wanted = {row.id: (row.revision, row.cost) for row in written}
    with store.connect() as connection:
        now = connection.execute(select(log.id, log.revision, log.cost).where(log.id.in_(list(wanted))))
        other = [id for id, *stands in now if tuple(stands) != wanted[id]]
        found = connection.execute(select(request_log).where(log.id.in_(other))).mappings() if other else ()
        return [LogRow(**row) for row in found]


def _with_price(row: LogRow, cost: Cost, reason: str | None) -> LogRow:
    return msgspec.structs.replace(
        row,
        revision=repriced(row.revision),
        cost=cost.total_cost,
        input_cost=cost.input_cost,
        output_cost=cost.output_cost,
        additional_cost=cost.additional_cost,
        cost_source=cost.source,
        cost_complete=cost.complete,
        cost_reason=reason,
        record=_with_cost(row.record, cost, reason) if row.record is not None else None,
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
