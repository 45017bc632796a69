"""The file of results: none twice, none lost, nobody else's touched."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from bench_helpers import pictures, tasks_of

from blindsr.bench.store import SCORES, Store
from blindsr.bench.task import Task
from blindsr.errors import UserError

DONE = {"status": "done", "psnr": 30.5, "steps": 3, "versions": {"torch": "2"}, "blur": float("nan"), "unknown": 1}
FAILED = {"status": "failed", "error": "no luck"}


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return tasks_of(pictures(tmp_path / "hr", ("a",)))[0]


def test_a_run_stands_once_and_a_finished_one_stays(tmp_path: Path, task: Task) -> None:
    path = tmp_path / "new" / "bench.sqlite"
    with Store(path) as store:
        assert store.add(task, FAILED)
        assert store.status() == {task.key: "failed"}
        assert store.add(task, DONE)
        assert not store.add(task, DONE | {"psnr": 1.0})
        assert not store.add(task, FAILED)
    with Store(path) as store:
        (record,) = store.records()
    assert (record["status"], record["psnr"], record["error"], record["blur"]) == ("done", 30.5, None, None)
    assert record["versions"] == {"torch": "2"} and record["settings"] == task.settings
    assert Task(**record["task"]) == task
    assert (record["data"], record["image"], record["scale"], record["degradation"]) == ("hr", "a", 2, "gaussian")
    assert record["kernel_seed"] == 0 and record["noise"] == 0.0 and record["method"] == "fast-map"


def test_the_database_itself_refuses_a_second_row(tmp_path: Path, task: Task) -> None:
    with Store(tmp_path / "bench.sqlite") as store:
        store.add(task, DONE)
    with sqlite3.connect(tmp_path / "bench.sqlite") as db:
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("INSERT INTO runs (key, status) VALUES (?, 'done')", (task.key,))
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("INSERT INTO runs (key, status) VALUES ('x', 'perhaps')")
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def test_ordinary_tools_read_it(tmp_path: Path, task: Task) -> None:
    with Store(tmp_path / "bench.sqlite") as store:
        store.add(task, DONE)
        db = sqlite3.connect(tmp_path / "bench.sqlite")
        kinds = {name: kind for _, name, kind, *_ in db.execute("PRAGMA table_info(runs)")}
        assert kinds["psnr"] == "REAL" and kinds["seed"] == "INTEGER" and kinds["label"] == "TEXT"
        assert set(SCORES) <= kinds.keys()
        (value,) = db.execute("SELECT AVG(psnr) FROM runs WHERE status = 'done' GROUP BY label, scale").fetchone()
        assert value == 30.5
        db.close()


def test_two_writers_do_not_double(tmp_path: Path, task: Task) -> None:
    other = replace(task, key="other")
    with Store(tmp_path / "bench.sqlite") as one, Store(tmp_path / "bench.sqlite") as two:
        assert one.add(task, DONE) and not two.add(task, DONE) and two.add(other, DONE)
        assert one.status() == two.status() == {task.key: "done", "other": "done"}
        assert [r["key"] for r in one.records([task.key])] == [task.key]


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    text, other = tmp_path / "text.sqlite", tmp_path / "other.sqlite"
    text.write_text("no database, though long enough to look like one " * 20)
    with pytest.raises(UserError, match="cannot be used as the database of results"):
        Store(text)
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE mine (x)")
    db.commit()
    before = other.read_bytes()
    with pytest.raises(UserError, match="not of blindsr bench; choose another --out"):
        Store(other)
    assert other.read_bytes() == before
    db.close()


def test_another_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bench.sqlite"
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(UserError, match="has layout 9, this version writes 1"):
        Store(path)
