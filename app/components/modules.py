"""Components of the page whose script is a folder of ES modules.

Streamlit serves the folder (`asset_dir`) that a component's manifest names; the browser imports the entry from there,
and the entry imports its neighbours by relative paths. Streamlit itself looks for manifests in the `pyproject.toml` of
installed distributions only: an editable install whose import name is a namespace, as ours is, and a checkout that is
not installed have none that it finds. So the manifest is handed to it here, which holds however the app was installed.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.components.v2.get_bidi_component_manager import get_bidi_component_manager
from streamlit.components.v2.manifest_scanner import ComponentConfig, ComponentManifest

from flowcut import __version__

if TYPE_CHECKING:
    from streamlit.components.v2.types import ComponentRenderer, ComponentResult

DISTRIBUTION = "flowcut-lens"
SCRIPTS = "js"
"""The folder of a component's modules; its entry is called like the component."""


class ModuleComponent:
    """A component that is mounted by calling it, with the arguments of what `st.components.v2.component` returns."""

    def __init__(self, folder: Path, html: str, css: str | None = None) -> None:
        """Nothing is registered before the first mounting, when there is a server.

        Args:
            folder: the component's own; its name is the component's, and its `js/<name>.js` the entry.
            html: what the component's element holds to begin with.
            css: its style sheet.
        """
        self.folder, self.html, self.css = folder, html, css
        self._registering = threading.Lock()
        self._mount: ComponentRenderer | None = None

    @property
    def key(self) -> str:
        """The name that Streamlit knows the component by, and that its modules' addresses contain."""
        return f"{DISTRIBUTION}.{self.folder.name}"

    def __call__(self, **arguments: Any) -> ComponentResult:
        return self._registered()(**arguments)

    def _registered(self) -> ComponentRenderer:
        """What mounts it; registered once with each server, and by one visitor's thread only."""
        manager = get_bidi_component_manager()
        with self._registering:
            if self._mount is None or manager.get_component_asset_root(self.key) is None:
                config = ComponentConfig(self.folder.name, asset_dir=SCRIPTS)
                manager.register_from_manifest(ComponentManifest(DISTRIBUTION, __version__, [config]), self.folder)
                entry = f"{self.folder.name}.js"
                self._mount = st.components.v2.component(self.key, html=self.html, css=self.css, js=entry)
            return self._mount
