"The browser that the tests look at the site with: find one, or install one, or say plainly that there is none."
import os
import shutil
import subprocess
import sys


def find() -> str | None:
    "The path of a Chromium: on the PATH, or Playwright's own."
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name): return path
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p: path = p.chromium.executable_path
    return path if os.path.exists(path) else None


def install() -> None:
    "Debian's package where we may, Playwright's own elsewhere."
    debian = ["sh", "-c", "apt-get update -qq && apt-get install -y -qq chromium"]
    playwright = [sys.executable, "-m", "playwright", "install", "chromium"]
    commands = [debian, playwright] if shutil.which("apt-get") and os.geteuid() == 0 else [playwright]
    for command in commands:
        print("no browser here: " + " ".join(command), flush=True)
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0 and find(): return


if __name__ == "__main__":
    if not find(): install()
    print(f"browser for the tests: {find() or 'NONE COULD BE INSTALLED: the browser tests will not run'}")
