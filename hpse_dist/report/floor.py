"""Are sources ahead of what can be said without looking at a picture?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpse_dist.report.examples import compare
from hpse_dist.report.learning import finals
from hpse_dist.report.runs import Study
from hpse_dist.report.statistics import LEVEL, holm
from hpse_dist.report.tables import TaskTable, figure, metric, spoken


def unseen(study: Study, tables: Sequence[TaskTable]) -> list[str]:
    """A sentence for each table with a blind source, of the sources that are not ahead of it on
    their common seeds, sure at 95 % with Holm's correction: differences among them are no figures
    of encoders. Sources with one seed are left out, unless they are behind it."""
    told = []
    for table in tables:
        what, runs = metric(table.ranked_by), finals(study, table)
        blind = next((s for s, found in runs.items() if any(r.blind for r in found.values())), None)
        if blind is None or not what.better:
            continue
        against = {
            source: compare(found, runs[blind], table.ranked_by)
            for source, found in runs.items()
            if source != blind
        }
        adjusted = holm([one.difference.p for one in against.values()])
        level = [
            source
            for (source, one), p in zip(against.items(), adjusted, strict=True)
            if what.sign * one.difference.mean >= 0 or (math.isfinite(p) and p >= 1 - LEVEL)
        ]
        if level:
            row = next(row for row in table.rows if row.source == blind)
            floor = figure(row.metrics[table.ranked_by].mean, what)
            told.append(
                f"On {spoken(table.task)}{f' ({table.protocol})' if table.protocol else ''} "
                f"{' and '.join(level)} cannot be told from {blind}, whose encoder sees no picture "
                f"({what.label} {floor}): {'it' if len(level) == 1 else 'they'} may say no more "
                "than the labels alone do. Longer training, more people or more seeds would tell."
            )
    return told
