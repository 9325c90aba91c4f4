"""Pictures and videos: opened, checked, and what was done to them said."""
