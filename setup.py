"Package metadata lives in settings.ini, which nbdev reads too; this hands it to setuptools."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="], interpolation=None)
config.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    author=settings["author"],
    license="MIT",
    python_requires=f">={settings['min_python']}",
    packages=find_packages(include=["uncpaper*"]),
    install_requires=settings["requirements"].split(),
    extras_require={extra: settings[f"{extra}_requirements"].split() for extra in ("dev", "bench")},
    entry_points={"console_scripts": settings["console_scripts"].split()},
)
