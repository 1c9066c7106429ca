"""How a model's output is made of flat values, as plain data: lists, tuples, dicts, and what has names like them."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Sequence
from typing import Any

from torch.utils import _pytree as pytree

from mpsearch.core.errors import BadInput


class Named(OrderedDict[str, Any]):
    """Values by name, which can also be asked for as attributes and by place, as the outputs of many libraries."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the output has {', '.join(self)}, not {name!r}") from None

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


def written(spec: pytree.TreeSpec) -> Any:
    """`spec` ready for JSON, leaves as their places. Raises `BadInput` where the output is something else."""
    return _written(pytree.tree_unflatten(list(range(spec.num_leaves)), spec))


def _written(tree: Any) -> Any:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        kind, items = "namedtuple", [[name, _written(item)] for name, item in zip(tree._fields, tree, strict=True)]
    elif type(tree) in (list, tuple):
        kind, items = type(tree).__name__, [_written(item) for item in tree]
    elif isinstance(tree, dict) and all(isinstance(key, str) for key in tree):
        kind = "dict" if type(tree) in (dict, OrderedDict) else "named"
        items = [[key, _written(item)] for key, item in tree.items()]
    else:
        raise BadInput(
            f"the model gives a {type(tree).__name__}, which cannot be written to a file; let it give tensors, lists, "
            "tuples, or dicts with texts as keys."
        )
    return {kind: items}


def restored(tree: Any, flat: Sequence[Any]) -> Any:
    """The output that `tree`, as `written` gave it, makes of `flat` values. Raises `ValueError` on anything else."""
    if type(tree) is int and 0 <= tree < len(flat):
        return flat[tree]
    match list(tree.items()) if isinstance(tree, dict) else None:
        case [("list", list(items))]:
            return [restored(item, flat) for item in items]
        case [("tuple", list(items))]:
            return tuple(restored(item, flat) for item in items)
        case [("dict" | "named" | "namedtuple" as kind, list(items))] if all(map(_is_pair, items)):
            pairs = [(name, restored(item, flat)) for name, item in items]
            if kind == "namedtuple":
                return namedtuple("Output", [name for name, _ in pairs])(*(value for _, value in pairs))
            return dict(pairs) if kind == "dict" else Named(pairs)
    raise ValueError(f"{tree!r:.60} is no output")


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)
