"""What an audit shall write, and where."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_callback.auditing.effects import Rule
from mi_callback.auditing.reading import Folders
from mi_callback.auditing.reports.describing import describe, subgroups_of
from mi_callback.auditing.reports.writing import Judged, prepared_folder, write_report
from mi_callback.detector import MemorizationDetector
from mi_callback.reporting import collect_evidence
from mi_callback.reporting.document import Release
from mi_callback.reporting.record.junit import Case, write_junit
from mi_callback.statistics.gate import Gate, judge

EVIDENCE = 40
"""Flags that are drawn where nothing else is asked for."""


@dataclass(frozen=True)
class Outputs:
    """What an audit shall write; the attributes are arguments of `audit`."""

    out: Path | None
    junit: Path | None
    evidence: int | None
    set_scores: bool
    subgroups: bool
    gate: Gate | None
    release: Release | None

    @property
    def rules(self) -> list[Rule]:
        """When each of these has an effect."""
        asked = {
            "evidence": bool(self.evidence),
            "set_scores=True": self.set_scores,
            "subgroups=True": self.subgroups,
            "release": self.release is not None,
        }
        somewhere = self.out is not None or self.junit is not None
        return [
            *(Rule(option, wanted, self.out is not None, "out=DIR") for option, wanted in asked.items()),
            Rule("gate", self.gate is not None, somewhere, "out=DIR or junit=FILE"),
        ]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """See that all of it can be written, before anything is computed, and keep others from writing there.

        Raises:
            BusyError: If another process writes there.
            RecordError: If the log of an earlier report was changed.
            OutputError: If a folder or file cannot be written.
        """
        with nullcontext() if self.out is None else prepared_folder(self.out):
            if self.junit is not None:
                self.junit.unlink(missing_ok=True)  # an audit that fails must not leave what an earlier one said
            yield

    def check_subgroups(self, folders: Folders) -> None:
        """Refuse folders without subgroups where they are asked for, before anything is computed.

        Raises:
            OptionError: As `subgroups_of`.
        """
        if self.subgroups and folders.generated is not None:
            subgroups_of(folders.generated.slices, folders.generated.root)

    def write(self, fitted: MemorizationDetector, folders: Folders, judged: Judged, options: Mapping[str, Any]) -> None:
        """Write what was asked for.

        Args:
            fitted: The detector that judged.
            folders: What was read.
            judged: What was judged.
            options: Of the audit, for the report.

        Raises:
            RecordError: If the log of an earlier report was changed.
            OutputError: If something cannot be written.
        """
        gate = judge(judged.scores.findings, self.gate or Gate())
        if self.out is not None:
            assert folders.generated is not None
            others = fitted.set_scores(folders.generated) if self.set_scores else {}
            groups = subgroups_of(judged.generated, folders.generated.root) if self.subgroups else None
            release = self.release or Release()
            context = describe(fitted, folders, judged, self.out, options, gate, release, others, groups)
            most = EVIDENCE if self.evidence is None else self.evidence
            proofs = collect_evidence(fitted, folders.generated, judged.slices, most)
            write_report(self.out, judged, context, proofs, folders.files)
        if self.junit is not None:
            write_junit(self.junit, [Case(one.name, one.passed, one.said) for one in gate.conditions])
