"""Kernelspecs: what Jupyter finds, and never half of it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from kernels.environments import Generation
from kernels.kernelspecs import ALIAS, LAUNCHER, Shelf
from kernels.packages import Lock


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A shelf that does not exist yet."""
    return Shelf(tmp_path / "jupyter" / "kernels", tmp_path / "home")


def at(number: int, folder: Path = Path("/generations")) -> Generation:
    """A generation; its folder is not needed."""
    return Generation(number, folder / str(number), Lock(""))


def manager(shelf: Shelf) -> KernelSpecManager:
    """Jupyter's own eyes."""
    return KernelSpecManager(kernel_dirs=[str(shelf.folder)], ensure_native_kernel=False)


def test_jupyter_lists_and_reads_a_generation(shelf: Shelf) -> None:
    assert shelf.put(at(7)) == "aigbb_functions_kernel_7"
    assert manager(shelf).find_kernel_specs() == {
        "aigbb_functions_kernel_7": str(shelf.folder / "aigbb_functions_kernel_7")
    }
    spec = manager(shelf).get_kernel_spec("aigbb_functions_kernel_7")
    assert spec.argv == [str(at(7).python), str(LAUNCHER), "-f", "{connection_file}"]
    assert spec.language == "python"
    assert spec.interrupt_mode == "signal"
    assert spec.env == {"AIGBB_KERNEL": "7", "AIGBB_GENERATION": "/generations/7"}
    assert "aigbb_functions_kernel_7" in spec.display_name
    assert LAUNCHER.exists()


def test_the_alias_points_at_the_newest(shelf: Shelf) -> None:
    shelf.put_alias(at(1))
    shelf.put_alias(at(2))
    spec = manager(shelf).get_kernel_spec(ALIAS)
    assert spec.argv[0] == str(at(2).python)
    assert spec.display_name == "aigbb functions (latest)"
    assert [path.name for path in shelf.folder.iterdir()] == [ALIAS]


def test_every_kernelspec_has_logos(shelf: Shelf) -> None:
    shelf.put(at(1))
    files = {path.name for path in (shelf.folder / at(1).kernel_name).iterdir()}
    assert "kernel.json" in files
    assert any(name.startswith("logo-") for name in files)


def test_a_kernelspec_is_replaced_whole(shelf: Shelf) -> None:
    shelf.put(at(1, Path("/old")))
    (shelf.folder / at(1).kernel_name / "left-over.txt").touch()
    shelf.put(at(1, Path("/new")))
    assert manager(shelf).get_kernel_spec(at(1).kernel_name).argv[0] == str(at(1, Path("/new")).python)
    assert not (shelf.folder / at(1).kernel_name / "left-over.txt").exists()
    assert [path.name for path in shelf.folder.iterdir()] == [at(1).kernel_name]


def test_pruning_deletes_what_is_not_kept(shelf: Shelf) -> None:
    for number in (1, 2, 3):
        shelf.put(at(number))
    shelf.put_alias(at(3))
    shelf.prune({at(2).kernel_name})
    assert set(manager(shelf).find_kernel_specs()) == {at(2).kernel_name, ALIAS}


def test_pruning_leaves_the_kernelspecs_of_others_alone(shelf: Shelf, tmp_path: Path) -> None:
    Shelf(shelf.folder, tmp_path / "another home").put(at(1))
    hands_on = {
        "aigbb_functions_kernel_mine": '{"metadata": {"aigbb": {"home": "elsewhere"}}}',
        "aigbb_functions_kernel_null": '{"metadata": null}',
        "aigbb_functions_kernel_list": "[]",
        "aigbb_functions_kernel_text": '{"metadata": {"aigbb": "x"}}',
        "aigbb_functions_kernel_half": '{"argv": [',
        "aigbb_functions_kernel_raw": "\udc80",
        "python3": json.dumps({"metadata": {"aigbb": {"home": str(shelf.home)}}}),
    }
    for name, text in hands_on.items():
        (shelf.folder / name).mkdir()
        (shelf.folder / name / "kernel.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    shelf.prune(set())
    assert {path.name for path in shelf.folder.iterdir()} == {at(1).kernel_name, *hands_on}


def test_pruning_a_shelf_that_is_not_there_is_nothing(shelf: Shelf) -> None:
    shelf.prune(set())
    assert not shelf.folder.exists()


def test_a_kernelspec_is_never_half_written(shelf: Shelf) -> None:
    """Jupyter reads while we replace: it may find none for a moment, but never a part of one."""
    shelf.put(at(1))
    done = threading.Event()

    def replace_often() -> None:
        for _ in range(150):
            shelf.put(at(1))
        done.set()

    writer = threading.Thread(target=replace_often)
    writer.start()
    looks = 0
    while not done.is_set():
        try:
            spec = manager(shelf).get_kernel_spec(at(1).kernel_name)
        except (NoSuchKernel, FileNotFoundError):
            continue
        assert spec.argv[0] == str(at(1).python)
        looks += 1
    writer.join()
    assert looks
    assert [path.name for path in shelf.folder.iterdir()] == [at(1).kernel_name]


def test_a_failing_write_leaves_the_old_one(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.put(at(1))
    before = (shelf.folder / at(1).kernel_name / "kernel.json").read_text()
    monkeypatch.setattr("kernels.kernelspecs.LOGOS", shelf.folder / "nowhere")
    with pytest.raises(OSError, match="nowhere"):
        shelf.put(at(1, Path("/new")))
    assert (shelf.folder / at(1).kernel_name / "kernel.json").read_text() == before
    assert [path.name for path in shelf.folder.iterdir()] == [at(1).kernel_name]
