"""Write small changes ("mutants") of source files, one a line of JSON.

    python -m tests.mutation.make raydet/train/step.py raydet/labels/*.py > mutants.jsonl

Inside functions only, and not in docstrings, annotations, messages of errors and f-strings: an operator for another, a
comparison for its neighbours, `and` for `or`, a condition for its opposite, a number for the next ones, a keyword, a
statement, a filter, a slice's end or a method's call left out.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SYMBOLS: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
    ast.BitOr: "|", ast.BitAnd: "&", ast.BitXor: "^", ast.MatMult: "@", ast.LShift: "<<", ast.RShift: ">>",
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Is: "is",
    ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip
OTHERS = {
    "+": ("-", "*"), "-": ("+", "/"), "*": ("/", "+"), "/": ("*", "-"), "//": ("/", "*"), "%": ("*",), "**": ("*",),
    "|": ("&",), "&": ("|",), "^": ("&",), "@": ("*",), "<<": (">>",), ">>": ("<<",),
    "==": ("!=", ">="), "!=": ("==",), "<": ("<=", ">"), "<=": ("<", ">"), ">": (">=", "<"), ">=": (">", "<"),
    "is": ("is not",), "is not": ("is",), "in": ("not in",), "not in": ("in",),
}  # fmt: skip
PASSED_OVER = (ast.Raise, ast.Assert, ast.JoinedStr)


@dataclass(frozen=True, slots=True)
class Change:
    """Bytes `start` to `end` of a file become `text`; `line` is where."""

    line: int
    start: int
    end: int
    text: str


class Source:
    """A file's bytes, its syntax tree, and where in the bytes a node lies."""

    def __init__(self, code: bytes) -> None:
        self.code, self.tree = code, ast.parse(code)
        self._lines = [0]
        for line in code.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def start(self, node: Any) -> int:
        """Return where a node begins."""
        return int(self._lines[node.lineno - 1] + node.col_offset)

    def end(self, node: Any) -> int:
        """Return where a node ends."""
        return int(self._lines[node.end_lineno - 1] + node.end_col_offset)

    def replaced(self, node: Any, text: str) -> Change:
        """Return the change of a whole node."""
        return Change(node.lineno, self.start(node), self.end(node), text)

    def between(self, left: Any, right: Any, symbol: str, texts: tuple[str, ...]) -> Iterator[Change]:
        """Yield changes of the symbol that stands between two nodes."""
        first = self.end(left)
        gap = self.code[first : self.start(right)]
        place = gap.find(symbol.encode())
        if place >= 0 and b"#" not in gap:
            for text in texts:
                yield Change(left.lineno, first + place, first + place + len(symbol), text)

    def statement(self, line: int) -> tuple[int, int]:
        """Return the first and last line of the innermost statement, or head of a block, around a line."""
        blocks = (ast.If, ast.For, ast.While, ast.With)
        whole = (*blocks, ast.Try, ast.FunctionDef, ast.ClassDef)
        nodes = list(ast.walk(self.tree))
        spans = [
            (n.lineno, n.end_lineno or n.lineno) for n in nodes if isinstance(n, ast.stmt) and not isinstance(n, whole)
        ]
        spans += [(n.lineno, n.body[0].lineno - 1) for n in nodes if isinstance(n, blocks)]
        around = [span for span in spans if span[0] <= line <= span[1]]
        return min(around, key=lambda span: span[1] - span[0], default=(line, line))


def changes_of(source: Source, node: ast.AST) -> Iterator[Change]:
    """Yield the changes of one node, not of what is inside it."""
    match node:
        case ast.BinOp(left, operator, right):
            symbol = SYMBOLS[type(operator)]
            yield from source.between(left, right, symbol, OTHERS[symbol])
        case ast.AugAssign(target, operator, value):
            yield from source.between(target, value, f"{SYMBOLS[type(operator)]}=", ("=",))
        case ast.Compare(left, operators, others):
            for comparison, right in zip(operators, others, strict=True):
                symbol = SYMBOLS[type(comparison)]
                yield from source.between(left, right, symbol, OTHERS[symbol])
                left = right
        case ast.BoolOp(both, values):
            word, other = ("and", "or") if isinstance(both, ast.And) else ("or", "and")
            for left, right in zip(values, values[1:], strict=False):
                yield from source.between(left, right, word, (other,))
        case ast.UnaryOp(operand=operand) if not isinstance(operand, ast.Constant):
            yield Change(node.lineno, source.start(node), source.start(operand), "")
        case ast.Constant(bool() as value):
            yield source.replaced(node, str(not value))
        case ast.Constant(int() | float() as value):
            yield source.replaced(node, f"({value} + 1)")
            if value:
                yield source.replaced(node, f"({value} - 1)")
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield source.replaced(test, f"(not ({source.code[source.start(test) : source.end(test)].decode()}))")
        case ast.comprehension(ifs=tests):
            yield from (source.replaced(test, "True") for test in tests)
        case ast.Break() | ast.Continue():
            yield source.replaced(node, "continue" if isinstance(node, ast.Break) else "break")
        case ast.Expr(ast.Call()):
            yield source.replaced(node, "pass")
        case ast.Call():
            yield from _of_call(source, node)
        case ast.Slice(lower, upper):
            yield from (source.replaced(part, "") for part in (lower, upper) if part is not None)


def _of_call(source: Source, call: ast.Call) -> Iterator[Change]:
    items = sorted([*call.args, *call.keywords], key=source.start)
    for keyword in call.keywords:
        number = items.index(keyword)
        first = source.end(items[number - 1]) if number else source.start(keyword)
        last = source.end(keyword) if number or len(items) == 1 else source.start(items[1])
        if keyword.arg is not None:
            yield Change(call.lineno, first, last, "")
    if isinstance(call.func, ast.Attribute) and not items:
        yield Change(call.lineno, source.end(call.func.value), source.end(call), "")


def walk(source: Source, node: ast.AST, inside: bool = False) -> Iterator[Change]:
    """Yield the changes of a node and of all inside it that are part of a function's body."""
    if isinstance(node, PASSED_OVER):
        return
    if inside:
        yield from changes_of(source, node)
    if isinstance(node, ast.FunctionDef):
        has_doc = ast.get_docstring(node) is not None
        children: list[ast.AST] = list(node.body[1:] if has_doc else node.body)
    elif isinstance(node, ast.AnnAssign):
        children = [] if node.value is None else [node.value]
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from walk(source, child, inside or isinstance(node, ast.FunctionDef))


def mutants(file: str) -> Iterator[dict[str, Any]]:
    """Yield a file's mutants: what parses, and differs from the file and from each other."""
    source, seen = Source(Path(file).read_bytes()), set()
    plain = ast.dump(source.tree)
    for change in walk(source, source.tree):
        code = source.code[: change.start] + change.text.encode() + source.code[change.end :]
        try:
            tree = ast.dump(ast.parse(code))
        except SyntaxError:
            continue
        if tree == plain or tree in seen:
            continue
        seen.add(tree)
        first, last = source.code.rfind(b"\n", 0, change.start) + 1, source.code.find(b"\n", change.end)
        after = source.code[first : change.start] + change.text.encode() + source.code[change.end : last]
        said = {"old": source.code[first:last].decode().strip(), "new": after.decode().strip()}
        yield {"file": file, "lines": source.statement(change.line), **said, "code": code.decode()}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for mutant in mutants(name):
            print(json.dumps(mutant))
