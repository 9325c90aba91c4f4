"""Models by name: weights, processor, device, dtype, memory."""
