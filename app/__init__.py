"""The FlowCut Lens page: Streamlit over flowcut, analysis and scenes."""
