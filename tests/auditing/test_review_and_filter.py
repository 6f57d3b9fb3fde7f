"""Decisions of people, and samples without those that are flagged."""

import csv
import json
import shutil

import jsonschema
import pytest

from mi_callback import audit
from mi_callback.auditing.reports.filtering import filter_samples
from mi_callback.auditing.reports.reviewing import review
from mi_callback.cli.record_commands import FILTER, REVIEW, VERIFY
from mi_callback.errors import DataError, OptionError, RecordError
from mi_callback.reporting.document import read_table, report_schema
from mi_callback.reporting.record import change_record, verify_record
from mi_callback.statistics.rates.remainder import certify_remainder


@pytest.fixture
def out(audited, tmp_path):
    shutil.copytree(audited[0], tmp_path / "report")
    return tmp_path / "report"


def report_of(out):
    report = json.loads((out / "report.json").read_text())
    jsonschema.validate(report, report_schema())
    return report


def flagged_rows(out):
    return [place for place, row in enumerate(read_table(out / "scores.csv")) if row.flag]


# Review


def test_a_decision_is_shown_and_recorded(out):
    first, second, *_ = flagged_rows(out)
    key = read_table(out / "scores.csv")[second].key
    before = report_of(out)
    assert review(out, first, "false_alarm", " Dr. <A> ", note="sub-01 looks alike").open == len(flagged_rows(out)) - 1
    review(out, key, "confirmed", "B")
    report, page = report_of(out), (out / "report.html").read_text()
    assert (report["reviews"]["false_alarm"], report["reviews"]["confirmed"]) == (1, 1)
    assert {one["by"] for one in report["reviews"]["decisions"]} == {"Dr. <A>", "B"}
    assert "Dr. &lt;A&gt;" in page
    assert "sub-01" not in page
    assert report["numbers"] == before["numbers"]  # a decision is no statistic
    assert verify_record(out).stands
    review(out, first, "open", "A")
    assert report_of(out)["reviews"]["false_alarm"] == 0


def test_decisions_survive_an_audit_of_the_same_images_in_another_order(out, people_folders, quick, tmp_path):
    place = flagged_rows(out)[0]
    key = read_table(out / "scores.csv")[place].key
    review(out, place, "false_alarm", "A")
    moved = tmp_path / "moved"
    for folder in ("train", "synthetic"):
        shutil.copytree(people_folders / folder, moved / folder)
    for path in (moved / "synthetic" / "=two").iterdir():
        path.rename(path.with_name(f"0-{9 - int(path.stem[-1])}.png"))
    (moved / "synthetic" / "<b>one").rename(moved / "synthetic" / "zero")
    audit(moved / "train", moved / "synthetic", people_folders / "held", out, size=32, power=0, evidence=0, **quick)
    again = [row.key for row in read_table(out / "scores.csv")]
    assert again.index(key) != place
    assert report_of(out)["reviews"]["decisions"][0]["key"] == key
    assert report_of(out)["reviews"]["false_alarm"] == 1
    assert not (out / "evidence").exists()
    assert verify_record(out).stands


@pytest.mark.parametrize(
    ("sample", "decision", "by", "error", "said"),
    [
        (99, "confirmed", "A", DataError, "needed the number of a sample, 0 to 19"),
        ("../x", "confirmed", "A", DataError, "or its key"),
        (-1, "confirmed", "A", DataError, "needed the number"),
        ("novel", "confirmed", "A", DataError, "needed a sample that is flagged"),
        (0, "maybe", "A", OptionError, r"needed decision out of \['confirmed', 'false_alarm', 'open'\]"),
        (0, "confirmed", " ", OptionError, "needed the name of who decides"),
    ],
)
def test_decisions_on_nothing_are_refused(out, sample, decision, by, error, said):
    if sample == "novel":
        sample = next(i for i in range(20) if i not in flagged_rows(out))
    with pytest.raises(error, match=said):
        review(out, sample, decision, by)


