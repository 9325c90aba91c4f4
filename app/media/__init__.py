"""What people bring and what is shown: pictures, videos, the gallery."""
