"""What every page has at its side: picture, question, model, method, budget."""
