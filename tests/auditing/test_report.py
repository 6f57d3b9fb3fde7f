"""The files of a report: what they say, to whom, and what is left when writing them is cut short."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from importlib.util import find_spec

import jsonschema
import pytest
import torch

from mi_callback import audit
from mi_callback.auditing.reports import outputs, writing
from mi_callback.cli.audit_command import _files
from mi_callback.errors import OptionError, OutputError, RecordError
from mi_callback.reporting.document import Release, build_report, render_page, report_schema
from mi_callback.reporting.record import read_log, verify_record

FILES = {
    "report.html",
    "report.json",
    "croissant.json",
    "scores.csv",
    "scores.parquet",
    "files.csv",
    "log.jsonl",
    "evidence",
    ".lock",
}


@pytest.fixture(scope="module")
def report(audited):
    return json.loads((audited[0] / "report.json").read_text())


@pytest.fixture(scope="module")
def page(audited):
    return (audited[0] / "report.html").read_text()


@pytest.fixture(scope="module")
def written(people_folders, quick, tmp_path_factory):
    """What an audit would write: folder, what was judged, context and evidence."""
    arguments: list = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "write_report", lambda *given: arguments.extend(given))
        where = [people_folders / name for name in ("train", "synthetic", "held")]
        audit(*where, tmp_path_factory.mktemp("new"), size=32, power=0, evidence=1, **quick)
    return arguments


class Texts(HTMLParser):
    """Text of a page, and its numbers with the places in the report that they are from."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.numbers: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        if tag == "data":
            found = dict(attributes)
            self.numbers.append((found["data-key"], found["value"], ""))

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, text):
        if self.open and self.open[-1] == "data":
            key, value, shown = self.numbers[-1]
            self.numbers[-1] = key, value, shown + text
        elif not {"style", "svg"} & set(self.open):
            self.texts.append(text)


def strings_of(value):
    """Every text and key in a report, and lists of numbers as they are written."""
    if isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from strings_of(item)
    elif isinstance(value, list):
        yield json.dumps(value)
        for item in value:
            yield from strings_of(item)
    elif isinstance(value, str):
        yield value


# What is said


def test_the_report_keeps_its_schema(report):
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(report, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report | {"verdict": "clean"}, schema)


def test_the_report_says_what_the_scores_say(report, audited):
    scores = audited[1]
    assert report["verdict"]["verdict"] == scores.verdict == "memorized"
    assert report["certificate"]["statement"] == scores.certificate().statement
    assert report["numbers"] | scores.summary() == report["numbers"]
    assert report["memorized"]["flagged"] == scores.n_flagged
    assert report["memorized"]["people"] == scores.matched_subjects
    assert report["memorized"]["most_copied"][0] == {"who": "person 1", "flagged": 2}
    assert [row["change"] for row in report["power"]["by_change"]] == list(scores.power.flagged)
    assert sum(row["flagged"] for row in report["subgroups"]) == scores.n_flagged
    assert sum(report["distribution"]["generated"]) == pytest.approx(1)
    assert sum(report["distribution"]["null"]) == pytest.approx(1)
    assert report["gate"]["passed"] is False
    assert {attack["name"] for attack in report["attacks"] if attack["status"] == "not run"} >= {
        "Attribute inference", "Exfiltration", "Model inversion", "Reconstruction"}  # fmt: skip


def test_every_number_on_the_page_is_that_of_the_report(report, page):
    found = Texts(page)
    assert len(found.numbers) > 100
    for key, value, shown in found.numbers:
        number = report
        for name in key.split("."):
            number = number[int(name)] if isinstance(number, list) else number[name]
        assert float(value) == number, key
        read = float(shown.rstrip(" %").replace("\u202f", ""))
        assert read == pytest.approx(100 * number if "%" in shown else number, abs=0.1 if "%" in shown else 0, rel=1e-3)
    known = "\n".join(strings_of(report))
    for text in found.texts:
        for word in re.findall(r"\S*\d\S*", text):
            assert word.strip(",.;()") in known or word in ("2024.", "2014.", "SHA-256"), text


def test_upper_limits_are_rounded_up_and_lower_ones_down(report):
    report["certificate"]["rate_upper"], report["numbers"]["rate_lower"] = 0.12301, 0.12399
    page = render_page(report)
    assert re.search(r'data-key="certificate.rate_upper">12\.4 %<', page)
    assert re.search(r'data-key="numbers.rate_lower">12\.3 %<', page)


def test_the_parquet_table_says_what_the_other_says_with_types_and_texts_as_they_are(audited):
    pandas = pytest.importorskip("pandas")
    out, scores = audited
    parquet, table = pandas.read_parquet(out / "scores.parquet"), pandas.read_csv(out / "scores.csv")
    assert list(parquet.columns) == list(table.columns)
    assert parquet["flagged"].tolist() == scores.flagged.tolist()
    assert parquet["p_value"].tolist() == scores.p_value.tolist()
    assert "=1+1" in set(parquet["match_subject"])
    assert parquet["generated"].tolist() == table["generated"].tolist()
    assert parquet["group"].dtype.kind == "i"


