"""Ids that stand where a patch's id could stand: patches themselves are counted from 0."""

CLS_ID = -1
"""The vision encoder's CLS token."""
PADDING_ID = -2
"""No token: fills rows of unequal length, and says that nothing happened."""
