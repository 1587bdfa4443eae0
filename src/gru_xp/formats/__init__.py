"""Files and foreign layouts of parameters."""
