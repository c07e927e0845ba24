"""Evaluates a Terraform module as far as this repository's modules go, so that what it would create can be compared.

It is not Terraform: it plans nothing, knows no provider, and stops at the first expression that it does not know. What
a resource would be told only after its creation is a token, such as `<queue[A].arn>`.

Invariant: an instance that `instances` gives has no unevaluated expression in it.
"""

import json
import pathlib
import re

import hcl2
from lark import Token, Tree


class Unknown(Exception):
    """An expression outside what is evaluated here."""


class Reference:
    """A resource, or one instance of it, on the way to one of its attributes."""

    def __init__(self, module, kind, name=None, key=None):
        self.module, self.kind, self.name, self.key = module, kind, name, key

    def attribute(self, name):
        if self.name is None:
            return Reference(self.module, self.kind, name)
        self.module.check_reference(self.kind, self.name)
        key = "" if self.key in (None, 0) else f"[{self.key}]"
        return f"<{self.name}{key}.{name}>"

    def index(self, key):
        return Reference(self.module, self.kind, self.name, key)


def _flatten(lists):
    return [item for one in lists for item in (_flatten(one) if isinstance(one, list) else [one])]


FUNCTIONS = {
    "concat": lambda *lists: [item for one in lists for item in one],
    "contains": lambda items, item: item in items,
    "flatten": _flatten,
    "alltrue": lambda items: all(items),
    "can": lambda value: value is not None,
    "element": lambda items, index: items[int(index) % len(items)],
    "index": lambda items, item: items.index(item),
    "join": lambda by, items: by.join(items),
    "jsonencode": lambda value: json.dumps(value, separators=(",", ":"), sort_keys=True),
    "length": len,
    "lower": lambda text: text.lower(),
    "merge": lambda *maps: {key: value for one in maps for key, value in one.items()},
    "regex": lambda pattern, text: m.group() if (m := re.search(pattern, text)) else None,
    "startswith": lambda text, prefix: text.startswith(prefix),
    "substr": lambda text, start, length: text[start : start + length],
    "split": lambda by, text: text.split(by),
    "tonumber": lambda text: int(text),
    "toset": lambda items: sorted(set(items)),
    "tostring": lambda value: str(value),
}

OPERATORS = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def _children(tree):
    """What matters of a node: no punctuation, no comments."""
    skipped = ("new_line_or_comment",)
    return [child for child in tree.children if isinstance(child, Tree) and child.data not in skipped]


def _text(tree):
    """The text of a name, with or without quotes."""
    return "".join(str(token) for token in tree.scan_values(lambda _: True)).strip('"')


class Block:
    """One block: its labels, its attributes as expressions, and the blocks in it."""

    def __init__(self, tree):
        *labels, body = _children(tree)
        self.kind, *self.labels = [_text(label) for label in labels]
        self.attributes, self.blocks = {}, []
        for child in _children(body):
            if child.data == "attribute":
                name, expression = [part for part in child.children if isinstance(part, Tree)]
                self.attributes[_text(name)] = expression
            else:
                self.blocks.append(Block(child))


