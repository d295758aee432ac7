"A JupyterLab of its own for tests: a notebook in a folder of its own, opened in a browser, and what went wrong there."
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import nbformat
from playwright.sync_api import Browser, Page

NEWS = "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
QUIET = {NEWS: {"fetchNews": "false", "checkForUpdates": False}}


@contextmanager
def server(folder: Path, imported: list[Path]):
    "The address of a server that shows a folder, with its settings and its log; its kernels import from others."
    for name, settings in QUIET.items():
        file = folder / "settings" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    short = tempfile.mkdtemp() # addresses of kernels have at most 107 characters
    own = {"JUPYTERLAB_SETTINGS_DIR": folder / "settings", "JUPYTER_CONFIG_DIR": folder / "config",
           "JUPYTER_RUNTIME_DIR": short, "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
           "PYTHONPATH": os.pathsep.join(map(str, imported)), "OMP_NUM_THREADS": "1"}
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", "--IdentityProvider.token=",
               "--KernelManager.transport=ipc", f"--ServerApp.root_dir={folder}"]
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stdout=file, stderr=file, cwd=folder,
                                   env={**os.environ, **{name: str(value) for name, value in own.items()}})
    try: yield _address(process, log)
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(short, ignore_errors=True)


def _address(process: subprocess.Popen, log: Path, seconds: float = 60) -> str:
    end = monotonic() + seconds
    while monotonic() < end and process.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text()): return found[0]
        sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()[-2000:]}")


def opened(browser: Browser, address: str, folder: Path, cells: list[str]) -> Page:
    "A notebook with these cells, run; the page notes what went wrong in `page.wrong`."
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, folder / "tour.ipynb")
    page = browser.new_context(viewport={"width": 1300, "height": 1000}).new_page()
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda said: page.wrong.append(said.text) if said.type == "error" else None)
    page.route(lambda url: not url.startswith(address), lambda route: route.abort())
    page.goto(f"{address}doc/tree/tour.ipynb")
    page.get_by_text("| Idle").wait_for(timeout=60000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    return page
