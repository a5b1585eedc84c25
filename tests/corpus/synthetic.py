"""Synthetic records: enough functions of several packages to fill every kind, near-duplicates among them."""

import random

from tradewind.corpus.records import Example, Parameter, Raised, Record, Returned, Sections

VERBS = ["compute", "filter", "merge", "rotate", "split", "sort", "validate", "encode"]
THINGS = ["matrix", "graph", "series", "table", "signal", "image", "cluster", "spectrum", "tensor", "forest"]
MANNERS = ["by rows", "along an axis", "with weights", "in place", "from a file", "in parallel", "lazily"]


def record(package: str, name: str, sections: Sections, aliases: tuple[str, ...] = ()) -> Record:
    signature = "(" + ", ".join(f"{p.name}={p.default}" if p.default else p.name for p in sections.parameters) + ")"
    return Record(f"{package}.{name}", package, "1.0", "function", list(aliases), signature, sections)


def records(count: int = 600, seed: int = 0) -> list[Record]:
    """`count` functions in three packages; every tenth is a copy of the one before under another package's name."""
    rng = random.Random(seed)
    found: list[Record] = []
    for i in range(count):
        package = ("alpha", "beta", "gamma")[i % 3]
        if i % 10 == 9:
            found.append(record(package, f"copy_{i}", found[-1].sections, (f"{package}.sub.copy_{i}",)))
        else:
            name = f"{rng.choice(VERBS)}_{i}"
            found.append(record(package, name, _sections(rng, i, name), (f"{package}.sub.f{i}",)))
    return sorted(found, key=lambda r: r.id)


def _sections(rng: random.Random, i: int, name: str) -> Sections:
    verb, thing, manner = rng.choice(VERBS), rng.choice(THINGS), rng.choice(MANNERS)
    words = [f"{rng.choice(THINGS)}{rng.randrange(1000)}" for _ in range(12)]
    parameters = [
        Parameter("data", "array_like", "", f"The {words[0]} {words[1]} to be read first."),
        Parameter("order", "int", str(rng.randrange(9)), f"How many {words[2]} {words[3]} are kept."),
        Parameter("mode", "str", "'full'", f"Which {words[4]} {words[5]} to prefer."),
        Parameter(f"extra_{rng.randrange(40)}", "", "", ""),
    ]
    return Sections(
        summary=f"{verb.capitalize()} the {words[6]} of a {thing} {manner} {words[7]}.",
        description=f"Based on {words[8]} and {words[9]}.",
        parameters=parameters,
        returns=[Returned("", "ndarray", f"The {words[10]} {thing} that was found.")],
        raises=[Raised("ValueError", f"If the {words[11]} is empty.")] if i % 3 else [],
        examples=[Example("x = [1, 2]"), Example(f"{name}(x)", "3")] if i % 2 else [],
    )
