"""The house rules that a program can check: who imports whom, how large things are, and what they are called.

Everything is read from the source with `ast`; nothing is imported.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "nem_jax").rglob("*.py"))
SOURCES = MODULES + sorted(path.relative_to(ROOT) for path in (ROOT / "experiments").rglob("*.py"))

LAYERS = {
    "types": 0,
    "distributions": 1,
    "corruption": 1,
    "partitions": 1,
    "metrics": 2,
    "em": 2,
    "losses": 2,
    "unrolling": 2,
    "model": 3,
    "rollouts": 3,
    "config": 4,
    "files": 4,
    "compilation": 4,
    "devices": 4,
    "errors": 4,
    "rendezvous": 4,
    "hosts": 5,
    "evaluation": 5,
    "provenance": 5,
    "weights": 5,
    "pretrained": 6,
    "training": 7,
}
"""A module imports lower layers; a package counts as one and imports itself."""

LEAVES = {
    "networks": ({"types", "networks"}, {"flax", "jax", "jaxtyping", "numpy"}),
    "data": ({"types", "data"}, {"chex", "h5py", "jax", "jaxtyping", "numpy", "sklearn"}),
    "plots": (set(), {"matplotlib", "numpy"}),
    "charts": ({"plots"}, {"matplotlib", "numpy"}),
}
"""Modules beside the layers: what they may import of this package, and of other libraries."""

EXCEPTIONS = {("rollouts", "model"), ("training", "plots")}
"""(module, import): a rollout goes on from a model's last step, and figures are drawn while training."""

CORE_LIBRARIES = {"chex", "jax", "jaxtyping", "numpy"}
STANDARD_LIBRARY = {
    "collections", "contextlib", "dataclasses", "enum", "functools", "gzip", "http", "itertools", "json", "math",
    "operator", "os", "pathlib", "types", "typing", "warnings", "zlib",
}  # fmt: skip
FORBIDDEN_IN_CORE = {"absl", "logging", "ml_collections", "os", "pathlib"}
OF_DEVICES = {
    "sharding", "shard_map", "psum", "pmean", "all_gather", "axis_index", "axis_size", "devices", "device_count",
    "device_put", "process_index", "process_count", "make_mesh", "local_devices", "local_device_count", "pmap", "pmax",
    "pmin", "ppermute", "pshuffle", "all_to_all", "psum_scatter", "with_sharding_constraint", "Mesh", "NamedSharding",
    "PartitionSpec",
}  # fmt: skip
DRAWERS = {"utils", "util", "common", "helpers", "misc"}
MAX_LINES, MAX_BODY, MAX_PARAMETERS = 300, 50, 8


def _tree(path):
    return ast.parse((ROOT / path).read_text())


def _part(path):
    """The part of the house that a file of nem_jax belongs to; '' is the front page."""
    return "" if path == Path("nem_jax/__init__.py") else path.with_suffix("").parts[1]


def _imports(path):
    """(parts of nem_jax, top-level names of other libraries) that a file imports, wherever it does."""
    own, others = set(), set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, *rest = name.split(".")
            if top == "nem_jax":
                own.add(rest[0] if rest else "")
            else:
                others.add(top)
    return own, others


