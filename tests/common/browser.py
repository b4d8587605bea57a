"""Pages in headless Chromium, and what axe-core says of them, where a machine has both.

axe-core is `npm install --no-save axe-core` beside the sources, or the file that AXE_CORE names.
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = Path(os.environ.get("AXE_CORE") or Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js")
DARK = "--blink-settings=preferredColorScheme=0"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
needs_axe = pytest.mark.skipif(CHROMIUM is None or not AXE.is_file(), reason="no Chromium or no axe-core here")
WIDTH = """<body style="margin:0"><iframe id="f" style="border:0;width:{width}px;height:900px" src="{page}"></iframe>
<script>onload = () => {{
  const page = f.contentDocument, tables = [...page.querySelectorAll(".wide")];
  const broad = tables.filter(e => e.scrollWidth > e.clientWidth);
  const names = {width} < 1000 ? [] : broad.map(e => e.getAttribute("aria-label"));
  answer.textContent = JSON.stringify([page.documentElement.scrollWidth, names]);
}}</script><pre id="answer"></pre>"""
AXE_RUN = """<script>{axe}</script><script>
axe.run().then(found => {{
  const answer = document.createElement("pre");
  answer.id = "answer";
  answer.textContent = JSON.stringify(found.violations.filter(v => ["serious", "critical"].includes(v.impact))
    .map(v => `${{v.id}}: ${{v.nodes.map(n => n.html.slice(0, 120)).slice(0, 3).join(" | ")}}`));
  document.body.append(answer);
}});</script></body>"""


def run(page: Path, folder: Path, *options: str) -> str:
    """What Chromium prints of a page. folder: where it may keep its own files."""
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command = [str(CHROMIUM), *fixed, f"--user-data-dir={folder}/profile", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


def answer_of(text: str, folder: Path, *options: str):
    """The JSON that a page's own script leaves in its element `answer`."""
    page = folder / "asked.html"
    page.write_text(text, encoding="utf-8")
    dom = run(page, folder, "--dump-dom", "--virtual-time-budget=60000", *options)
    found = re.search(r'<pre id="answer">(.*?)</pre>', dom, re.DOTALL)
    assert found, "the page's script gave no answer"
    return json.loads(html.unescape(found[1]))


def width_at(page: Path, width: int, folder: Path) -> tuple[int, list[str]]:
    """How broad the page is in a window of this width, and on a desk which of its tables do not fit."""
    text = WIDTH.format(width=width, page=page.as_uri())
    broad, tables = answer_of(text, folder, "--window-size=1500,1000", "--hide-scrollbars")
    return broad, tables


def by_axe(page: Path, folder: Path, *, dark: bool = False) -> list[str]:
    """What axe-core calls serious or critical."""
    text = page.read_text(encoding="utf-8")
    text = text.replace("</body>", AXE_RUN.format(axe=AXE.read_text(encoding="utf-8")))
    return answer_of(text, folder, *([DARK] if dark else []))