def test_without_pyarrow_there_is_no_parquet_table_and_that_is_said(written, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "scores.parquet").touch()  # of an earlier audit
    writing.write_report(tmp_path, *written[1:])
    assert not (tmp_path / "scores.parquet").exists()
    assert verify_record(tmp_path).stands
    assert any("no scores.parquet without pyarrow: pip install" in line for line in _files(tmp_path))


def test_the_metadata_of_the_samples_are_croissant(audited, report):
    if find_spec("mlcroissant") is None:
        pytest.skip("mlcroissant is not installed")
    path = audited[0] / "croissant.json"
    # In a process of its own: it takes the logging of this one over.
    source = (
        "import json, sys, mlcroissant; found = mlcroissant.Dataset(jsonld=json.load(open(sys.argv[1]))).metadata; "
        "said = found.data_limitations, found.personal_sensitive_information; "
        "print(json.dumps([list(found.ctx.issues.errors), *said]))"
    )
    ran = subprocess.run([sys.executable, "-c", source, str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    errors, limitations, information = json.loads(ran.stdout)
    assert not errors
    assert limitations == report["limits"] + report["threat_model"]
    assert report["certificate"]["statement"] in information
    assert report["data"]["generated"]["sha256"] in json.loads(path.read_text())["identifier"]


def test_a_changed_table_or_metadata_is_found(audited, tmp_path):
    for name in ("scores.parquet", "croissant.json"):
        out = tmp_path / name
        shutil.copytree(audited[0], out)
        (out / name).write_bytes((out / name).read_bytes() + b" ")
        assert verify_record(out).problems == [f"{name}: was changed"]


# To whom


def test_names_of_people_and_files_stand_in_the_table_alone(audited, report, page):
    out, scores = audited
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert len(rows) == len(scores)
    told = "".join((out / name).read_text() for name in ("report.json", "croissant.json", "log.jsonl")) + page
    for row in rows:
        assert row["match_subject"].lstrip("'") not in told
        assert row["generated"] not in told
        assert row["match"] not in told
    for name in ("copy<b>", "a.png", "sub-", str(out.parent)):
        assert name not in told


def test_texts_of_users_are_shown_as_text(page):
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;a&#39;)&lt;/script&gt; &amp; co" in page
    assert "<b>" not in page
    assert page.count("&lt;b&gt;one") >= 2  # a subgroup: in its table and its plot


def test_a_formula_in_a_cell_is_text(audited):
    rows = list(csv.DictReader((audited[0] / "scores.csv").open()))
    assert {row["match_subject"] for row in rows if "copy<b>3" in row["generated"]} == {"'=1+1"}


def test_the_page_loads_nothing(page):
    assert not re.search(r"""(?:src|href|action|data|poster)\s*=\s*["'](?!#|data:,)""", page)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_everything_is_open_to_its_owner_alone(audited):
    out = audited[0]
    paths = [out, *out.rglob("*")]
    assert {path.name for path in out.iterdir()} == FILES
    assert len(list((out / "evidence").iterdir())) == 3
    assert all(path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600) for path in paths)


def test_a_folder_that_was_open_is_closed_and_one_with_other_things_is_left(people_folders, quick, tmp_path):
    where = [people_folders / name for name in ("train", "synthetic", "held")]
    ours, shared = tmp_path / "ours", tmp_path / "shared"
    for folder in (ours, shared):
        folder.mkdir()
        folder.chmod(0o755)
        (folder / "summary.json").touch(0o644)
    (shared / "other.txt").touch()
    for folder in (ours, shared):
        audit(*where, folder, size=32, power=0, evidence=1, **quick)
        assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*") if path.name != "other.txt")
        assert not (folder / "summary.json").exists()
    assert ours.stat().st_mode & 0o777 == 0o700
    assert shared.stat().st_mode & 0o777 == 0o755


# Parts that may be missing


def test_what_was_not_measured_is_said_so(people_folders, quick, tmp_path):
    where = people_folders / "train", people_folders / "synthetic"
    audit(*where, out=tmp_path, size=32, power=0, evidence=0, **quick)
    report = json.loads((tmp_path / "report.json").read_text())
    jsonschema.validate(report, report_schema())
    page = (tmp_path / "report.html").read_text()
    assert report["power"] is None
    assert report["privacy_score"]["value"] is None
    assert report["data"]["held_out"] is None
    assert set(report["release"].values()) == {"not stated"}
    assert "The model itself is given away, or that is not excluded" in page
    assert "not measured" in page
    assert "none given" in page
    assert "Subgroups" not in page


def test_the_page_of_an_audit_that_nothing_can_be_said_of_is_written(people_folders, quick, tmp_path):
    where = people_folders / "train", people_folders / "synthetic", people_folders / "held"
    scores = audit(*where, out=tmp_path, size=32, power=0, evidence=0, **quick | {"alpha": 0.01})
    assert scores.verdict == "inconclusive"
    assert "rate_upper" not in json.loads((tmp_path / "report.json").read_text())["numbers"]
    page = (tmp_path / "report.html").read_text()
    assert "needs at least 99 held-out subjects" in page
    assert "none can be" in page
    assert 'data-key="memorized.flagged"' not in page  # a zero would read as clean


def test_members_against_non_members_are_shown_where_they_were_measured(report):
    assert "not_run" not in render_page(report)
    control = {"members_flagged": 8, "members_rate": 0.8, "non_members_flagged": 1, "non_members_rate": 0.1,
               "p_value": 0.03}  # fmt: skip
    contrast = {"p_value": 0.01, "least_p_value": 0.001, "closest_in_train": 0.9, "expected_in_train": 0.5,
                "people_leaked": 3, "fdr": 0.1}  # fmt: skip
    shown = report | {"control": control, "contrast": contrast}
    jsonschema.validate(shown, report_schema())
    page = render_page(shown)
    assert 'data-key="control.members_rate">80.0 %' in page
    assert 'data-key="contrast.closest_in_train">90.0 %' in page


def test_a_control_is_that_of_the_scores(written):
    _, judged, context, *_ = written
    scores = judged.scores
    nobody = replace(scores.flagging, flagged=torch.zeros(len(scores), dtype=torch.bool))
    report = build_report(replace(scores, control=nobody), context)
    jsonschema.validate(report, report_schema())
    control = report["control"]
    assert (control["members_flagged"], control["non_members_flagged"]) == (scores.n_flagged, 0)
    assert control["p_value"] < 0.05
    assert report["criteria"]["singling_out"]["control"] == 0
    assert report["attacks"][0]["status"] == "tested in part"
    unsure = replace(nobody, null=replace(nobody.null, difference="another scanner"))
    assert build_report(replace(scores, control=unsure), context)["control"] is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gives": "weights"}, r"needed release\.gives out of \['model', 'samples', 'both'\]"),
        ({"recipients": " "}, r"needed release\.recipients as a text; ' ' came"),
    ],
)
def test_releases_that_say_nothing_are_refused(options, said):
    with pytest.raises(OptionError, match=said):
        Release(**options)


