"Package metadata lives in settings.ini, which nbdev reads too; this hands it to setuptools."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

top = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(top / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
EXTRAS = "reproduce", "cluster", "latent", "dev", "bench"
extras = {extra: settings[f"{extra}_requirements"].split() for extra in EXTRAS}

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    author=settings["author"],
    url=settings["git_url"],
    license="MIT",
    python_requires=f">={settings['min_python']}",
    classifiers=[f"Programming Language :: Python :: {version}" for version in settings["pythons"].split()],
    packages=find_packages(include=["uncpaper*"]),
    install_requires=settings["requirements"].split(),
    extras_require={**extras, "dev": extras["reproduce"] + extras["dev"]},
    entry_points={"console_scripts": settings["console_scripts"].split()},
)
