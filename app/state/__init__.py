"""What one visitor has chosen: session, selection, and the page's address."""
