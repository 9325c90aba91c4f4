"""What pyproject.toml cannot say: which folder of the repository is which package once installed.

Site-packages holds nothing but `flowcut` and `flowcut_lens`, so that no folder of ours stands in the way of a folder
called `app` or `analysis` beside somebody's script. `assets/` travels as the data of a package of its own: an installed
distribution carries the embedded model, the stored examples and the page's style, as a checkout does.
"""

from setuptools import find_packages, setup

ABOVE_THE_LIBRARY = ["analysis", "app", "cli", "scenes"]
FOLDER_OF = {f"flowcut_lens.{folder}": folder for folder in ABOVE_THE_LIBRARY}


def packages_in(*folders: str) -> list[str]:
    """The packages in these folders of the repository, under their names there."""
    return find_packages(include=[*folders, *(f"{folder}.*" for folder in folders)])


setup(
    packages=[
        *packages_in("flowcut"),
        *(f"flowcut_lens.{package}" for package in packages_in(*ABOVE_THE_LIBRARY)),
        "flowcut.assets",
    ],
    package_dir={"flowcut.assets": "assets", **FOLDER_OF},
    package_data={
        "flowcut": ["py.typed", "_moved/**/*.py"],  # old module names: no package, but a place where `flowcut` looks
        "flowcut.assets": ["**/*"],
        "flowcut_lens.app": [".streamlit/config.toml", "**/*.css", "**/*.html", "**/*.js"],
    },
)
