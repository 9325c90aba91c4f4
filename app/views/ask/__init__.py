"""Ask: what does the model see, and what may be pruned?"""
