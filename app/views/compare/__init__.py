"""Compare: is FlowCut right here, or is it one more heat map?"""
