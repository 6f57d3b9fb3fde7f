"""The page of a report as a browser shows it: no error, no request, nothing cut off on a narrow screen."""

import json
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--hide-scrollbars")  # fmt: skip

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed to open the page in")


class Quiet(SimpleHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012  of the one server of this file

    def log_message(self, *_):
        self.asked.append(self.path)


@pytest.fixture
def address(audited):
    Quiet.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(audited[0])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def opened(folder, address, *flags):
    profile, network = folder / "profile", folder / "network.json"
    command = [BROWSER, *QUIET, f"--user-data-dir={profile}", f"--log-net-log={network}", "--enable-logging=stderr"]
    ran = subprocess.run([*command, *flags, f"{address}/report.html"], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran, json.loads(network.read_text())


def test_the_page_opens_without_an_error_and_asks_for_nothing(tmp_path, address):
    ran, network = opened(tmp_path, address, "--dump-dom")
    assert "CONSOLE" not in ran.stderr
    assert "Memorization audit" in ran.stdout
    assert Quiet.asked == ["/report.html"]
    requests = [event["params"] for event in network["events"] if "initiator" in event.get("params", {})]
    assert not [request for request in requests if request["initiator"] == address]


def test_nothing_is_wider_than_a_narrow_screen_and_the_page_prints(tmp_path, audited, address):
    # A script of the test, in a copy without the policy that forbids scripts, measures what the page takes.
    page = (audited[0] / "report.html").read_text()
    policy = page[page.index("<meta http-equiv") : page.index('<link rel="icon"')]
    frame = '<iframe id="f" width="400" height="800" src="copy.html"></iframe><script>f.onload = () => {'
    measure = "document.title = f.contentDocument.documentElement.scrollWidth}</script>"
    served = tmp_path / "served"
    served.mkdir()
    (served / "copy.html").write_text(page.replace(policy, ""))
    (served / "report.html").write_text(f"<!DOCTYPE html><title></title>{frame}{measure}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ran, _ = opened(tmp_path, f"http://127.0.0.1:{server.server_port}", "--dump-dom", "--virtual-time-budget=5000")
    server.shutdown()
    width = int(ran.stdout.partition("<title>")[2].partition("<")[0])
    assert 300 < width <= 400
    shutil.rmtree(tmp_path / "profile")
    opened(tmp_path, address, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
