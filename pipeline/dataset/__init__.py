"""The dataset: opened, its columns settled, its rows made samples."""
