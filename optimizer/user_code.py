"""Code that users wrote: how `package.module:name` is found, and the border where whatever it raises becomes one line.

Decides where modules are looked for and what an error says. What the object found must be able to do (metric,
operator, program) is the caller's matter.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.machinery
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from optimizer.errors import MetricError, OptimizerError, ProgramError, did_you_mean

_MAX_MESSAGE_CHARS = 300
_OURS = Path(__file__).parent


def load(dotted: str, *, folder: Path | None, where: str) -> object:
    """Import what `package.module:name` names. `folder` leads `sys.path` during the import only.

    Args:
        where: the configuration key, which begins every message.

    Raises:
        ProgramError: the text has another form, the module cannot be imported, or it has no such name.
    """
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", dotted):
        raise ProgramError(f"{where}: {dotted!r} must have the form package.module:name")
    if ".py:" in dotted:
        raise ProgramError(f"{where}: {dotted!r} names a file; write its module: {dotted.replace('.py:', ':')!r}")
    module_name, _, name = dotted.partition(":")
    _refuse_namesake(module_name.partition(".")[0], folder, where)
    with user_code(ProgramError, f"{where}: {dotted!r}", verb=" cannot be imported:"), _leading_path(folder):
        module = _imported(module_name, folder)
        _import_neighbours(module, name, folder)
    if not hasattr(module, name):
        hint = did_you_mean(name, vars(module))
        raise ProgramError(f"{where}: {name!r} does not exist in module {module_name!r}.{hint}")
    found: object = getattr(module, name)
    return found


def load_function(dotted: str, *, folder: Path | None, where: str) -> Callable[..., object]:
    """As `load`, for something that can be called.

    Raises:
        ProgramError: as `load`, or it cannot be called.
    """
    found = load(dotted, folder=folder, where=where)
    if not callable(found):
        module_name, _, name = dotted.partition(":")
        raise ProgramError(f"{where}: {name!r} is no function in module {module_name!r}.")
    return found


@contextmanager
def user_code(failure: type[OptimizerError], where: str, *, verb: str = ": raised") -> Iterator[None]:
    """The border around users' code: whatever it raises becomes one line with place, type and message.

    Errors that we raise on purpose pass unchanged, except a `MetricError`, which is given its place.
    """
    try:
        yield
    except MetricError as error:
        raise failure(f"{where}: {_one_line(error)}") from error
    except OptimizerError:
        raise
    except (Exception, SystemExit) as error:  # foreign code may raise anything, even leave the program
        message = _one_line(error)[:_MAX_MESSAGE_CHARS] or "no message"
        raise failure(f"{where}{verb} {type(error).__name__}: {message}{place_of(error)}") from error


def _imported(module_name: str, folder: Path | None) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        place = f" in {str(folder)!r} or" if folder else ""
        raise ModuleNotFoundError(
            f"there is no module {error.name!r}{place} among the installed packages; check the spelling"
        ) from error


def _import_neighbours(module: ModuleType, name: str, folder: Path | None) -> None:
    """Import what a function will import from its folder when it runs, because that is off the path again by then.

    What cannot be imported now is left to the function, which may be ready for that.
    """
    if folder is None or (source := _source(module)) is None:
        return
    for wanted in _imports_of(name, ast.parse(source)):
        found = importlib.machinery.PathFinder.find_spec(wanted.partition(".")[0], [str(folder.resolve())])
        if wanted in sys.modules or found is None or found.origin is None:  # a folder of data is no module
            continue
        with contextlib.suppress(Exception, SystemExit):
            neighbour = importlib.import_module(wanted)
            for each in [name for name, value in vars(neighbour).items() if callable(value)]:
                _import_neighbours(neighbour, each, folder)


def _source(module: ModuleType) -> str | None:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):
        return None


def _imports_of(name: str, tree: ast.Module) -> list[str]:
    """Return the modules that a function or class imports inside, and those of its module that it names, likewise."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    made = {node.name: node for node in tree.body if isinstance(node, kinds)}
    wanted, seen, found = [name], set[str](), list[str]()
    while wanted:
        if (name := wanted.pop()) in seen or name not in made:
            continue
        seen.add(name)
        for node in ast.walk(made[name]):
            if isinstance(node, ast.Name):
                wanted.append(node.id)
            elif isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.append(node.module)
    return found


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def place_of(error: BaseException) -> str:
    """File and line of the user's code, as far as the traceback knows it; what it called of packages is passed over."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    own = [frame for frame in frames if not _is_package(frame.filename)]
    frames = own or frames
    return f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""


def _is_package(filename: str) -> bool:
    return "site-packages" in Path(filename).parts or Path(filename).is_relative_to(_OURS)


def _is_machinery(filename: str) -> bool:
    is_python = filename.startswith("<frozen ") or filename in (__file__, importlib.__file__)
    return is_python or {"site-packages", "dspy"} <= {*Path(filename).parts}


@contextmanager
def _leading_path(folder: Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    importlib.invalidate_caches()  # the file may be younger than the folder listing that Python remembers
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        if place in sys.path:  # the imported module may have changed the list itself
            sys.path.remove(place)


def _refuse_namesake(module_name: str, folder: Path | None, where: str) -> None:
    """Python keeps one module a name: rather than run another file's code, ask for another name."""
    loaded = getattr(sys.modules.get(module_name), "__file__", None)
    if folder is None or loaded is None:
        return
    spec = importlib.machinery.PathFinder.find_spec(module_name, [str(folder.resolve())])
    if spec and spec.origin and Path(spec.origin).resolve() != Path(loaded).resolve():
        raise ProgramError(
            f"{where}: a module {module_name!r} is already loaded from {loaded!r}; rename {spec.origin!r}"
        )
