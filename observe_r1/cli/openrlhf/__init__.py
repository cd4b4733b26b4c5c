"""The flags of the original release and of OpenRLHF; loaded only for a command line that has some."""
