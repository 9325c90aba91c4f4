"""What pyproject.toml cannot say: `assets/` travels inside the wheel, as the data of a package of its own.

So an installed distribution carries the embedded model, the stored examples and the page's style, as a checkout does.
"""

from setuptools import find_packages, setup

ROOMS = ["flowcut", "analysis", "scenes", "app"]

setup(
    packages=[*find_packages(include=[*ROOMS, *(f"{room}.*" for room in ROOMS)]), "flowcut.assets"],
    package_dir={"flowcut.assets": "assets"},
    package_data={
        "flowcut": ["py.typed"],
        "flowcut.assets": ["**/*"],
        "app": [".streamlit/config.toml", "**/*.css", "**/*.html", "**/*.js"],
    },
)
