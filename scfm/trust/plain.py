"""Plain values from a file: numbers, text, lists and dictionaries, and no more of them than a program can hold."""

from collections.abc import Collection, Mapping
from typing import Any

#: Lists in lists, and values in all. A config has about 100 values; a tokenizer with its aliases 300,000.
MAX_DEPTH, MAX_VALUES = 64, 5_000_000


def plain_fault(value: Any, keys: tuple[type, ...] = (str,), leaves: tuple[type, ...] = ()) -> str | None:
    """What is not plain about a value from a file, or None.

    Values that stand in several places count in each: a few bytes of a pickle can stand for more lists than there are
    atoms.

    Args:
        value: of any kind.
        keys: kinds that the keys of a dictionary may be of.
        leaves: further kinds of values, which are not looked into.
    """
    plain = {str, float, bool, type(None), *leaves}
    waiting: list[tuple[Collection[Any], int]] = [([value], 0)]
    count = 1
    while waiting:
        items, depth = waiting.pop()
        if items and depth > MAX_DEPTH:
            return f"is nested more than {MAX_DEPTH} deep"
        if plain.issuperset(map(type, items)):  # most lists are long and of one kind
            continue
        for item in items:
            if type(item) is int:
                if item.bit_length() > 64:
                    return f"has a number of {item.bit_length()} bits"
            elif type(item) in plain:
                continue
            elif isinstance(item, Mapping | list):
                count += len(item)
                if count > MAX_VALUES:
                    return f"has more than {MAX_VALUES:,} values"
                if isinstance(item, Mapping) and not all(isinstance(key, keys) for key in item):
                    return "has a key that is no text"
                waiting.append((item if isinstance(item, list) else item.values(), depth + 1))
            else:
                return f"holds {type(item).__name__}; expected numbers, text, lists and dictionaries"
    return None
