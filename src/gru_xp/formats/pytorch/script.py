"""The calls of `torch.gru` in a TorchScript program, which `torch.jit.save` writes as text beside the arrays.

A program is classes with methods, one statement on a line. It is searched and never run: of a method are read the calls
themselves and the assignments that say what their arguments are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from gru_xp.errors import FileFormatError
from gru_xp.formats.pytorch.calls import CONSTANTS, MOVES, ZEROS, Call, joined, leaves
from gru_xp.formats.pytorch.modules import Module

__all__ = ["calls_in_script", "calls_quantised"]

MOST_CALLS, LONGEST, DEEPEST = 1000, 1 << 13, 50
CLASS = re.compile(r"^class (\w+)\(.*\):$", re.MULTILINE)
METHOD = re.compile(r"^  def \w+\((\w+)", re.MULTILINE)
PARAMETER = re.compile(r"(\w+): ")
INNER_CALL = re.compile(r"\((\w+)\)\.forward\w*\(")
CALL = re.compile(r"\btorch\.(gru|gru_cell)\(")
QUANTISED = re.compile(r"\b(torch\.|ops\.quantized\.)quantized_gru")
ASSIGNED = re.compile(r"^ *(\w+(?:, \w+)*),?(?: : [^=\n]*)? = (.+)$", re.MULTILINE)
MADE = re.compile(r"(?:torch\.|\(\w+\)\.)?(\w+)\(")
TEXT = re.compile(r'"(\w*)"|"(?:[^"\\\n]|\\.)*"')
CHILD = re.compile(r'getattr\((.+), "(\w+)"\)|\(?(.+?)\)?\.(\w+)')
CONSTANT = re.compile(r"CONSTANTS\.c([0-9]+)")
HINT = re.compile(r"self_(\w+?)__flat_weights[0-9]*")
ELEMENT = re.compile(r"\((.+)\)\[[0-9]+\]")
COMPUTED = "is computed"
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
    found: list[tuple[str, Call]] = []
    states: dict[str, list[str]] = {}  # what modules are called with as their second argument, by place
    left = MOST_CALLS
    for file, source in sources.items():
        text = TEXT.sub(lambda match: match[0] if match[1] else '""', source)
        prefix = file.removeprefix("code/").removesuffix(".py").replace("/", ".")
        for name, body in _parts(CLASS, text):
            for own_name, method in _parts(METHOD, body):
                matches, inner = list(CALL.finditer(method)), list(INNER_CALL.finditer(method))
                for place in places.get(f"{prefix}.{name}", ()) if matches or inner else ():
                    left -= len(matches)
                    if left < 0 or len(inner) > MOST_CALLS:
                        raise FileFormatError(f"expected at most {MOST_CALLS} calls of GRUs")
                    called = _Method(own_name, method, place)
                    found += [(place, call) for match in matches if (call := called.call(match)) is not None]
                    for match in inner:
                        states.setdefault(called.array(match[1]) or "", []).append(called.given_state(match))
    return [_with_state(call, states.get(place, ())) for place, call in found]


def _with_state(call: Call, given: Iterable[str]) -> Call:
    """With what the module around it gives its module as the first state."""
    state = next((each for each in given if each), "")
    return replace(call, state=call.state or ("" if call.is_cell else state))


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
        head, _, _ = text.partition(") -> ")
        self.parameters = {*PARAMETER.findall(head)}
        self.states: dict[str, str] = {}  # what `state` says of names
        self.assigned: dict[str, set[str]] = {}
        for names, expression in ASSIGNED.findall(text):
            several = names.split(", ")
            parts = [expression] if len(several) == 1 else _arguments(f"{expression})", 0)
            for index, name in enumerate(several):  # "a, b = x, y", or "a, b = x"
                part = parts[index] if len(parts) == len(several) else f"({expression})[{index}]"
                self.assigned.setdefault(name, set()).add(part)

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
        call = replace(call, state=self.state(arguments[2 if is_packed else 1]))
        listed = arguments[3 if is_packed else 2]
        hint = HINT.fullmatch(listed)
        taken = self.arrays(listed, call)
        return replace(call, weights=taken, hint=hint[1] if hint else "") if taken else None

    def given_state(self, match: re.Match[str]) -> str:
        """What a module is called with behind x; of a GRU that is its first state."""
        arguments = _arguments(self.text, match.end())
        return self.state(arguments[1]) if len(arguments) == 2 else ""

    def state(self, expression: str, depth: int = 0) -> str:
        """What a first state is; "" for an argument of the method and for zero."""
        if depth > DEEPEST or len(expression) > LONGEST:
            return COMPUTED
        if expression == "None" or expression.startswith("uninitialized("):
            return ""
        if expression in self.assigned:
            if expression not in self.states:
                self.states[expression] = ""  # so that names of one another end
                found = [self.state(each, depth + 1) for each in self.assigned[expression]]
                self.states[expression] = next((each for each in found if each), "")
            return self.states[expression]
        if expression in self.parameters:
            return ""
        if (element := ELEMENT.fullmatch(expression)) is not None:
            return self.state(element[1], depth + 1)
        if (made := MADE.match(expression)) is not None and expression.endswith(")"):
            arguments = _arguments(expression, made.end())
            if made[1] in ZEROS or (made[1] == "full" and arguments[1:2] in (["0."], ["0"])):
                return ""
            if made[1] in ("unchecked_cast", "annotate") and len(arguments) == 2:
                return self.state(arguments[1], depth + 1)
            if made[1] in (*MOVES, "permute_hidden") and arguments:
                return self.state(arguments[0], depth + 1)
            return COMPUTED
        name = self.array(expression)
        return COMPUTED if name is None else f"is the array {name!r}"

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
