"""Users' own code: one way to find it for metrics, operators and programs, and one line for whatever it does wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from optimizer.config.keys import Config
from optimizer.errors import CallError, MetricError, OptimizerError, ProgramError
from optimizer.study.job import open_program
from optimizer.user_code import load, load_function, user_code


def write(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(dedent(text))


def config(program: str) -> Config:
    return Config.model_validate(
        {
            "name": "mail",
            "task": {"inputs": {"message": ""}, "outputs": {"answer": {}}, "program": program},
            "data": {"source": "rows.jsonl"},
            "metric": "exact_match",
        }
    )


PROGRAM = """
import dspy
from {module}_help import SIGNATURE

def build():
    return dspy.Predict(SIGNATURE)

class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.only = build()

ready = Program()
number = 3

def fails():
    raise KeyError("no such\\nkey")

def leaves():
    raise SystemExit(4)

def returns_text():
    return "a program"
"""


@pytest.mark.parametrize("name", ["build", "Program", "ready"])
def test_a_program_is_a_module_its_class_or_a_function_that_makes_it(tmp_path: Path, name: str) -> None:
    """All three are understood; neighbours are found beside the configuration, and only during the import."""
    module = f"own_program_{name.lower()}"
    write(tmp_path, module, PROGRAM.format(module=module))
    write(tmp_path, f"{module}_help", "SIGNATURE = 'message -> answer'")
    program = open_program(config(f"{module}:{name}"), folder=tmp_path)
    assert len(program.specs) == 1
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bild", r"'bild' does not exist in module 'MODULE'\. Did you mean 'build'\?"),
        ("number", r"'MODULE:number' gave 'int', a dspy\.Module is needed"),
        ("returns_text", r"'MODULE:returns_text' gave 'str', a dspy\.Module is needed"),
        ("fails", r"'MODULE:fails': raised KeyError: .* \(MODULE\.py line 17\)"),
        ("leaves", r"'MODULE:leaves': raised SystemExit: 4"),
    ],
)
def test_a_program_that_cannot_be_opened_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    """The line names the key of the configuration, what came, and where."""
    module = f"bad_program_{name}"
    write(tmp_path, module, PROGRAM.format(module=module))
    write(tmp_path, f"{module}_help", "SIGNATURE = 'message -> answer'")
    with pytest.raises(ProgramError, match=rf"^task\.program: {message.replace('MODULE', module)}") as caught:
        open_program(config(f"{module}:{name}"), folder=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_at_all", r"ModuleNotFoundError: No module named 'nowhere_at_all' \(MODULE\.py line 1\)"),
        ("\nx = (", r"SyntaxError: '\(' was never closed \(MODULE\.py, line 2\)"),
        ("raise SystemExit('enough')", r"SystemExit: enough \(MODULE\.py line 1\)"),
        ("raise RuntimeError", r"RuntimeError: no message \(MODULE\.py line 1\)"),
        ("raise RuntimeError('x' * 5000)", r"RuntimeError: x{300} \(MODULE\.py line 1\)"),
    ],
)
def test_a_module_that_cannot_be_imported_says_where_it_broke(tmp_path: Path, text: str, message: str) -> None:
    """Type, message and the line of the user's file; none of Python's import machinery."""
    module = f"broken_module_{abs(hash(text)) % 10**8}"
    write(tmp_path, module, text)
    expected = message.replace("MODULE", module)
    with pytest.raises(ProgramError, match=rf"^search\.operators: '{module}:x' cannot be imported: {expected}$"):
        load(f"{module}:x", folder=tmp_path, where="search.operators")
    assert str(tmp_path) not in sys.path


def test_a_module_that_is_nowhere_says_where_was_looked(tmp_path: Path) -> None:
    """The missing part of a dotted name is named, with the folder if there is one."""
    with pytest.raises(ProgramError, match=rf"there is no module 'no_such' in '{tmp_path}' or among the installed"):
        load("no_such.part:x", folder=tmp_path, where="metric.name")
    with pytest.raises(ProgramError, match=r"there is no module 'json\.no_such' among the installed packages"):
        load("json.no_such:x", folder=None, where="metric.name")


@pytest.mark.parametrize("text", ["", ":", "a", "a:", ":b", "a:b:c", "a b:c", "a.:b", ".a:b", "a:b.c"])
def test_other_forms_are_refused(text: str) -> None:
    """Anything but dotted words, a colon and a word is refused before an import is tried."""
    with pytest.raises(ProgramError, match=r"must have the form package\.module:name"):
        load(text, folder=None, where="metric.name")


def test_the_name_of_a_file_is_answered_with_that_of_its_module() -> None:
    """`judge.py:score` is what many write first."""
    with pytest.raises(ProgramError, match=r"'judge\.py:score' names a file; write its module: 'judge:score'$"):
        load("judge.py:score", folder=None, where="metric.name")


def test_a_function_must_be_callable() -> None:
    """A constant is found by `load` and refused where a function is needed."""
    assert load("math:pi", folder=None, where="metric.name") > 3  # type: ignore[operator]
    assert load_function("math:floor", folder=None, where="metric.name")(2.5) == 2
    with pytest.raises(ProgramError, match=r"^metric\.name: 'pi' is no function in module 'math'\.$"):
        load_function("math:pi", folder=None, where="metric.name")


def test_another_folders_module_of_the_same_name_is_refused(tmp_path: Path) -> None:
    """Python keeps one module a name, so the second folder's program is never replaced by the first one's."""
    for folder in ("one", "two"):
        write(tmp_path / folder, "namesake_program", "import dspy\nbuild = dspy.Predict('message -> answer')\n")
    open_program(config("namesake_program:build"), folder=tmp_path / "one")
    with pytest.raises(
        ProgramError, match=r"^task\.program: a module 'namesake_program' is already loaded from '.*one"
    ):
        open_program(config("namesake_program:build"), folder=tmp_path / "two")


@pytest.mark.parametrize("error", [CallError("timeout", "late"), ProgramError("task.program: broken")])
def test_errors_raised_on_purpose_pass_the_border(error: OptimizerError) -> None:
    """Our own errors already say what they mean; so does a person's Ctrl-C."""
    with pytest.raises(type(error)) as caught, user_code(MetricError, "metric 'm'"):
        raise error
    assert caught.value is error
    with pytest.raises(KeyboardInterrupt), user_code(MetricError, "metric 'm'"):
        raise KeyboardInterrupt


