"""Models to choose from: those on this machine and those that can be had, with jobs, size, licence and speed here."""