def test_nothing_is_decided_on_a_report_that_was_changed(out):
    (out / "report.json").write_text((out / "report.json").read_text().replace("memorized", "clean"))
    with pytest.raises(RecordError, match=r"report\.json: was changed"):
        review(out, flagged_rows(out)[0], "false_alarm", "A")


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
def test_a_decision_that_was_cut_short_is_finished_or_never_was(out, monkeypatch, killed_after):
    from mi_callback.reporting.record import changing

    steps = iter(range(10))

    def maybe(function):
        def step(*arguments):
            if next(steps) == killed_after:
                raise KeyboardInterrupt
            return function(*arguments)

        return step

    with monkeypatch.context() as patch:
        for name in ("replace_file", "append_entries", "_settle"):
            patch.setattr(changing, name, maybe(getattr(changing, name)))
        content = {"key": "k", "decision": "confirmed", "by": "A", "note": ""}
        with pytest.raises(KeyboardInterrupt):
            change_record(out, "review", content, {"report.html": b"new page", "report.json": b"{}"})
    assert verify_record(out).stands == (killed_after < 3)
    with changing.opened_record(out, "review"):
        pass
    assert verify_record(out).stands
    assert ((out / "report.json").read_bytes() == b"{}") == (killed_after == 3)
    assert not list(out.glob("*.next"))


# Filter


def test_flagged_samples_and_their_near_duplicates_are_taken_out(out):
    rows, found = read_table(out / "scores.csv"), filter_samples(out)
    groups = {row.group for row in rows if row.flag}
    listed = list(csv.DictReader((out / "released.csv").open()))
    assert [row["generated"] for row in listed] == [row.generated for row in rows if row.group not in groups]
    assert not any("copy" in row["generated"] for row in listed)
    assert found.removed == 20 - len(listed)
    filtered = report_of(out)["filtered"]
    assert filtered["kept"] == len(listed)
    assert found.statement == filtered["statement"]
    assert found.statement in (out / "report.html").read_text()
    assert verify_record(out).stands
    assert (out / "released.csv").stat().st_mode & 0o077 == 0


def with_power(out, found, images):
    """The same report as if so many of so many planted copies had been found."""
    report = report_of(out)
    report["power"] = None if images == 0 else report["power"] | {"found": found, "images": images}
    text = json.dumps(report).encode()
    change_record(out, "audit", {}, {"report.json": text, "scores.csv": (out / "scores.csv").read_bytes()})
    shutil.rmtree(out / "evidence")


def test_what_is_left_is_certified_by_what_the_detector_may_have_missed(out):
    with_power(out, 300, 300)
    rows, found = read_table(out / "scores.csv"), filter_samples(out)
    removed = len({row.group for row in rows if row.flag})
    limit = certify_remainder(removed, len({row.group for row in rows}), (300, 300))
    assert report_of(out)["filtered"]["missed_at_most"] == limit.missed_at_most == 1
    assert found.statement.startswith(
        f"At most 1 of the {len(found.kept)} samples that were not flagged are copies (95 %"
    )


@pytest.mark.parametrize(
    ("power", "said"),
    [
        ((0, 0), "No certificate can be given of what is left: the power was not measured"),
        ((0, 20), "No certificate can be given of what is left: needed a detector that finds planted copies"),
        ((3, 20), "any of it may be a copy that was missed"),
    ],
)
def test_without_power_there_is_no_certificate(out, power, said):
    with_power(out, *power)
    assert said in filter_samples(out).statement


def test_false_alarms_are_kept_when_asked_for_and_the_list_goes_with_the_decision(out):
    place = next(i for i in flagged_rows(out) if "copy" not in read_table(out / "scores.csv")[i].generated)
    review(out, place, "false_alarm", "A")
    least = len(filter_samples(out).kept)
    more = filter_samples(out, keep_false_alarms=True)
    assert len(more.kept) == least + 1
    assert "Beside them 1 flagged samples are kept by decision" in more.statement
    review(out, place, "open", "A")
    assert not (out / "released.csv").exists()
    assert verify_record(out).stands


# Commands


def test_commands_end_with_their_codes(out, capsys):
    place = flagged_rows(out)[0]
    assert VERIFY.execute([str(out)]) == 0
    seal = capsys.readouterr().out.split()[-1]
    assert REVIEW.execute([str(out), f"sample={place}", "decision=confirmed", "by=Dr. Ä, B. (x=1)"]) == 0
    assert FILTER.execute([str(out)]) == 0
    assert VERIFY.execute([str(out), f"seal={seal}"]) == 0
    assert VERIFY.execute([str(out), f"seal={seal[::-1]}"]) == 1
    assert REVIEW.execute([str(out)]) == 1
    assert FILTER.execute([]) == 1
    assert VERIFY.execute([str(out / "evidence")]) == 1
    (out / "scores.csv").write_bytes((out / "scores.csv").read_bytes()[:-1])
    capsys.readouterr()
    assert VERIFY.execute([str(out)]) == 1
    assert "changed: scores.csv: was changed" in capsys.readouterr().out
