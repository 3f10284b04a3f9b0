"""A plugin that writes a line to a CSV file for each response: when, who, which model, how many tokens, how much."""

import csv
from pathlib import Path

import msgspec


class CostSheet:
    class Config(msgspec.Struct, forbid_unknown_fields=True):
        path: str = "costs.csv"
        team: str = "unknown"

    name = "cost-sheet"

    def __init__(self, config):
        self.path, self.team = Path(config.path), config.team

    def on_response(self, ctx, processed):
        data = processed.data
        usage, cost = data.token_usage, data.cost
        tokens = usage.total_tokens if usage else None
        team = ctx.metadata.get("team", self.team)
        line = [data.end_timestamp, team, data.model, data.status, tokens, cost.total_cost if cost else None]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(line)
