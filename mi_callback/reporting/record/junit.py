"""A gate as JUnit XML, which build servers read. It holds no names of files or people."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from mi_callback.private_files import replace_file


class Case(NamedTuple):
    """One condition of a gate.

    Attributes:
        name: Of the condition.
        passed: None where it cannot be decided, which is no pass.
        said: What was measured, in a sentence.
    """

    name: str
    passed: bool | None
    said: str


def write_junit(path: Path, cases: Sequence[Case]) -> None:
    """One test case a condition: a failure where it failed, an error where it cannot be decided.

    Raises:
        OutputError: If it cannot be written.
    """
    failures, errors = sum(case.passed is False for case in cases), sum(case.passed is None for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": str(errors)}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "mi-audit", **counts})
    for case in cases:
        element = ElementTree.SubElement(suite, "testcase", {"classname": "mi-audit", "name": case.name})
        if case.passed:
            ElementTree.SubElement(element, "system-out").text = case.said
        else:
            kind = "failure" if case.passed is False else "error"
            ElementTree.SubElement(element, kind, {"message": case.said})
    ElementTree.indent(root)
    replace_file(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
