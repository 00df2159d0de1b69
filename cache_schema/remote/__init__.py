"""Files behind a URL: asked for patiently, kept in a folder of bounded size."""
