"""The house: layers, doors and no cycles, read from the imports with ast."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("hpse_dist", "cluster", "pipelines")

# Top may import anything in a later row and nothing in an earlier one; the groups of one row that
# are separate strings never import one another. A group is one or more modules or folders.
LAYERS: list[list[str]] = [
    ["pipelines"],
    ["cluster"],
    [
        "hpse_dist.run hpse_dist.watch hpse_dist.predict hpse_dist.checkup hpse_dist.use",
        "hpse_dist.layers",
        "hpse_dist.ledger",
        "hpse_dist.prepare",
        "hpse_dist.study hpse_dist.study_state hpse_dist.sweep",
    ],
    ["hpse_dist.planning"],
    [
        "hpse_dist.run_folder",
        "hpse_dist.feed",
        "hpse_dist.starting",
        "hpse_dist.examples",
        "hpse_dist.study_recipe",
    ],
    ["hpse_dist.recipe_checks"],
    ["hpse_dist.recipe hpse_dist.machine"],
    ["hpse_dist.train", "hpse_dist.probe", "hpse_dist.live_probe", "hpse_dist.whole_set"],
    ["hpse_dist.pace"],
    ["hpse_dist.guard", "hpse_dist.accounting"],
    [
        "hpse_dist.objectives hpse_dist.tasks",
        "hpse_dist.engine",
        "hpse_dist.checkpoint",
        "hpse_dist.log",
        "hpse_dist.data",
        "hpse_dist.synth",
        "hpse_dist.report",
        "hpse_dist.source hpse_dist.foreign",
    ],
    [
        "hpse_dist.optim",
        "hpse_dist.protocols",
        "hpse_dist.meter",
        "hpse_dist.checkpoint_files",
        "hpse_dist.compiling",
    ],
    [
        "hpse_dist.models",
        "hpse_dist.body",
        "hpse_dist.masking",
        "hpse_dist.metrics",
        "hpse_dist.views",
    ],
    ["hpse_dist.geometry"],
    [
        "hpse_dist.fields",
        "hpse_dist.records",
        "hpse_dist.stamps",
        "hpse_dist.installed",
        "hpse_dist.world",
        "hpse_dist.collectives",
        "hpse_dist.draws",
        "hpse_dist.constants",
        "hpse_dist.precision",
        "hpse_dist.config",
        "hpse_dist.arrays",
        "hpse_dist.disk",
        "hpse_dist.stopping",
    ],
    ["hpse_dist.safety"],
]
DOORS = {
    "yaml": {"hpse_dist.config"},
    "smplx": {"hpse_dist.body.model"},
    "anny": {"hpse_dist.body.free_body"},
    "trimesh": {"hpse_dist.synth.render"},
    "embreex": {"hpse_dist.synth.render"},
    "ffcv": {"hpse_dist.data.beton"},
    "xformers": {"hpse_dist.models.attention"},
    "timm": {"hpse_dist.models.timm_encoder"},
    "deepspeed": {"hpse_dist.engine.zero"},
    "torch._dynamo": {"hpse_dist.compiling"},
    "torch._inductor": {"hpse_dist.compiling"},
    "tensorboard": {"hpse_dist.log"},
    "pycocotools": {"hpse_dist.metrics.average_precision"},
}
BANNED_NAMES = ("utils", "misc", "helper", "manager", "factory")


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@functools.cache
def imports(name: str) -> set[str]:
    """What `name` imports: our modules by file, others by their full dotted name."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            assert node.module
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found


def place(name: str) -> tuple[int, str] | None:
    """Row and group of one of our modules."""
    for row, groups in enumerate(LAYERS):
        for group in groups:
            for member in group.split():
                if name == member or name.startswith(member + "."):
                    return row, group
    return None


def test_every_module_has_a_place() -> None:
    homeless = [n for n in MODULES if place(n) is None and n != "hpse_dist"]
    assert not homeless, f"not in the layers of the house: {homeless}"


@pytest.mark.parametrize("name", [n for n in MODULES if place(n)])
def test_layers(name: str) -> None:
    row, group = place(name) or (0, "")
    for other in imports(name):
        there = place(other)
        if there is None:
            continue
        assert there[0] >= row, f"{name} imports {other}, which stands above it"
        assert there[0] > row or there[1] == group, f"{name} imports its sibling {other}"


def test_tasks_import_only_the_base_of_objectives() -> None:
    for name in MODULES:
        if name.startswith("hpse_dist.tasks"):
            of_objectives = {i for i in imports(name) if i.startswith("hpse_dist.objectives")}
            assert of_objectives <= {"hpse_dist.objectives.base"}, name
        if name.startswith("hpse_dist.objectives"):
            assert not {i for i in imports(name) if i.startswith("hpse_dist.tasks")}, name


@pytest.mark.parametrize("package", [*DOORS, "ray"])
def test_doors(package: str) -> None:
    users = {
        name
        for name in MODULES
        if any(i == package or i.startswith(package + ".") for i in imports(name))
    }
    if package == "tensorboard":
        users |= {
            n for n in MODULES if any(i.startswith("torch.utils.tensorboard") for i in imports(n))
        }
    if package == "ray":
        assert users, "nothing uses Ray"
        assert all(name.startswith("cluster") for name in users), users
    else:
        assert users <= DOORS[package], f"{package} is imported outside its door: {users}"


def test_what_is_slow_to_import_is_imported_by_those_who_use_it() -> None:
    """Every start of a worker waits for its imports, on two cores twice over."""
    code = "import sys, hpse_dist.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    late = {"ffcv", "numba", "timm", "torchvision", "deepspeed", "xformers", "tensorboard", "anny"}
    late |= {"torch._dynamo", "torch._inductor"}  # torch.compile's
    found = set(done.stdout.split())
    assert "torch" in found and not late & found


def test_rays_controller_imports_nothing_that_it_only_carries() -> None:
    """It starts before any worker does, and everyone waits for it."""
    code = "import sys, cluster.launch; print('ray' in sys.modules); "
    code += "import cluster.losses, cluster.trainer; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    late = {"hpse_dist.recipe", "hpse_dist.run_folder", "cluster.data_workers", "scipy", "torch"}
    early, *found = done.stdout.split()
    assert early == "False" and "cluster.connection" in found and not late & set(found)


def test_no_cycles() -> None:
    graph = {name: {i for i in imports(name) if i in MODULES} - {name} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' > '.join([*trail, name])}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_folders_are_at_most_two_deep_and_well_named() -> None:
    for name in MODULES:
        assert name.count(".") <= 3, f"{name} lies deeper than two folders"
        assert not set(name.split(".")) & set(BANNED_NAMES), name
