"""The map in docs/code.md lists every module, and a module imports only modules below it: no imports are circular."""

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import pixel_snail

ROOT = Path(__file__).parents[1]
MAP = [
    line.split()[0]
    for line in (ROOT / "docs" / "code.md").read_text().partition("```text\n")[2].partition("```")[0].splitlines()
]
MODULES = [path for path in MAP if path.endswith(".py")]
PRIVATE = {
    # Private interfaces of TensorFlow and Keras (clusters, optimizers, layers), each with the only file that uses it.
    "tensorflow.python": "pixel_snail/parallel/multi_worker.py",
    "_collective_key_base": "pixel_snail/parallel/multi_worker.py",
    "_check_health_interval": "pixel_snail/parallel/multi_worker.py",
    "_check_health_retry_limit": "pixel_snail/parallel/multi_worker.py",
    "_check_health_timeout": "pixel_snail/parallel/multi_worker.py",
    "_initialize_local_devices": "pixel_snail/parallel/multi_worker.py",
    "_start_check_health_thread": "pixel_snail/parallel/multi_worker.py",
    "tf.__internal__": "pixel_snail/optimizer.py",
    "_backend_update_step": "pixel_snail/optimizer.py",
    "_distribution_strategy": "pixel_snail/optimizer.py",
    "_learning_rate": "pixel_snail/optimizer.py",
    "_flatten_layers": "pixel_snail/weights.py",
    "_omit_frequent_tracing_warning": "pixel_snail/sampling.py",
}
OF_PYTHON = {"_Unpickler", "_asdict", "_get_help_string", "_make", "_option_string_actions", "_replace"}
"""Names with an underscore that Python's own library has, for named tuples, pickles and argparse."""


def test_the_map_names_every_module_once():
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in ("data", "pixel_snail")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py" or path.parent.parent == ROOT
    ]
    assert sorted(MODULES) == sorted([*found, "train.py", "eval.py"])
    assert [path for path in MAP if path not in MODULES] == ["benchmarks/", "docs/", "examples/", "tests/"]


def test_the_readmes_short_map_names_modules_and_folders_that_exist():
    lines = (ROOT / "README.md").read_text().partition("```text\n")[2].partition("```")[0].splitlines()
    assert 10 < len(lines) <= 30
    for line in lines:
        first, *others = line[:40].split(", ")
        folder = (ROOT / first.strip()).parent
        assert (ROOT / first.strip()).exists() and all((folder / other.strip()).exists() for other in others), line


