"""The calls of `torch.gru` in a TorchScript program, which `torch.jit.save` writes as text beside the arrays.

A program is classes with methods, one statement on a line. It is searched and never run: of a method are read the calls
themselves and the assignments that say what their arguments are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from gru_xp.errors import FileFormatError
from gru_xp.formats.pytorch.calls import CONSTANTS, Call, joined, leaves
from gru_xp.formats.pytorch.modules import Module

__all__ = ["calls_in_script", "calls_quantised"]

MOST_CALLS, LONGEST, DEEPEST = 1000, 1 << 13, 50
CLASS = re.compile(r"^class (\w+)\(.*\):$", re.MULTILINE)
METHOD = re.compile(r"^  def \w+\((\w+)", re.MULTILINE)
CALL = re.compile(r"\btorch\.(gru|gru_cell)\(")
QUANTISED = re.compile(r"\b(torch\.|ops\.quantized\.)quantized_gru")
ASSIGNED = re.compile(r"^ *(\w+)(?: : [^=\n]*)? = (.+)$", re.MULTILINE)
TEXT = re.compile(r'"(\w*)"|"(?:[^"\\\n]|\\.)*"')
CHILD = re.compile(r'getattr\((.+), "(\w+)"\)|\(?(.+?)\)?\.(\w+)')
CONSTANT = re.compile(r"CONSTANTS\.c([0-9]+)")
HINT = re.compile(r"self_(\w+?)__flat_weights[0-9]*")
OPENING, CLOSING = "([{", ")]}"


def calls_in_script(sources: Mapping[str, str], modules: Mapping[str, Module]) -> list[Call]:
    """Every call, with the arrays of the module that makes it; constants are called "constants.c0".

    Args:
        sources: the text of the program by the name of the file, "code/__torch__/torch/nn/modules/rnn.py".
        modules: what the pickle beside it holds, by name.
    """
    places: dict[str, list[str]] = {}
    for place, module in modules.items():
        places.setdefault(module.origin, []).append(place)
    found: list[Call] = []
    left = MOST_CALLS
    for file, source in sources.items():
        text = TEXT.sub(lambda match: match[0] if match[1] else '""', source)
        prefix = file.removeprefix("code/").removesuffix(".py").replace("/", ".")
        for name, body in _parts(CLASS, text):
            for own_name, method in _parts(METHOD, body):
                matches = list(CALL.finditer(method))
                for place in places.get(f"{prefix}.{name}", ()) if matches else ():
                    left -= len(matches)
                    if left < 0:
                        raise FileFormatError(f"expected at most {MOST_CALLS} calls of GRUs")
                    called = _Method(own_name, method, place)
                    found += [call for match in matches if (call := called.call(match)) is not None]
    return found


def calls_quantised(sources: Mapping[str, str]) -> bool:
    """Whether a program calls a quantised GRU."""
    return any(QUANTISED.search(source) for source in sources.values())


def _parts(head: re.Pattern[str], text: str) -> Iterator[tuple[str, str]]:
    """What follows each match, up to the next, by the first group."""
    matches = list(head.finditer(text))
    for match, following in zip(matches, [*matches[1:], None], strict=False):
        yield match[1], text[match.end() : following.start() if following else len(text)]


class _Method:
    """A method of the module at a place, and what its expressions are."""

    def __init__(self, own_name: str, text: str, place: str):
        self.own_name, self.text, self.place = own_name, text, place
        self.assigned: dict[str, set[str]] = {}
        for name, expression in ASSIGNED.findall(text):
            self.assigned.setdefault(name, set()).add(expression)

    def call(self, match: re.Match[str]) -> Call | None:
        """What is called there; None if its arguments cannot be read."""
        arguments = _arguments(self.text, match.end())
        if match[1] == "gru_cell":
            given = [each for each in arguments[2:6] if each != "None"]
            weights = [self.array(each) for each in given]
            if len(arguments) != 6 or None in weights:
                return None
            return Call(tuple(filter(None, weights)), has_biases=len(given) == 4, is_cell=True)
        is_packed = len(arguments) == 9 and arguments[3] not in ("True", "False")
        options = arguments[4:] if is_packed else arguments[3:]  # (data, batch_sizes, hx, params, ...)
        if len(options) != (5 if is_packed else 6):
            return None
        try:
            has_biases, num_layers, dropout = _truth(options[0]), int(options[1]), float(options[2])
            train, bidirectional = options[3] == "True", _truth(options[4])
            call = Call((), has_biases, num_layers, dropout, train, bidirectional)
            call = replace(call, batch_first=None if is_packed else _truth(options[5]))
        except ValueError:
            return None
        listed = arguments[3 if is_packed else 2]
        hint = HINT.fullmatch(listed)
        taken = self.arrays(listed, call)
        return replace(call, weights=taken, hint=hint[1] if hint else "") if taken else None

    def arrays(self, expression: str, call: Call) -> tuple[str, ...]:
        """The names of the arrays in a list; none if it cannot be read."""
        path = self.array(expression)
        if path is not None and path.rpartition(".")[2] == "_flat_weights":  # all of that module's
            return tuple(joined(path.rpartition(".")[0], leaf) for leaf in leaves(call))
        if expression in self.assigned and len(self.assigned[expression]) == 1:
            (expression,) = self.assigned[expression]
        names = [self.array(each) for each in _arguments(expression, 1)] if expression.startswith("[") else [None]
        return () if None in names else tuple(filter(None, names))

    def array(self, expression: str, depth: int = 0) -> str | None:
        """The name of an array, or of a module; None if it is computed."""
        if expression == self.own_name:
            return self.place
        if depth > DEEPEST or len(expression) > LONGEST:
            return None
        if (constant := CONSTANT.fullmatch(expression)) is not None:
            return CONSTANTS + constant[1]
        if len(expressions := self.assigned.get(expression, set())) == 1:
            return self.array(next(iter(expressions)), depth + 1)
        match = CHILD.fullmatch(expression)
        if match is None:
            return None
        above = self.array(match[1] or match[3], depth + 1)
        return None if above is None else joined(above, match[2] or match[4])


def _arguments(text: str, start: int) -> list[str]:
    """What stands between commas, from behind an opening bracket to its closing one; none if there is none."""
    found, depth, begin = [], 0, start
    for place in range(start, min(len(text), start + LONGEST)):
        letter = text[place]
        if depth == 0 and letter in (",", *CLOSING):
            found.append(text[begin:place].strip())
            begin = place + 1
            if letter != ",":
                return [each for each in found if each]
        depth += (letter in OPENING) - (letter in CLOSING)
    return []


def _truth(word: str) -> bool:
    if word not in ("True", "False"):
        raise ValueError(word)
    return word == "True"
