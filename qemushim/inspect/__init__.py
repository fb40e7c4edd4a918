"""What people ask about a guest: where an argument comes from, who sits where, what is free, what Linux will call it.

Pure functions of a guest, an emulator and a host; each gives plain data that ``qemushim/cli`` prints.
"""
