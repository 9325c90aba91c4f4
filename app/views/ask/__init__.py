"""Ask: what does the model see, and what may be thrown away?"""