def imported(path):
    """The modules of this repository that a module imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where they lead"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    candidates = {f"{name.replace('.', '/')}{ending}" for name in names for ending in (".py", "/__init__.py")}
    # Not the __init__.py of a package that contains the module: Python runs it anyway.
    packages = {f"{parent}/__init__.py" for parent in Path(path).parents}
    return {module for module in candidates - packages if module in MODULES}


@pytest.mark.parametrize("path", MODULES)
def test_a_module_imports_only_what_stands_below_it_on_the_map(path):
    upward = {module for module in imported(path) if MODULES.index(module) <= MODULES.index(path)}
    assert not upward


def test_the_library_never_imports_the_data_sets():
    for path in MODULES:
        if path.startswith("pixel_snail/"):
            assert not any(module.startswith("data/") for module in imported(path)), path


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_interface_is_used_in_one_file(name):
    word = re.compile(rf"(?<!\w){re.escape(name)}\b")
    assert [path for path in MODULES if word.search((ROOT / path).read_text())] == [PRIVATE[name]]


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def private_names_of_others(path):
    """The private attributes and keywords in a module that the module does not define itself."""
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text())))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute) and is_private(node.attr)]
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    of_self = [node for node in attributes if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")]
    own |= {node.attr for node in of_self if isinstance(node.ctx, ast.Store)}
    used = {node.attr for node in attributes if node not in of_self or node.attr not in own}
    keywords = {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg and is_private(node.arg)}
    asked = {
        node.args[1].value
        for node in nodes
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr", "delattr")
        if isinstance(node.args[1], ast.Constant) and is_private(node.args[1].value)
    }
    return (used | keywords | asked) - OF_PYTHON


@pytest.mark.parametrize("path", MODULES)
def test_a_private_name_of_another_library_is_in_the_list(path):
    assert private_names_of_others(path) <= {name for name, user in PRIVATE.items() if user == path}


def test_no_other_private_method_of_tensorflow_or_keras_is_overridden():
    overridden = set()
    for path in MODULES:
        if not path.startswith("pixel_snail/"):
            continue
        module = importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        for class_ in vars(module).values():
            if not isinstance(class_, type) or class_.__module__ != module.__name__:
                continue
            bases = [base for base in class_.__mro__ if base.__module__.partition(".")[0] in ("keras", "tensorflow")]
            private = filter(is_private, vars(class_))
            overridden |= {name for name in private if any(name in vars(base) for base in bases)}
    assert overridden <= PRIVATE.keys()


def test_modules_are_short():
    lines = {path: len((ROOT / path).read_text().splitlines()) for path in MODULES}
    assert max(lines.values()) <= 600
    assert sum(number <= 300 for number in lines.values()) > 0.8 * len(lines)


def test_the_library_needs_what_the_requirements_install():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [line.partition("  #")[0] for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert set(project["dependencies"]) <= set(requirements)


def test_the_version_has_one_home_which_setuptools_reads_without_an_import():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "pixel_snail.__version__"}
    statements = ast.parse((ROOT / "pixel_snail" / "__init__.py").read_text()).body
    (version,) = (
        ast.literal_eval(statement.value)
        for statement in statements
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__"
    )
    assert re.fullmatch(r"\d+(\.\d+)+", version)
    assert pixel_snail.__version__ == version


def test_the_licence_and_the_citation_are_where_the_package_and_the_readme_say():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["license-files"], project["readme"]) == ("MIT", ["LICENSE"], "README.md")
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n\nCopyright (c) ")
    citation = (ROOT / "CITATION.cff").read_text()
    assert "cff-version: 1.2.0\n" in citation and "\npreferred-citation:\n" in citation
    readme = (ROOT / "README.md").read_text()
    assert "(LICENSE)" in readme and "(CITATION.cff)" in readme


def test_the_hosted_checks_run_what_anybody_runs():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert [line.strip() for line in text.splitlines() if " run:" in line] == ["- run: .ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert f'python: ["{oldest}", ' in text
    if importlib.util.find_spec("yaml"):
        yaml = importlib.import_module("yaml")
        workflow = yaml.safe_load(text)
        assert workflow[True] == ["push", "pull_request"]  # YAML 1.1 takes `on` for true
        assert {"run": ".ci/run"} in workflow["jobs"]["tests"]["steps"]
        yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_gpus_get_cudas_libraries_for_the_same_tensorflow():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (tensorflow,) = (line for line in project["dependencies"] if line.startswith("tensorflow~"))
    expected = tensorflow.replace("tensorflow", "tensorflow[and-cuda]")
    assert project["optional-dependencies"]["gpu"] == [expected]
    assert (ROOT / "requirements-gpu.txt").read_text().splitlines() == ["--requirement requirements.txt", expected]


def test_make_installs_cudas_libraries_where_they_are_asked_for_also_later(tmp_path):
    """Only what make would do is looked at."""
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "requirements-gpu.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())

    # `make GPU=1 test` hands its own settings to the programs that it starts.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "GPU"))}

    def planned(*arguments):
        command = ["make", "--dry-run", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    gpu, plain = "install --quiet --disable-pip-version-check --requirement requirements-gpu.txt", "-m venv .venv"
    assert plain in planned("demo") and gpu not in planned("demo") + planned("GPU=0", "demo")
    assert plain in planned("GPU=1", "demo") and gpu in planned("GPU=1", "demo")
    (tmp_path / ".venv").mkdir()
    for name in ("installed", "installed-dev"):
        (tmp_path / ".venv" / name).touch()
    for target in ("demo", "test"):
        assert plain not in planned("GPU=1", target) and gpu in planned("GPU=1", target)
        assert "install" not in planned(target)
    (tmp_path / ".venv" / "installed-gpu").touch()
    assert "install" not in planned("GPU=1", "demo")


def test_the_library_works_in_another_folder_beside_another_package_named_data(tmp_path):
    """Only the library can be imported, as for a user who has installed it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("raise ImportError('not the data sets of this program')")
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "pixel_snail").symlink_to(ROOT / "pixel_snail")
    program = """
        import os
        environment = dict(os.environ)
        from pixel_snail import Distribution, UserError, build, load, specs
        assert dict(os.environ) == environment
        import numpy as np
        import pixel_snail
        names = ["Binarized", "Distribution", "Mutated", "Reduced", "UserError", "build", "likelihood_ratio"]
        assert pixel_snail.__all__ == [*names, "load", "specs"]
        settings = {"nr_resnet": 1, "nr_filters": 4, "nr_logistic_mix": 2, "image_shape": (8, 8, 3)}
        checkpoint = f"{GOLDEN}/h6_shift/params_cifar.ckpt"
        model = load(checkpoint, model="h6_shift", **settings)
        images = np.random.default_rng(0).integers(0, 256, [3, 8, 8, 3], np.uint8)
        assert np.isfinite(model.bits_per_dim(images, verbose=0)).all()
    """
    program = f"GOLDEN = {str(ROOT / 'tests' / 'golden')!r}\n" + textwrap.dedent(program)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "library")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_keras_on_another_backend_is_told_in_one_line(tmp_path):
    """Other backends need not be installed: Keras is made to report one."""
    program = "import keras; keras.backend.backend = lambda: 'torch'; import pixel_snail"
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert told.startswith("ImportError: pixel_snail needs Keras on TensorFlow, but Keras already runs on torch: ")