def test_functions_find_the_modules_beside_their_own(tmp_path: Path) -> None:
    """What a function imports while it runs is found as at the top; what is not there is the function's matter."""
    write(tmp_path, "late_metric", "def score():\n    from late_help import value\n    return value()\n")
    write(tmp_path, "late_help", "def value():\n    import late_deep\n    return late_deep.VALUE\n")
    write(tmp_path, "late_deep", "VALUE = 7\n")
    write(tmp_path, "late_broken", "raise OSError('no card')\n")
    optional = "def score():\n    try:\n        import late_broken\n    except OSError:\n        return 3\n"
    write(tmp_path, "late_optional", optional)
    write(tmp_path, "late_tool", "import sys\nsys.exit(2)\n")
    (tmp_path / "late_data").mkdir()
    write(
        tmp_path,
        "late_script",
        "def score():\n    return 1\n\ndef main():\n    import late_tool\n    import late_data\n",
    )
    before = list(sys.path)
    assert load_function("late_script:score", folder=tmp_path, where="metric")() == 1
    load_function("late_script:main", folder=tmp_path, where="metric")
    assert "late_data" not in sys.modules
    assert load_function("late_metric:score", folder=tmp_path, where="metric")() == 7
    load_function("late_optional:score", folder=tmp_path, where="metric")
    assert sys.path == before