def _functions(path):
    return [node for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _has_docstring(node):
    return ast.get_docstring(node) is not None


def _body_lines(path, function):
    """Lines of code, without signature, docstring, comments and blank lines."""
    body = function.body[1:] if _has_docstring(function) else function.body
    if not body:
        return 0
    lines = (ROOT / path).read_text().splitlines()[body[0].lineno - 1 : function.end_lineno]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


def _faults(paths, judge):
    """What `judge(path)` yields for every file, as lines for one message."""
    return [f"{path}: {fault}" for path in paths for fault in judge(path)]


def _ids(path):
    return path.as_posix()


def test_there_is_something_to_check():
    assert Path("nem_jax/em.py") in MODULES
    assert any(path.parts[0] == "experiments" for path in SOURCES)
    assert _imports(Path("nem_jax/em.py"))[0] == {"distributions", "types"}


@pytest.mark.parametrize("path", MODULES, ids=_ids)
def test_every_module_has_a_place_in_the_house(path):
    assert _part(path) in {"", *LAYERS, *LEAVES}, "give it a layer here, or move what it does to where it belongs"


@pytest.mark.parametrize("path", [path for path in MODULES if _part(path) in LAYERS], ids=_ids)
def test_a_layer_imports_lower_ones_only(path):
    """`networks` and `data` are not below the core: it gets them as arguments, only L4 and L5 know them by name."""
    part, (own, _) = _part(path), _imports(path)
    for imported in own - {part}:
        lower = LAYERS[imported] < LAYERS[part] if imported in LAYERS else imported in {"networks", "data"}
        known_by_name = imported in LAYERS or LAYERS[part] >= 4
        assert (lower and known_by_name) or (part, imported) in EXCEPTIONS, f"{part} imports {imported}"


@pytest.mark.parametrize("path", [path for path in MODULES if _part(path) in LEAVES], ids=_ids)
def test_leaves_import_types_and_their_libraries(path):
    own, libraries = LEAVES[_part(path)]
    imported, others = _imports(path)
    assert imported <= own
    assert others - STANDARD_LIBRARY <= libraries


@pytest.mark.parametrize("path", [path for path in MODULES if LAYERS.get(_part(path), 9) <= 3], ids=_ids)
def test_the_core_knows_no_framework_flags_logs_or_files(path):
    _, others = _imports(path)
    assert not others & FORBIDDEN_IN_CORE
    assert others - STANDARD_LIBRARY <= CORE_LIBRARIES


@pytest.mark.parametrize("path", [path for path in MODULES if LAYERS.get(_part(path), 9) <= 3], ids=_ids)
def test_the_core_knows_no_devices(path):
    names = {getattr(node, "attr", getattr(node, "id", None)) for node in ast.walk(_tree(path))}
    imported = {name.name for node in ast.walk(_tree(path)) if isinstance(node, ast.ImportFrom) for name in node.names}
    assert not (names | imported) & OF_DEVICES


def test_the_core_changes_no_global_setting():
    core = [path for path in MODULES if LAYERS.get(_part(path), 9) <= 3]
    assert not [path for path in core if "config.update" in (ROOT / path).read_text()]


def test_the_package_imports_no_experiment():
    assert not _faults(MODULES, lambda path: _imports(path)[1] & {"experiments", "tests"})


def test_sizes():
    def judge(path):
        lines = len((ROOT / path).read_text().splitlines())
        if lines > MAX_LINES:
            yield f"{lines} lines, at most {MAX_LINES}"
        for function in _functions(path):
            arguments = function.args
            parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            parameters = [parameter for parameter in parameters if parameter.arg not in ("self", "cls")]
            if len(parameters) > MAX_PARAMETERS:
                yield f"{function.name} has {len(parameters)} parameters, at most {MAX_PARAMETERS}"
            if _body_lines(path, function) > MAX_BODY:
                yield f"the body of {function.name} has {_body_lines(path, function)} lines, at most {MAX_BODY}"

    assert not _faults(SOURCES, judge)


def test_no_drawers():
    assert not [path for path in SOURCES if DRAWERS & set(path.with_suffix("").parts)]


def test_sequential_is_a_word_of_prose():
    """Static images and sequences take one path: no name, argument or value in the package tells them apart."""

    def judge(path):
        tree = _tree(path)
        for node in ast.walk(tree):
            # a string that is a statement is prose
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = ""
        for node in ast.walk(tree):
            for _, value in ast.iter_fields(node):
                if isinstance(value, str) and "sequential" in value.lower():
                    yield f"line {getattr(node, 'lineno', '?')}: {value!r}"

    assert not _faults(MODULES, judge)


LOOPS = {"scan", "while_loop", "fori_loop", "map", "associative_scan"}
"""Of jax.lax."""
MAY_LOOP = {
    "unrolling.py": "EM steps",
    "training/step.py": "training steps, and parts of a batch",
    "training/seeds.py": "seeds in sequence",
    "partitions.py": "the terms of a sum",
    "networks/convolution.py": "convolutions with kernels of their own",
}


def test_loops_are_where_they_are_known():
    """No second loop over EM steps, no second training loop."""

    def names(path):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Attribute) and node.attr in LOOPS and ast.unparse(node.value) in ("lax", "jax.lax"):
                yield node.attr
            elif isinstance(node, ast.ImportFrom) and node.module == "jax.lax":
                yield from (alias.name for alias in node.names if alias.name in LOOPS)

    assert {path.relative_to("nem_jax").as_posix() for path in MODULES if list(names(path))} == set(MAY_LOOP)


def test_public_functions_have_docstrings():
    def judge(path):
        for node in _tree(path).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not _has_docstring(node):
                yield f"{node.name} has no docstring"

    assert not _faults(MODULES, judge)
    assert not [path for path in MODULES if path.name != "__init__.py" and not _has_docstring(_tree(path))]