def test_subgroups_need_folders(people_folders, quick, tmp_path):
    where = people_folders / "train", people_folders / "synthetic" / "=two"
    with pytest.raises(OptionError, match="needed 2 to 20 folders below"):
        audit(*where, out=tmp_path, subgroups=True, size=32, **quick)


# Cut short


def test_of_a_report_that_was_cut_short_nothing_old_is_left(
    audited, written, people_folders, quick, tmp_path, monkeypatch
):
    """Wherever it is killed there is no report, and the next audit leaves no trace of that."""
    where = [people_folders / name for name in ("train", "synthetic", "held")]
    for step in ("write_evidence", "append_entries", *range(6)):
        out = tmp_path / str(step)
        shutil.copytree(audited[0], out)
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            with pytest.raises(KeyboardInterrupt):
                writing.write_report(out, *written[1:])
        assert not (out / "report.json").exists()
        assert not verify_record(out).stands
        for left in ("scores.csv.part", "report.json.next", "evidence/evidence_0001.png.part", "film.part"):
            (out / "evidence").mkdir(exist_ok=True)
            (out / left).touch()
    audit(*where, out, size=32, power=0, evidence=1, **quick)
    assert verify_record(out).stands
    assert [path.name for path in [*out.rglob("*.part"), *out.rglob("*.next")]] == ["film.part"]  # of others


def kill_at(patch, step):
    if isinstance(step, str):
        patch.setattr(writing, step, raise_interrupt)
        return
    whole, left = writing.replace_file, [step]

    def replace_file(path, content):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        whole(path, content)

    patch.setattr(writing, "replace_file", replace_file)


def raise_interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_log_that_was_changed_is_not_continued(audited, people_folders, quick, tmp_path):
    out = tmp_path / "report"
    shutil.copytree(audited[0], out)
    log = out / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b"memorized", b"clean"))
    where = [people_folders / name for name in ("train", "synthetic", "held")]
    with pytest.raises(RecordError, match=r"needed an unbroken log\.jsonl; its line 1 is not what was written"):
        audit(*where, out, size=32, power=0, **quick)


def test_a_folder_that_cannot_be_written_is_an_error_before_anything_is_computed(people_folders, quick, tmp_path):
    (tmp_path / "file").touch()
    where = [people_folders / name for name in ("train", "synthetic", "held")]
    with pytest.raises(OutputError, match="needed to write into the folder"):
        audit(*where, tmp_path / "file" / "report", size=32, power=0, **quick)


def test_an_audit_is_logged_with_the_outcome_of_the_gate(audited):
    audit_entry, gate_entry = read_log(audited[0])
    assert (audit_entry.event, gate_entry.event) == ("audit", "gate")
    assert audit_entry.content["verdict"] == "memorized"
    assert gate_entry.content["passed"] is False
    assert [one["name"] for one in gate_entry.content["conditions"]] == ["rate_upper", "fdr"]