class Module:
    """The files of one folder, with `variables` given, and `data` for what its data sources would answer."""

    def __init__(self, folder, variables, data):
        files = sorted(pathlib.Path(folder).glob("*.tf"))
        trees = [hcl2.parses_to_tree(file.read_text()) for file in files]
        self.blocks = [Block(tree) for start in trees for tree in _children(_children(start)[0])]
        self.variables = {block.labels[0]: block for block in self.blocks if block.kind == "variable"}
        strangers = set(variables) - set(self.variables)
        assert not strangers, f"{folder} has no variables {sorted(strangers)}"
        self._locals = {name: it for block in self.blocks if block.kind == "locals" for name, it in block.attributes.items()}
        self.known = {(block.labels[0], block.labels[1]) for block in self.blocks if block.kind == "resource"}
        self._data = data
        self.values = {name: self.evaluate(block.attributes["default"], {}) for name, block in self.variables.items()
                       if "default" in block.attributes}
        self.values.update(variables)

    def check_reference(self, kind, name):
        assert (kind, name) in self.known, f"there is no resource {kind}.{name}"

    def required(self):
        """The variables without a default."""
        return {name for name, block in self.variables.items() if "default" not in block.attributes}

    def refusals(self):
        """The messages of all validations that the variables' values do not pass, and of preconditions."""
        messages = []
        for block in self.variables.values():
            for rule in block.blocks:
                if rule.kind == "validation" and not self.evaluate(rule.attributes["condition"], {}):
                    messages.append(self.evaluate(rule.attributes["error_message"], {}))
        return messages

    def outputs(self):
        return {b.labels[0]: self.evaluate(b.attributes["value"], {}) for b in self.blocks if b.kind == "output"}

    def instances(self, kind=None):
        """Every resource that would exist: its type, name, key, and arguments, nested blocks as lists."""
        for block in self.blocks:
            if block.kind != "resource" or kind not in (None, block.labels[0]):
                continue
            for key, scope in self._keys(block):
                yield block.labels[0], block.labels[1], key, self._body(block, scope)

    def instance(self, kind, name, key=None):
        (found,) = [body for _, other, at, body in self.instances(kind) if (other, at) == (name, key)]
        return found

    def _keys(self, block):
        if "for_each" in block.attributes:
            each = self.evaluate(block.attributes["for_each"], {})
            items = each.items() if isinstance(each, dict) else [(item, item) for item in each]
            return [(key, {"each": {"key": key, "value": value}}) for key, value in items]
        if "count" in block.attributes:
            return [(None, {"count": {"index": index}}) for index in range(self.evaluate(block.attributes["count"], {}))]
        return [(None, {})]

    def _body(self, block, scope):
        meta = ("for_each", "count", "depends_on")
        body = {name: self.evaluate(it, scope) for name, it in block.attributes.items() if name not in meta}
        for inner in block.blocks:
            if inner.kind == "dynamic":
                name = inner.labels[0]
                (content,) = [it for it in inner.blocks if it.kind == "content"]
                for value in self.evaluate(inner.attributes["for_each"], scope):
                    inside = {**scope, name: {"value": value}}
                    body.setdefault(name, []).append(self._body(content, inside))
            elif inner.kind != "lifecycle":
                body.setdefault(inner.kind, []).append(self._body(inner, scope))
        return {name: value for name, value in body.items() if value is not None}

    # Expressions

    def evaluate(self, tree, scope):
        evaluator = getattr(self, f"_{tree.data}", None)
        if evaluator is None:
            raise Unknown(f"{tree.data}: {_text(tree)}")
        return evaluator(tree, scope)

    def _expr_term(self, tree, scope):
        (child,) = _children(tree)
        return self.evaluate(child, scope)

    def _identifier(self, tree, scope):
        name = _text(tree)
        if name in scope:
            return scope[name]
        if name.startswith("aws_"):
            return Reference(self, name)
        roots = {"var": self.values, "local": self._locals, "data": self._data}
        if name not in roots:
            raise Unknown(f"the name {name}")
        return roots[name]

    def _get_attr_expr_term(self, tree, scope):
        of, attr = _children(tree)
        of, name = self.evaluate(of, scope), _text(_children(attr)[0])
        if isinstance(of, Reference):
            return of.attribute(name)
        value = of[name]
        return self.evaluate(value, {}) if of is self._locals else value

    def _index_expr_term(self, tree, scope):
        of, index = _children(tree)
        of, index = self.evaluate(of, scope), self.evaluate(_children(index)[0], scope)
        return of.index(index) if isinstance(of, Reference) else of[index]

    def _literal_value(self, tree, _):
        return {"true": True, "false": False, "null": None}[_text(tree)]

    def _int_lit(self, tree, _):
        return int(_text(tree))

    def _string(self, tree, scope):
        parts = []
        for part in _children(tree):
            (child,) = part.children
            if isinstance(child, Token):
                parts.append(json.loads(f'"{child}"').replace("$${", "${"))
            else:
                value = self.evaluate(_children(child)[0], scope)
                assert isinstance(value, (str, int)), f"{value!r} in a string"
                parts.append(str(value))
        return "".join(parts)

    def _tuple(self, tree, scope):
        return [self.evaluate(child, scope) for child in _children(tree)]

    def _object(self, tree, scope):
        result = {}
        for element in _children(tree):
            key, value = [child for child in element.children if isinstance(child, Tree)]
            key = key.children[0] if key.data == "object_elem_key" else key
            plain = isinstance(key, Tree) and key.data == "expr_term" and _children(key)[0].data == "identifier"
            result[_text(key) if plain else self.evaluate(key, scope)] = self.evaluate(value, scope)
        return result

    def _conditional(self, tree, scope):
        condition, yes, no = _children(tree)
        return self.evaluate(yes if self.evaluate(condition, scope) else no, scope)

    def _binary_op(self, tree, scope):
        left, term = _children(tree)
        operator, right = _children(term)
        operator, left = _text(operator), self.evaluate(left, scope)
        if operator in ("&&", "||"):
            return self.evaluate(right, scope) if bool(left) == (operator == "&&") else left
        return OPERATORS[operator](left, self.evaluate(right, scope))

    def _unary_op(self, tree, scope):
        (operand,) = _children(tree)
        value = self.evaluate(operand, scope)
        return not value if str(tree.children[0]) == "!" else -value

    def _function_call(self, tree, scope):
        name, *arguments = _children(tree)
        values = [self.evaluate(child, scope) for child in (_children(arguments[0]) if arguments else [])]
        if _text(name) not in FUNCTIONS:
            raise Unknown(f"the function {_text(name)}")
        if arguments and any(str(token) == "..." for token in arguments[0].children if isinstance(token, Token)):
            values = [*values[:-1], *values[-1]]
        return FUNCTIONS[_text(name)](*values)

    def _for(self, tree, scope):
        """The scopes of a `for`, less those that its condition leaves out, and the expressions in it."""
        intro, *rest = _children(tree)
        *names, source = _children(intro)
        conditions = [it for it in rest if it.data == "for_cond"]
        expressions = [it for it in rest if it.data != "for_cond"]
        source = self.evaluate(source, scope)
        pairs = list(source.items()) if isinstance(source, dict) else list(enumerate(source))
        scopes = []
        for key, value in pairs:
            names_here = [_text(name) for name in names]
            inside = {**scope, **dict(zip(names_here, [value] if len(names_here) == 1 else [key, value]))}
            if all(self.evaluate(_children(it)[0], inside) for it in conditions):
                scopes.append(inside)
        return scopes, expressions

    def _for_tuple_expr(self, tree, scope):
        scopes, (value,) = self._for(tree, scope)
        return [self.evaluate(value, inside) for inside in scopes]

    def _for_object_expr(self, tree, scope):
        scopes, (key, value) = self._for(tree, scope)
        return {self.evaluate(key, inside): self.evaluate(value, inside) for inside in scopes}
