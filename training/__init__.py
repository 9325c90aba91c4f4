"""How the embedded model was made: drawn scenes to disk, the tower, the language model, both together, evaluation."""
