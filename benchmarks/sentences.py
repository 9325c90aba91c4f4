"""What README says in numbers about the embedded model: sentences made from the tables, so that none is chosen by hand.

A comparison is stated at every budget, with what was found at each: more, fewer, or no difference that a test finds.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import Any

from benchmarks.heldout_tables import RANDOM, WHOLE, label
from benchmarks.intervals import LEVEL, Row

WIDTH = 120
FLOWCUT = "flowcut official"
DESCRIBE = "describe"


def embedded(numbers: dict[str, Any]) -> str:
    """What the embedded model can do, from the held-out questions (benchmarks/heldout_tables.py)."""
    tables, whole = numbers["tables"], label(*WHOLE)
    return " ".join(
        [
            f"On {numbers['questions']:,} held-out questions about {numbers['scenes']} such scenes "
            f"{_share(tables['exact'][whole])} of its whole answers are right (95% interval, scenes resampled); by "
            "type of question, and pruned in every way, see [training/RESULTS.md](training/RESULTS.md).",
            _weakest(tables[f"by type, {whole}"], tables["facts right of stated"][whole]),
            _floors(tables["floors"]),
            _pruned(numbers),
        ]
    )


def _weakest(by_type: dict[str, Row], stated: Row) -> str:
    first, second = (
        _about(kind, by_type[kind], stated) for kind in sorted(by_type, key=lambda k: by_type[k]["mean"])[:2]
    )
    return f"It is weakest at {first} and at {second}."


def _about(kind: str, row: Row, stated: Row) -> str:
    if kind == DESCRIBE:
        return (
            f"whole descriptions word for word ({_percent(row)}; of the facts it states {_percent(stated)} are right)"
        )
    return f"questions of the type {kind} ({_percent(row)})"


def _floors(floors: dict[str, Row]) -> str:
    nothing, background, one, objects = (
        _percent(floors[name])
        for name in ("no picture", "background patches", "one patch per object", "object patches")
    )
    return (
        f"Without any picture it gives {nothing} of the answers, from the patches that show no object {background}, "
        f"from one patch drawn for each object {one}, from all that show one {objects}."
    )


def _pruned(numbers: dict[str, Any]) -> str:
    tables, budgets = numbers["tables"], numbers["budgets"]
    own, drawn = (
        _listed(f"{100 * tables['exact'][label(method, tokens)]['mean']:.1f}" for tokens in budgets)
        for method in (FLOWCUT, RANDOM)
    )
    against = {tokens: tables["exact, minus full"][label(FLOWCUT, tokens)] for tokens in budgets}
    return (
        f"At {_listed(budgets)} tokens FlowCut gives {own}% right answers, random tokens {drawn}%; compared with the "
        f"whole picture that is, for FlowCut, {verdicts(against)}."
    )


def causal(numbers: dict[str, Any]) -> str:
    """Which answers are kept, from the causal check (benchmarks/causal_tables.py)."""
    return f"Over {numbers['scenes']} held-out scenes, {_kept(numbers['kept'])}"


def _kept(kept: dict[str, Any]) -> str:
    budgets = list(kept["value"])
    own, drawn, dart = (
        _listed(f"{100 * kept['value'][tokens][name]['mean']:.1f}" for tokens in budgets)
        for name in ("flowcut", "random", "dart")
    )
    others = [[_significant(row) for row in kept["minus_flowcut"][tokens].values()] for tokens in budgets]
    more, fewer = (_listed(column.count(sign) for column in others) for sign in (1, -1))
    against = {int(tokens): kept["minus_flowcut"][tokens]["dart"] for tokens in budgets}
    return (
        f"at {_listed(budgets)} tokens FlowCut keeps {own}% of the answers, random tokens {drawn}%. DART, which "
        f"cuts inside the language model, keeps {dart}%: compared with FlowCut that is {verdicts(against)}. Of all "
        f"{len(others[0])} other ways {more} keep significantly more answers than FlowCut at these budgets, and "
        f"{fewer} significantly fewer."
    )


def verdicts(by_budget: dict[int, Row]) -> str:
    """`significantly more at 192 and 32 tokens, and no significant difference at 128 and 64`; every budget is in it.

    Significant: p < 0.05 after the correction over the table that the rows come from.
    """
    said = {1: "significantly more at {}", -1: "significantly fewer at {}", 0: "no significant difference at {}"}
    groups = [(words, [t for t, row in by_budget.items() if _significant(row) == sign]) for sign, words in said.items()]
    parts = [words.format(_listed(budgets)) for words, budgets in groups if budgets]
    return ", and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


def _significant(row: Row) -> int:
    """1: more; -1: less; 0: no difference that the test finds."""
    return 0 if row["holm"] >= LEVEL else 1 if row["mean"] > 0 else -1


def _share(row: Row) -> str:
    return "{:.1f}% [{:.1f}, {:.1f}]".format(*(100 * row[part] for part in ("mean", "low", "high")))


def _percent(row: Row) -> str:
    return f"{100 * row['mean']:.1f}%"


def _listed(things: Iterable[object]) -> str:
    """`192, 128 and 64`"""
    words = [str(thing) for thing in things]
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def put_into(text: str, sentences: dict[str, str]) -> str:
    """A page of Markdown with its sentences renewed.

    A sentence's place is marked `word.<!--name--> ... end.<!--/name-->` inside one item of a list, which is wrapped
    again. The marks stay stuck to the word before them: a line that began with one would end the item.

    Raises:
        ValueError: the page has not exactly one place for a sentence.
    """
    for name, sentence in sentences.items():
        before, _, after = _around(text, name)
        start = before.rfind("\n- ") + 1
        stop = min(place for place in (after.find("\n- "), after.find("\n\n"), len(after)) if place >= 0)
        item = f"{before[start:]}<!--{name}--> {sentence}<!--/{name}-->{after[:stop]}"
        text = before[:start] + _wrapped(item) + after[stop:]
    return text


def said_in(text: str, name: str) -> str:
    """What stands in the place of a sentence, without its line breaks."""
    return " ".join(_around(text, name)[1].split())


def _around(text: str, name: str) -> tuple[str, str, str]:
    """What is before, in, and behind a sentence's place."""
    parts = re.split(f"<!--/?{name}-->", text)
    if len(parts) != 3:
        raise ValueError(
            f"The page has {len(parts) - 1} marks <!--{name}--> and <!--/{name}-->; one of each is needed."
        )
    return parts[0], parts[1], parts[2]


def _wrapped(item: str) -> str:
    whole = " ".join(item.split())
    return textwrap.fill(whole, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
