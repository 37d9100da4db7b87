"""How modules may depend on each other, so that one stage can be changed without reading the others."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "optimizer"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
PURE = (
    "candidate", "records", "errors", "stats", "words", "word_diff",
    "prompts/spec", "prompts/formats", "prompts/parse", "prompts/kinds", "prompts/objects",
    "prompts/numbers", "prompts/marks",
    "data/splits", "init/task", "init/text", "init/even_split", "privacy/personal_data", "budget/room", "probe/advice",
    "search/race", "search/elite", "search/front", "search/patience", "review/finalists",
    "proof/shrinkage", "proof/verdict", "proof/slices", "proof/rules", "proof/insight", "proof/decay", "proof/ending",
    "proof/earlier", "proof/aim", "proof/labels", "data/balance", "init/column_words", "init/consent",
    "init/consent_names",
)  # fmt: skip
RUNS_CODE = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
HEAVY = {"dspy", "mlflow", "optuna", "datasets", "sqlalchemy", "xllamacpp", "litellm"}
EDGES = {
    "mlflow": {"track", "mlflow_optimizer"},
    "optuna": {
        "search.sampler",
        "search.optuna_study",
        "search.trial_storage",
        "search.trial_rows",
        "study.view",
        "study.saved",
        "study.session",
    },
    "xllamacpp": {"lm"},
    "datasets": {"data.rows"},
    "rich": {"cli"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "click": {"cli"},
    "python_calamine": {"data.spreadsheets"},
    "charset_normalizer": {"data.text_files"},
    "phonenumbers": {"privacy.personal_data"},
    "stdnum": {"privacy.personal_data"},
}
MAX_LINES = 300
LONGER = {"keys.py": 360, "session.py": 400, "records.py": 320}  # two tables; the verbs of the loop


def imports(path: Path, *, at_top_only: bool = False) -> set[str]:
    """Return the dotted names of what a module imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_top_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def stages(path: Path) -> set[str]:
    """Return the module's name, and that of the package it is in."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return {".".join(parts[:n]) for n in range(1, len(parts) + 1)}


def test_pure_modules_do_no_io() -> None:
    """What decides and what records knows nothing of databases, models, terminals or clocks."""
    for name in PURE:
        found = {each.partition(".")[0] for each in imports(PACKAGE / f"{name}.py")}
        assert not found & (HEAVY | {"time", "threading", "pathlib", "os", "rich", "click"}), name


@pytest.mark.parametrize("library", EDGES)
def test_each_library_is_met_in_one_place(library: str) -> None:
    """A third-party library is imported by its own adapter and nowhere else."""
    users = [path for path in MODULES if any(name.partition(".")[0] == library for name in imports(path))]
    assert users
    assert all(stages(path) & EDGES[library] for path in users)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_reading_a_file_runs_no_code(path: Path) -> None:
    """Nothing is unpickled or evaluated: what a study, an export or a configuration holds stays data."""
    assert not {name.partition(".")[0] for name in imports(path)} & RUNS_CODE
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"eval", "exec", "compile", "__import__"}


def test_imports_form_no_cycle() -> None:
    """Following imports at the top of modules never leads back."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
    graph = {name: imports(path, at_top_only=True) & set(names) - {name, "optimizer"} for name, path in names.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for other in sorted(graph[name]):
                if not other.startswith(f"{name}."):  # a package may re-export its own parts
                    visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert len(done) == len(MODULES)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_readable(path: Path) -> None:
    """A module says what it is for and is short enough to be read at once."""
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    n_allowed = LONGER.get(path.name, MAX_LINES)
    assert len(text.splitlines()) <= n_allowed


def test_help_needs_no_heavy_import() -> None:
    """`optimizer --help` answers without loading DSPy, MLflow or Optuna."""
    code = (
        "import sys; sys.argv = ['optimizer', '--help']\n"
        "import optimizer.cli.main\n"
        "try: optimizer.cli.main.main()\n"
        "finally: print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "Examples:" in done.stdout
    assert not HEAVY & set(ast.literal_eval(done.stderr))


def test_commands_to_copy_begin_as_the_program_was_called() -> None:
    """A printed command with a name in it is led by `command_name`: under `uv run` the bare name is not found."""
    from optimizer.cli.options import ORDER

    bare = re.compile(rf"\boptimizer (?:{'|'.join(ORDER)}) ")
    for path in MODULES:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for node in (each for each in nodes if isinstance(each, ast.JoinedStr)):
            texts = [str(part.value) for part in node.values if isinstance(part, ast.Constant)]
            assert not any(map(bare.search, texts)), f"{path.name}:{node.lineno}"
