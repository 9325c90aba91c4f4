"""Work beside the page's script runs: models, questions, studies, and who waits for them."""
