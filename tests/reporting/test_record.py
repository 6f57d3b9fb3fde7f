"""A log in which nothing is changed unseen, and files that are whole."""

import json
from hashlib import sha256
from xml.etree import ElementTree

import pytest

from mi_callback.errors import OutputError, RecordError
from mi_callback.private_files import make_private, replace_file, sha256_of
from mi_callback.reporting.record import Decision, append_entries, read_log, reviews_of, verify_record
from mi_callback.reporting.record.junit import Case, write_junit


@pytest.fixture
def record(tmp_path):
    """A folder with two files and an annex, and the log that knows them."""
    (tmp_path / "evidence").mkdir()
    files = {"report.json": b"{}\n", "scores.csv": b"a,b\n1,2\n", "evidence/gallery.png": b"\x89PNG"}
    for name, content in files.items():
        replace_file(tmp_path / name, content)
    digests = {name: sha256(content).hexdigest() for name, content in files.items()}
    append_entries(tmp_path, [("audit", {"files": digests, "text": "ä <b>", "share": 0.1}), ("gate", {"passed": True})])
    return tmp_path


def test_each_line_holds_the_hash_of_the_one_before_and_its_own(record):
    append_entries(record, [("gate", {"passed": None})])
    previous = "0" * 64
    for number, line in enumerate((record / "log.jsonl").read_text().splitlines(), start=1):
        entry = json.loads(line)
        own = entry.pop("sha256")
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"))
        assert own == sha256(text.encode()).hexdigest()
        assert (entry["number"], entry["previous"]) == (number, previous)
        previous = own
    assert verify_record(record).seal == previous


@pytest.mark.parametrize("name", ["log.jsonl", "report.json", "scores.csv", "evidence/gallery.png"])
def test_every_changed_byte_is_found(record, name):
    path = record / name
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 150)):
        for changed in (bytes([whole[place] ^ 1]), b"", bytes([whole[place]]) * 2):
            path.write_bytes(whole[:place] + changed + whole[place + 1 :])
            (problem,) = verify_record(record).problems
            assert problem.startswith(f"{name}: ")
    for changed in (whole + b"\n", whole + b" ", whole[:-1], b""):
        path.write_bytes(changed)
        assert not verify_record(record).stands
    path.write_bytes(whole)
    assert verify_record(record).stands


def test_a_line_that_was_taken_out_or_moved_is_found(record):
    append_entries(record, [("gate", {"passed": False})])
    log = record / "log.jsonl"
    one, two, three = log.read_bytes().splitlines(keepends=True)
    for lines in ([two, three], [one, three], [two, one, three], [one, two, three, three]):
        log.write_bytes(b"".join(lines))
        assert not verify_record(record).stands


def test_a_log_that_was_written_anew_is_told_by_a_seal(record):
    seal = verify_record(record).seal
    append_entries(record, [("gate", {"passed": True})])
    assert verify_record(record, seal).stands  # of an earlier line
    (record / "log.jsonl").unlink()
    files = {name: sha256_of(record / name) for name in ("report.json", "scores.csv", "evidence/gallery.png")}
    append_entries(record, [("audit", {"files": files})])
    assert verify_record(record).stands
    assert verify_record(record, seal).problems[0].startswith("log.jsonl: no line of it has the seal")


def test_the_annex_may_be_kept_apart_but_not_in_part(record):
    (record / "evidence" / "more.png").touch()
    assert verify_record(record).problems == ["evidence/more.png: is not of this report: the log does not know it"]
    (record / "evidence" / "more.png").unlink()
    (record / "evidence" / "gallery.png").unlink()
    assert verify_record(record).problems[0].startswith("evidence/gallery.png: is missing")
    (record / "evidence").rmdir()
    found = verify_record(record)
    assert found.stands
    assert "evidence/ is not here" in found.notes[0]


def test_a_folder_without_a_log_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"needed the folder of a report.* holds no log\.jsonl"):
        verify_record(tmp_path)


def test_the_last_decision_counts(tmp_path):
    def decided(key, decision):
        return "review", {"key": key, "decision": decision, "by": "A", "note": ""}

    events = [decided("k", "false_alarm"), decided("l", "confirmed"), decided("k", "confirmed"), decided("l", "open")]
    found = reviews_of(append_entries(tmp_path, events))
    assert {key: one.decision for key, one in found.items()} == {"k": Decision.CONFIRMED}
    assert found["k"].time == read_log(tmp_path)[2].time


def test_files_are_replaced_whole_and_private(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch(0o644)
    path.with_name("file.part").touch(0o666)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=r"needed to write .*file; No space left on device\. Free space"):
        replace_file(path, b"newer")
    assert path.read_bytes() == b"new"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="needed to write into the folder"):
        make_private(tmp_path / "file", lambda _: True)


def test_a_gate_as_junit(tmp_path):
    cases = [Case("verdict", True, "clean"), Case("rate_upper", False, "3 < 4 & so on"), Case("fdr", None, "who knows")]
    write_junit(tmp_path / "gate.xml", cases)
    root = ElementTree.parse(tmp_path / "gate.xml").getroot()
    (suite,) = root
    assert suite.attrib | {"tests": "3", "failures": "1", "errors": "1"} == suite.attrib
    assert [[child.tag for child in case] for case in suite] == [["system-out"], ["failure"], ["error"]]
    assert suite[1][0].attrib["message"] == "3 < 4 & so on"
