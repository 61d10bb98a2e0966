"""Labels and the scopes that they hold in: inline assembly writes the same one in each copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pyferrum_kv.ptx_reader import PtxSyntaxError
from pyferrum_kv.virtual.program import Instruction, Kernel, Symbol


@dataclass(slots=True)
class _Mention:
    """A label where it is used; `settle` is told the name that it has in Kernel.labels."""

    name: str
    line: int
    settle: Callable[[str], None]


@dataclass(slots=True)
class _Scope:
    """What stands between two braces."""

    labels: dict[str, str] = field(default_factory=dict)  # as written -> as in Kernel.labels
    mentions: list[_Mention] = field(default_factory=list)


class LabelScopes:
    """Gives each label of a kernel a name of its own, and each branch the label that it sees.

    A branch sees the labels of its scope and of those around it, before it and after it: it is
    settled where a scope ends.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._scopes: list[_Scope] = []

    def open(self) -> None:
        self._scopes.append(_Scope())

    def close(self) -> None:
        """Settle what this scope's labels settle; the rest is for the scope around it."""
        ended = self._scopes.pop()
        for mention in ended.mentions:
            if mention.name in ended.labels:
                mention.settle(ended.labels[mention.name])
            elif self._scopes:
                self._scopes[-1].mentions.append(mention)
            else:
                raise PtxSyntaxError(mention.line, f"{mention.name} is not declared as a label")

    def label(self, name: str, line: int) -> str:
        """Enter a label before the next instruction; returns its name in Kernel.labels."""
        labels, known = self._scopes[-1].labels, self.kernel.labels
        if name in labels:
            raise PtxSyntaxError(line, f"label {name} is defined twice")
        unique, number = name, 1
        while unique in known:
            number += 1
            unique = f"{name}:{number}"  # no name of PTX holds a colon
        labels[name] = unique
        known[unique] = len(self.kernel.instructions)
        return unique

    def branch(self, instruction: Instruction) -> None:
        """Note where a branch goes: to a label, or to one of the list behind a label."""
        if not instruction.opcode.startswith(("bra", "brx")):
            return
        target = instruction.operands[-1]
        assert isinstance(target, Symbol)

        def settle(unique: str) -> None:
            instruction.operands = (*instruction.operands[:-1], Symbol(unique))

        self._mention(target.name, instruction.line, settle)

    def targets(self, label: str, names: list[str], line: int) -> None:
        """The list behind a label, of .branchtargets."""
        lists = self.kernel.branch_lists
        lists[label] = tuple(names)
        for i, name in enumerate(names):

            def settle(unique: str, i: int = i) -> None:
                lists[label] = (*lists[label][:i], unique, *lists[label][i + 1 :])

            self._mention(name, line, settle)

    def _mention(self, name: str, line: int, settle: Callable[[str], None]) -> None:
        self._scopes[-1].mentions.append(_Mention(name, line, settle))
